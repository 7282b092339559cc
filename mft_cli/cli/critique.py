"""`mft critique`: its help, its options and what it calls."""

from __future__ import annotations

from mft_cli.cli.job import requeueing
from mft_cli.cli.options import composed
from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.errors import UserError
from mft_cli.slurm.requeue import inside_job


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import critique_config

    composed("critique", arguments, critique_config, run_critique)


def run_critique(config: CritiqueRunConfig) -> None:
    """One run of `mft critique`. Raises UserError, Stopped."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("mft critique launch=slurm runs inside a job; submit one with sbatch")
    with requeueing(config.launch):
        from mft_cli.critique.run import critique_run

        critique_run(config)


HELP = """mft critique: training data for method=masked_critique

  mft critique model=smollm2_135m data=gsm8k solutions.samples=4 teacher.model.path=<folder>
  mft critique model=smollm2_135m data=gsm8k teacher.eval.engine=api \\
      teacher.eval.api.base_url=https://host/v1 teacher.eval.api.model=NAME teacher.eval.api.key_env=MY_KEY
  mft critique ... solutions.questions=100 budget.requests=500 budget.tokens=400000
  mft critique ... csv=true row_prompt.template='...' prompt@teacher.prompt=mine

The base model samples solutions, the teacher criticises each and answers again, the answer is compared with the gold one.
A killed run goes on where it was; a larger budget goes on in the same folder.
Writes train.jsonl, malformed.jsonl, provenance.json into outputs/critique-...; then
  mft train method=masked_critique data=critique data.sources.critique.path=outputs/critique-.../train.jsonl
Groups (choose with group=option): {groups}
"""
