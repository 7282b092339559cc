"""`mft eval`: a run folder around the evaluation of one model."""

from __future__ import annotations

from pathlib import Path

from mft_cli.config import to_plain, to_yaml
from mft_cli.errors import UserError
from mft_cli.run_dir import RunDir, digest_of, provenance, write_atomically, write_json
from mft_cli.schema import EvalRunConfig


def eval_folder(config: EvalRunConfig) -> Path:
    """run_dir, else a name that model, benchmarks and settings decide: the same command goes on where it was."""
    if config.run_dir:
        return Path(config.run_dir)
    path = Path(config.model.path)
    model = path.parent.name if path.name.startswith("export") else path.stem
    digest = digest_of({k: v for k, v in to_plain(config).items() if k != "run_dir"})[:8]
    return Path("outputs") / f"eval-{model[:48]}-{'+'.join(config.eval.benchmarks)[:48]}-{digest}"


def evaluate_run(config: EvalRunConfig) -> Path:
    """Evaluate and keep configuration, provenance and state beside the results. Returns the folder."""
    from mft_cli.eval.run import evaluate

    run = RunDir(eval_folder(config))
    with run.lock():
        write_atomically(run.config, to_yaml(config))
        data = {name: {"where": b.source.path, "split": b.source.split} for name, b in config.eval.benchmarks.items()}
        write_json(run.provenance, provenance({"seed": config.eval.seed}, data, digest_of(to_plain(config))))
        run.set_state("running")
        try:
            evaluate(config, run.root / "eval")
        except BaseException as error:
            run.set_state("failed", message=str(error) if isinstance(error, UserError) else repr(error))
            raise
        run.set_state("done")
        print(f"results in {run.root}")
    return run.root
