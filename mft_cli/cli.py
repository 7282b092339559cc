"""The command line: a table of verbs. Imports nothing heavy, so that `mft --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_STOPPED, EXIT_USER, Stopped, UserError

HELP = """mft: masking in language-model fine-tuning, from configuration to a score

  mft train   fine-tune a model with a method, export it, evaluate it
  mft eval    evaluate a model on benchmarks
  mft score   score a file of completions again, without a model
  mft report  compare runs: tables, curves, one HTML page
  mft data    look at training data: what is learnt, what would be masked
  mft plan    memory, time and disk of a training before it is paid for

  mft <command> --help shows examples. Exit codes: 0 done, 1 a defect of mft, 2 your mistake, 75 stopped by a signal.
"""

TRAIN_HELP = """mft train: fine-tune a model with a method, export it, evaluate it

  mft train method=masked_thought                              the embedded default: SmolLM2-135M on gsm_symbolic
  mft train method=masked_thought data=gsm8k eval=gsm8k        real GSM8K, evaluated at the end
  mft train method=sft data=local data.sources.local.path=my.jsonl train.epochs=1
  mft train method=masked_thought method.mask_ratio=0.2 run_dir=outputs/mine
  mft train -m method=sft,masked_thought seed=1,2,3            a Hydra sweep: six runs, one after the other
  mft train experiment=paper_masked_thought_gsm8k --cfg job    print the whole configuration and stop

The same command started again goes on from its newest good checkpoint, and evaluates what is not evaluated yet.
Groups (choose with group=option): {groups}
All keys: docs/keys.md.  Hydra's own flags: --cfg, --info, --multirun, --config-dir, ... (mft train --hydra-help).
Tab completion: eval "$(mft -sc install=bash)"
"""

EVAL_HELP = """mft eval: evaluate a model on benchmarks

  mft eval model.path=outputs/<run>/export eval=gsm8k
  mft eval model=smollm2_135m eval=[gsm_symbolic,gsm_symbolic_heldout] eval.engine=hf
  mft eval model.path=<folder> eval=gsm8k eval.benchmarks.gsm8k.limit=100 eval.dtype=float32
  mft eval model.path=<folder> eval=gsm8k eval.benchmarks.gsm8k.samples=8 eval.benchmarks.gsm8k.temperature=0.7

Benchmarks: {benchmarks}
A killed evaluation goes on where it was. Results: outputs/eval-.../eval/<benchmark>/metrics.json
"""

SCORE_HELP = """mft score: score a file of completions again, without a model

  mft score generations=outputs/<run>/eval/gsm8k/generations.jsonl eval=gsm8k out=scores
  mft score generations=mine.jsonl eval=gsm_symbolic out=scores

A line needs "id", "sample" and "completion"; with "gold" on every line the benchmark's own data is not needed.
Writes scores.jsonl and metrics.json into out.
"""

REPORT_HELP = """mft report: compare runs

  mft report outputs/a outputs/b            two runs, side by side
  mft report outputs out=outputs/report     all runs below a folder

Writes report.html (one self-contained page), report.md, report.json and the curves as PNG.
"""

DATA_HELP = """mft data: look at training data

  mft data show method=masked_thought data=gsm8k               three examples: prompt, response, what would be masked
  mft data show method=masked_thought rows=10 progress=0.5     as halfway through training
  mft data show data=local data.sources.local.path=my.jsonl

rows=N examples, progress=0..1 (default 1: masking at its full ratio), epoch=N.
"""

PLAN_HELP = """mft plan: memory, time and disk of a training before it is paid for

  mft plan method=sft model=llama2_7b data=gsm8k gpus=8 gpu_memory_gb=80 mfu=0.4 peak_tflops=312 mean_tokens=210
  mft plan model=llama2_70b gpus=64 rows=100000 mean_tokens=600 train.gradient_checkpointing=true
  mft plan model=qwen25_7b peft.name=lora peft.rank=16 gpus=1 rows=7473 mean_tokens=210
  mft plan model=local model.path=my/model arch=my/config.json gpus=8 json=true

Takes every override of mft train, and:
  gpus=N            GPUs in all (default launch.gpus x nodes, else 1); nodes=N (default: 8 GPUs a node)
  gpu_memory_gb=80  memory of one, 1e9 bytes; reserve=0.05 of it is left for what the plan does not count
  mfu=0.4 peak_tflops=312  what share of which peak is reached; without the peak no time is given
  rows=N mean_tokens=N     training examples and tokens of one, where the data or the tokenizer is not here
  label_share=0.6   share of tokens that are learnt (default: counted, else 1)
  arch=FILE         the model's config.json, or its numbers: arch='{model_type: llama, hidden_size: 4096, ...}'
  json=true         for scripts
Prints for every ZeRO stage what lies on a GPU, with and without gradient checkpointing, what fits, and the arithmetic.
Nothing is downloaded and no weight is loaded. What it counts and how it was checked: docs/plan.md
"""


def main() -> None:
    """Run the verb that the command line names, and turn errors into exit codes."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        sys.exit(run(lambda: complete(arguments)))
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        code = run(lambda: print(HELP, flush=True))
        sys.exit(code if arguments else EXIT_USER)
    if arguments[0] == "--version":
        from mft_cli import __version__

        print(f"mft {__version__}")
        sys.exit(EXIT_DONE)
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean mft {near[0]}?" if near else ""
        print(f"mft: no command {verb!r}; commands: {', '.join(VERBS)}{hint}", file=sys.stderr)
        sys.exit(EXIT_USER)
    if "-h" in rest or "--help" in rest:
        sys.exit(run(lambda: print(help_text(verb), flush=True)))
    sys.exit(run(lambda: VERBS[verb](rest)))


def run(task: Callable[[], None]) -> int:
    try:
        task()
    except UserError as error:
        print(f"mft: {error}", file=sys.stderr)
        return EXIT_USER
    except Stopped as stopped:
        print(f"mft: {stopped}; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
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
    text = {"train": TRAIN_HELP, "eval": EVAL_HELP, "score": SCORE_HELP, "report": REPORT_HELP, "data": DATA_HELP,
            "plan": PLAN_HELP}[verb]  # fmt: skip
    if "{groups}" in text or "{benchmarks}" in text:
        from mft_cli.config import groups

        found = groups()
        listed = ", ".join(f"{name} ({len(options)})" for name, options in found.items())
        text = text.replace("{groups}", listed).replace("{benchmarks}", ", ".join(found["eval"]))
    return text


# ---- verbs ----------------------------------------------------------------------------------------------------------


def train_verb(arguments: list[str]) -> None:
    from mft_cli.config import run_with_hydra, train_config

    if print_only(arguments):
        run_with_hydra("train", without_cfg(arguments), lambda values: show_config(train_config(values)))
        return

    def task(values: dict) -> None:
        config = train_config(values)
        from mft_cli.train import train

        train(config)

    run_with_hydra("train", arguments, task)


def eval_verb(arguments: list[str]) -> None:
    from mft_cli.config import eval_config, run_with_hydra

    if arguments and arguments[0].startswith("--frozen="):
        import json

        values = json.loads(open(arguments[0].split("=", 1)[1], encoding="utf-8").read())  # noqa: SIM115
        config, out = eval_config(values), arguments[1].split("=", 1)[1]
        from pathlib import Path

        from mft_cli.eval.run import evaluate

        evaluate(config, Path(out))
        return
    if print_only(arguments):
        run_with_hydra("eval", without_cfg(arguments), lambda values: show_config(eval_config(values)))
        return

    def task(values: dict) -> None:
        config = eval_config(values)
        from mft_cli.evaluate import evaluate_run

        evaluate_run(config)

    run_with_hydra("eval", arguments, task)


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
            raise UserError(f"{folder}: no such folder")
    from mft_cli.report import build

    folders = [Path(f) for f in rest]
    out = Path(own["out"]) if "out" in own else (folders[0] / "report" if len(folders) == 1 else Path("outputs/report"))
    paths = build(folders, out)
    print(f"report: {paths.html}\n        {paths.markdown}")


def data_verb(arguments: list[str]) -> None:
    from mft_cli.config import run_with_hydra, train_config

    if arguments[:1] != ["show"]:
        raise UserError("mft data has the command show: mft data show data=gsm8k")
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


VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": train_verb, "eval": eval_verb, "score": score_verb, "report": report_verb, "data": data_verb,
    "plan": plan_verb,
}  # fmt: skip


# ---- pieces ---------------------------------------------------------------------------------------------------------


def own_keys(arguments: list[str], *names: str) -> tuple[dict[str, str], list[str]]:
    """Our own key=value arguments, apart from Hydra's."""
    own, rest = {}, []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if separator and name in names:
            own[name] = value
        else:
            rest.append(argument)
    return own, rest


def number(own: dict[str, str], name: str, kind: type, default: float) -> float:
    try:
        value = kind(own.get(name, default))
    except ValueError:
        raise UserError(f"{name}={own[name]}: expected a number") from None
    if value < 0 or (name == "progress" and value > 1):
        raise UserError(f"{name}={own[name]}: expected {'a number from 0 to 1' if name == 'progress' else '0 or more'}")
    return value


def print_only(arguments: list[str]) -> bool:
    """`--cfg job` alone: we print the whole validated configuration, defaults included."""
    joined = " ".join(arguments)
    return ("--cfg job" in joined or "-c job" in joined or "--cfg=job" in joined) and "--package" not in joined


def without_cfg(arguments: list[str]) -> list[str]:
    joined = [a for a in arguments if a not in ("--cfg=job", "--resolve")]
    for flag in ("--cfg", "-c"):
        if flag in joined:
            at = joined.index(flag)
            del joined[at : at + 2]
    return joined


def show_config(config: object) -> None:
    from mft_cli.config import to_yaml

    print(to_yaml(config), end="")


def complete(arguments: list[str]) -> None:
    """Hydra's tab completion, behind a verb: the verb is taken out of the line that Hydra sees."""
    from mft_cli.config import CONF

    words = os.environ.get("COMP_LINE", "").split(" ")
    if (
        arguments[1:]
        and arguments[1].startswith("query=")
        and (len(words) < 3 or words[1] not in ("train", "eval", "data", "plan"))
    ):
        prefix = words[1] if len(words) > 1 else ""
        print("\n".join(v for v in VERBS if v.startswith(prefix)))
        return
    verb = "eval" if words[1:2] == ["eval"] else "train"
    if len(words) > 2:
        skip = 3 if words[1] == "data" else 2
        os.environ["COMP_LINE"] = " ".join([words[0], *words[skip:]])
    import hydra

    sys.argv = ["mft", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=verb)(lambda config: None)()
