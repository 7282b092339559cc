"""The command line: a table of verbs. Imports nothing heavy, so that `mft --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mft_cli.command_line import (
    is_sweep,
    number,
    own_keys,
    print_only,
    refuse_printed_sweep,
    show_config,
    without_cfg,
)
from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_STOPPED, EXIT_USER, RankFailed, Stopped, UserError
from mft_cli.help_texts import (
    ANALYZE_HELP,
    COMPARE_HELP,
    CRITIQUE_HELP,
    DATA_HELP,
    EVAL_HELP,
    GENERATE_HELP,
    HELP,
    MASK_HELP,
    PLAN_HELP,
    REPORT_HELP,
    SCORE_HELP,
    SWEEP_HELP,
    TRAIN_HELP,
)


def main() -> None:
    """Run the verb that the command line names, and turn errors into exit codes."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        from mft_cli.completion import complete

        sys.exit(run(lambda: complete(arguments, VERBS)))
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        code = run(lambda: print(HELP, flush=True))
        sys.exit(code if arguments else EXIT_USER)
    if arguments[0] == "--version":
        from mft_cli import __version__

        print(f"mft {__version__}")
        sys.exit(EXIT_DONE)
    verb, rest = arguments[0], arguments[1:]
    if verb == "rank":
        from mft_cli.allocation import rank_exit_code

        end(rank_exit_code(run(lambda: rank_verb(rest))))
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean mft {near[0]}?" if near else ""
        print(f"mft: no command {verb!r}; commands: {', '.join(VERBS)}{hint}", file=sys.stderr)
        sys.exit(EXIT_USER)
    if "-h" in rest or "--help" in rest:
        sys.exit(run(lambda: print(help_text(verb), flush=True)))
    end(run(lambda: do(verb, rest)))


def do(verb: str, arguments: list[str]) -> None:
    from mft_cli.confidential import refuse_arguments

    refuse_arguments(arguments)  # before a ledger or a run folder could keep them
    VERBS[verb](arguments)


def end(code: int) -> NoReturn:
    """Exit with `code`, whatever signals come while Python goes down: it gives them back to the system, which kills."""
    import signal

    for each in (signal.SIGTERM, signal.SIGUSR1):  # a preemption sends several, to the ranks and to their driver
        signal.signal(each, signal.SIG_IGN)
    sys.exit(code)


def run(task: Callable[[], None]) -> int:
    try:
        task()
    except UserError as error:
        print(f"mft: {error}", file=sys.stderr)
        return EXIT_USER
    except Stopped as stopped:
        print(f"mft: {stopped}; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
    except RankFailed as failed:
        print(f"mft: {failed}", file=sys.stderr)
        return EXIT_OURS
    except KeyboardInterrupt:
        print("mft: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `mft ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        import errno

        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"mft: {error}; free space or choose another folder, then start the same command again", file=sys.stderr)
        return EXIT_USER
    except Exception:
        import traceback

        traceback.print_exc()
        return EXIT_OURS
    return EXIT_DONE


def help_text(verb: str) -> str:
    text = {
        "train": TRAIN_HELP, "eval": EVAL_HELP, "score": SCORE_HELP, "report": REPORT_HELP, "compare": COMPARE_HELP,
        "sweep": SWEEP_HELP, "data": DATA_HELP, "plan": PLAN_HELP, "mask": MASK_HELP, "generate": GENERATE_HELP,
        "critique": CRITIQUE_HELP, "analyze": ANALYZE_HELP,
    }[verb]  # fmt: skip
    if "{groups}" in text or "{benchmarks}" in text:
        from mft_cli.config import groups

        found = groups()
        listed = ", ".join(f"{name} ({len(options)})" for name, options in found.items())
        text = text.replace("{groups}", listed).replace("{benchmarks}", ", ".join(found["eval"]))
    return text


# ---- verbs ----------------------------------------------------------------------------------------------------------


def composed(name: str, arguments: list[str], build: Callable[[dict], Any], task: Callable[[Any], object]) -> None:
    """`task` on the configuration that Hydra composes, and `build` checks; or, with --cfg job, the whole of it printed."""
    from mft_cli.config import run_with_hydra

    refuse_printed_sweep(arguments)
    if print_only(arguments):
        run_with_hydra(name, without_cfg(arguments), lambda values: show_config(build(values)))
    else:
        run_with_hydra(name, arguments, lambda values: task(build(values)))


def train_verb(arguments: list[str]) -> None:
    from mft_cli.config import train_config
    from mft_cli.driver import read_frozen, run_training, train_or_submit

    if is_sweep(arguments):
        from mft_cli.sweep.start import sweep

        sweep(arguments, run_training)
    elif arguments and arguments[0].startswith("--frozen="):
        train_or_submit(train_config(read_frozen(arguments[0].split("=", 1)[1])))
    else:
        composed("train", arguments, train_config, train_or_submit)


def rank_verb(arguments: list[str]) -> None:
    """One process of a run, started by `mft train` with a frozen configuration."""
    from mft_cli.stop_signal import StopSignal

    stop = StopSignal()  # before torch is imported: a rank that a signal ends leaves the others waiting for it
    from pathlib import Path

    from mft_cli.train import train_rank

    own, _ = own_keys(arguments, "--frozen", "--run")
    train_rank(Path(own["--frozen"]), Path(own["--run"]), stop)


def eval_verb(arguments: list[str]) -> None:
    if arguments[:1] == ["list"]:
        from mft_cli.eval.listing import print_list

        print_list(arguments[1:])
        return
    from mft_cli.config import eval_config

    if arguments and arguments[0].startswith("--frozen="):
        from pathlib import Path

        from mft_cli.driver import read_frozen
        from mft_cli.eval.run import evaluate

        frozen, out = (argument.split("=", 1)[1] for argument in arguments[:2])
        evaluate(eval_config(read_frozen(frozen)), Path(out))
        return
    from mft_cli.driver import run_evaluation

    composed("eval", arguments, eval_config, run_evaluation)


def score_verb(arguments: list[str]) -> None:
    from pathlib import Path

    from mft_cli.config import run_with_hydra

    own, rest = own_keys(arguments, "generations", "out")
    for name in ("generations", "out"):
        if name not in own:
            raise UserError(f"mft score needs {name}=; see mft score --help")
    generations = Path(own["generations"])
    if not generations.is_file():
        raise UserError(f"generations={generations}: no such file")

    def task(values: dict) -> None:
        from mft_cli import schema
        from mft_cli.config import build, with_prompt

        config = build(schema.EvalRunConfig, with_prompt(values))
        if len(config.eval.benchmarks) != 1:
            raise UserError("mft score takes one benchmark: eval=<name>")
        name, benchmark = next(iter(config.eval.benchmarks.items()))
        from mft_cli.eval.score import score_file, summary

        print(summary(score_file(generations, name, benchmark, Path(own["out"]), eval_config=config.eval)))

    run_with_hydra("eval", rest, task)


def report_verb(arguments: list[str]) -> None:
    from pathlib import Path

    own, rest = own_keys(arguments, "out")
    if not rest:
        raise UserError("mft report needs run folders: mft report outputs/a outputs/b")
    for folder in rest:
        if not Path(folder).is_dir():
            raise UserError(
                f"{folder}: {'is a file, expected a run folder' if Path(folder).exists() else 'no such folder'}"
            )
    from mft_cli.report import read_runs, summarise, summary_table, write

    folders = [Path(f) for f in rest]
    summary = summarise(read_runs(folders))
    out = Path(own["out"]) if "out" in own else (folders[0] / "report" if len(folders) == 1 else Path("outputs/report"))
    paths = write(summary, out)
    print(summary_table(summary))
    print(f"\nreport: {paths.html}\n        {paths.markdown}")


def compare_verb(arguments: list[str]) -> None:
    from pathlib import Path

    own, rest = own_keys(arguments, "out")
    if not rest:
        raise UserError("mft compare needs run or evaluation folders: mft compare outputs/a outputs/b")
    from mft_cli.compare import compare

    compare([Path(folder) for folder in rest], Path(own.get("out", "outputs/compare")))


def data_verb(arguments: list[str]) -> None:
    from mft_cli.config import run_with_hydra, train_config

    if arguments[:1] == ["check"]:
        data_check_verb(arguments[1:])
        return
    if arguments[:1] != ["show"]:
        raise UserError("mft data has the commands show and check: mft data show data=gsm8k")
    own, rest = own_keys(arguments[1:], "rows", "progress", "epoch")

    def task(values: dict) -> None:
        config = train_config(values)
        from mft_cli.data_show import show

        show(
            config,
            rows=number(own, "rows", int, 3),
            progress=number(own, "progress", float, 1.0),
            epoch=number(own, "epoch", int, 0),
        )

    run_with_hydra("train", rest, task)


def data_check_verb(arguments: list[str]) -> None:
    from pathlib import Path

    from mft_cli.config import run_with_hydra, train_config

    own, rest = own_keys(arguments, "show", "out")

    def task(values: dict) -> None:
        config = train_config(values)
        if not config.eval.benchmarks:
            raise UserError("mft data check needs benchmarks: eval=gsm8k or eval=[gsm8k,svamp]")
        from mft_cli.data_check import check

        check(config, show=int(number(own, "show", int, 3)), out=Path(own["out"]) if "out" in own else None)

    run_with_hydra("train", rest, task)


def sweep_verb(arguments: list[str]) -> None:
    from mft_cli.driver import run_training
    from mft_cli.sweep.command import command

    command(arguments, run_training)


def plan_verb(arguments: list[str]) -> None:
    from mft_cli.config import run_with_hydra, train_config
    from mft_cli.plan.settings import NAMES

    own, rest = own_keys(arguments, *NAMES)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a plan waits for no download, nor for a hub that does not answer
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

    def task(values: dict) -> None:
        config = train_config(values)
        from mft_cli.plan.run import plan

        plan(config, own)

    run_with_hydra("train", rest, task)


def mask_verb(arguments: list[str]) -> None:
    own, rest = own_keys(arguments, "out")
    counts = {"apply": 3, "inspect": 1, "diff": 2}
    if not rest or len(rest) - 1 != counts.get(rest[0]):
        raise UserError("expected mft mask apply BASE MASKS OUT, mft mask inspect MASKS or mft mask diff MASKS MASKS")
    from mft_cli.report.masks import apply, diff, inspect

    if rest[0] == "apply":
        apply(*rest[1:])
    elif rest[0] == "diff":
        diff(*rest[1:])
    else:
        inspect(rest[1], own.get("out"))


def generate_verb(arguments: list[str]) -> None:
    import re
    from pathlib import Path

    from mft_cli.config import generate_config, run_with_hydra

    names = ("decode", "question", "file", "out", "max_new_tokens", "temperature", "top_p", "samples")
    own, rest = own_keys(arguments, *names)
    keys = [a for a in rest if a.startswith("-") or re.match(r"^[+~]*[\w.@/\[\]-]+=", a)]
    words = [a for a in rest if a not in keys]  # a question, even one with an equals sign behind a blank

    def task(values: dict) -> None:
        config = generate_config(values, own.get("decode"))
        from mft_cli.generate import Asked, generate, read_questions

        asked = Asked(
            questions=read_questions(own, words, sys.stdin),
            out=Path(own["out"]) if "out" in own else None,
            max_new_tokens=max(1, int(number(own, "max_new_tokens", int, 256))),
            temperature=number(own, "temperature", float, 0.0),
            top_p=number(own, "top_p", float, 1.0),
            samples=max(1, int(number(own, "samples", int, 1))),
        )
        generate(config, asked)

    run_with_hydra("eval", keys, task)


def critique_verb(arguments: list[str]) -> None:
    from mft_cli.config import critique_config
    from mft_cli.driver import run_critique

    composed("critique", arguments, critique_config, run_critique)


def analyze_verb(arguments: list[str]) -> None:
    from mft_cli.analysis.command import command

    command(arguments)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": train_verb, "eval": eval_verb, "score": score_verb, "report": report_verb, "compare": compare_verb,
    "sweep": sweep_verb, "data": data_verb, "plan": plan_verb, "mask": mask_verb, "generate": generate_verb,
    "critique": critique_verb, "analyze": analyze_verb,
}  # fmt: skip
