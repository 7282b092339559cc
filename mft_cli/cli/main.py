"""The command line: a table of verbs. Imports nothing heavy, so that `mft --help` answers at once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from mft_cli.console import mend_streams, outcome_of, write
from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_USER, UserError
from mft_cli.signals import ignore_stop_signals


def main() -> None:
    """Run the verb that the command line names, and turn errors into exit codes."""
    mend_streams()
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        from mft_cli.cli.completion import complete

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
        from mft_cli.cli.train import rank_verb
        from mft_cli.slurm.srun import rank_exit_code

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
    from mft_cli.config.secrets import refuse_arguments

    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the folder that this command was started in has been deleted: change to another one") from None
    refuse_arguments(arguments)  # before a ledger or a run folder could keep them
    module_of(verb).main(arguments)


def end(code: int) -> NoReturn:
    """Exit with `code`, whatever signals come while Python goes down: it gives them back to the system, which kills."""
    ignore_stop_signals()  # a preemption sends several, to the ranks and to their driver
    sys.exit(code)


def run(task: Callable[[], None]) -> int:
    try:
        task()
    except BrokenPipeError:  # `mft ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except (Exception, KeyboardInterrupt) as error:
        outcome = outcome_of(error)
        if outcome is None:
            import traceback

            traceback.print_exc()
            return EXIT_OURS
        tell(outcome[1])
        return outcome[0]
    return EXIT_DONE


def tell(line: str) -> None:
    """Also to a terminal that is closed: the exit code counts."""
    write(f"mft: {line}\n", sys.stderr)


def module_of(verb: str) -> ModuleType:
    """The verb's own module: `HELP`, and `main`, which takes the words after the verb."""
    return importlib.import_module(f"mft_cli.cli.{verb}")


def help_text(verb: str) -> str:
    text = str(module_of(verb).HELP)
    if "{groups}" in text or "{benchmarks}" in text:
        from mft_cli.config.compose import groups

        options_of = groups()
        listed = ", ".join(f"{name} ({len(options)})" for name, options in options_of.items())
        text = text.replace("{groups}", listed).replace("{benchmarks}", ", ".join(options_of["eval"]))
    return text


# Each verb is a module of this folder, imported when it is asked for.
VERBS = {
    "init": "write a commented file of settings for your model, your data and a method",
    "train": "fine-tune a model with a method, export it, evaluate it",
    "fetch": "bring model, data and benchmarks, where compute nodes have no network",
    "eval": "evaluate a model on benchmarks",
    "score": "score a file of completions again, without a model",
    "report": "compare runs: tables, curves, one HTML page",
    "compare": "paired differences of runs: intervals, exact tests, flips, what could have been detected",
    "sweep": "many runs: how far they are, once more those that failed, which setting is best",
    "data": "look at training data: what is trained on, what would be masked, which benchmark questions it holds",
    "generate": "completions of your own questions",
    "chat": "talk to a model in the terminal",
    "critique": "make training data for masked critique: solutions, a teacher's critiques, verified",
    "export": "an export as a GGUF file",
    "push": "put an export on the model hub",
    "plan": "memory, time and disk of a training before it is paid for",
    "analyze": "what predictions depend on (question, near, far context); the loss around a model's weights",
    "mask": "masks of mask_finetune: apply them to a model, look at them, compare two",
    "lab": "small models whose world is known, made here: where two cores decide something",
    "claims": "claims of papers, written down before they are tested: list, run, report",
    "doctor": "what this machine is, what auto takes on it, what is missing for which feature",
}
HELP = f"""mft: masking in language-model fine-tuning, from configuration to a score

{chr(10).join(f"  mft {verb:<10}{summary}" for verb, summary in VERBS.items())}

  mft <command> --help shows examples. Exit codes: 0 done, 1 a defect of mft, 2 your mistake, 75 stopped by a signal.
"""
