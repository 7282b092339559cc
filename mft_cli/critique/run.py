"""The run folder of `mft critique`: configuration, both halves, the files, provenance, and what is left to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.config.validate import to_plain, to_yaml
from mft_cli.critique.rows import summary, write_rows
from mft_cli.critique.solutions import Base, sample_solutions
from mft_cli.critique.teacher import Teacher, open_teacher
from mft_cli.files import digest_of, write_atomically, write_json
from mft_cli.provenance import provenance
from mft_cli.run_dir import RunDir
from mft_cli.signals import stoppable

NOT_IN_THE_NAME = ("run_dir", "budget", "csv")  # a larger budget goes on in the same folder


def critique_folder(config: CritiqueRunConfig) -> Path:
    """run_dir, else a name that the settings decide: the same command goes on where it was."""
    if config.run_dir:
        return Path(os.path.expanduser(config.run_dir))
    return Path("outputs") / f"critique-{'+'.join(config.data.sources)[:48]}-{settings_digest(config)[:8]}"


def settings_digest(config: CritiqueRunConfig) -> str:
    return digest_of({k: v for k, v in to_plain(config).items() if k not in NOT_IN_THE_NAME})


def critique_run(config: CritiqueRunConfig) -> Path:
    """Solutions, critiques and rows. Returns the folder. Raises UserError, Stopped; what is generated is kept."""
    run = RunDir(critique_folder(config))
    with run.lock():
        run.refuse_training()
        write_atomically(run.config, to_yaml(config))
        with run.recording_state(), stoppable():
            left = make_rows(config, run)
        if left:
            run.set_state("stopped", message=left)
        else:
            run.set_state("done")
    return run.root


def make_rows(config: CritiqueRunConfig, run: RunDir) -> str:
    """Both halves and the files; returns what a budget left to do, "" for nothing."""
    opened = open_teacher(config, run.root)  # a teacher that cannot be used is reported before hours of solutions
    base = sample_solutions(config, run.root)
    if base.empty:
        print(f"{base.empty} empty solutions left out", flush=True)
    teacher = Teacher(config, base.solutions, run.root, base.control, opened)
    try:
        teacher.ask()
    finally:  # what an endpoint that failed has given so far is usable, too
        counts = write_rows(config, teacher, run.root)
        write_json(run.root / "provenance.json", facts(config, base, teacher, counts))
    print(summary(counts), flush=True)
    print(f"budget: {teacher.budget.line()}", flush=True)
    left = what_is_left(counts)
    if left:
        print(left, flush=True)
    print(what_next(config, run.root, counts), flush=True)
    return left


def what_next(config: CritiqueRunConfig, root: Path, counts: dict[str, Any]) -> str:
    """The command that trains on the rows, where there is one that training would take."""
    if counts["answer_match"]:
        return f"rows in {root / 'train.jsonl'}; to train on them:\n  {training_command(config, root)}"
    if counts["waiting"]:
        return f"no verified row yet in {root / 'train.jsonl'}"
    return (
        f"no verified row in {root / 'train.jsonl'}, so nothing to train on: read {root / 'malformed.jsonl'}, then choose "
        f"another teacher or raise teacher.max_new_tokens, in a new run_dir"
    )


def what_is_left(counts: dict[str, Any]) -> str:
    if not counts["waiting"]:
        return ""
    return (
        f"stopped by the budget: {counts['waiting']} of {counts['solutions']} solutions wait for a critique; start the "
        f"same command again with a larger budget.requests or budget.tokens to go on"
    )


def training_command(config: CritiqueRunConfig, root: Path) -> str:
    derived = sorted({d for s in config.data.sources.values() for d in s.derived_from})
    more = f" 'data.sources.critique.derived_from=[{','.join(derived)}]'" if derived else ""
    return f"mft train method=masked_critique data=critique data.sources.critique.path={root / 'train.jsonl'}{more}"


def facts(config: CritiqueRunConfig, base: Base, teacher: Teacher, counts: dict[str, Any]) -> dict[str, Any]:
    """provenance.json: models and their digests, prompts, settings, seeds, counts, digests of the files."""
    data = {name: {"where": s.path, "split": s.split} for name, s in config.data.sources.items()}
    return {
        **provenance({"seed": config.eval.seed}, data, settings_digest(config)),
        "base": base.facts,
        "teacher": teacher.facts(),
        "row_prompt": to_plain(config.row_prompt),
        "settings": to_plain(config),
        "empty_solutions": base.empty,
        "counts": counts,
    }
