"""The pages: links hold, commands are ones that mft takes, tutorials run as they stand, names of other tools are answered."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from mft_cli.cli import data, init
from mft_cli.cli.main import VERBS, module_of
from mft_cli.cli.options import composed
from mft_cli.config import load
from mft_cli.config.schema import EvalRunConfig, TrainConfig
from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.config.validate import aliases, walk
from mft_cli.plan.settings import PlanOptions
from tests.support.fake_runs import fake_evaluation, fake_run
from tests.support.tiny import ROOT, problems

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [ROOT / "README.md", *TUTORIALS]  # pages whose every command is looked at
SETTINGS = {"train": load.train_config, "eval": load.eval_config}
MEANT = {"<run>": "run", "<a>": "a", "<b>": "b", "/models/mine": "models/mine", "...": ""}  # what a reader puts there


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---- links ----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def links(page: Path) -> list[str]:
    prose = re.sub(r"^(```.*?^```|    [^\n]*)$|`[^`\n]*`", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"https?:|mailto:", t)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_linked_or_in_the_sites_contents():
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    contents = (ROOT / "mkdocs.yml").read_text()
    for page in (p for p in PAGES if p.parent != ROOT and p not in linked):
        assert str(page.relative_to(ROOT / "docs")) in contents, page


# ---- commands -------------------------------------------------------------------------------------------------------


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


def commands(page: Path) -> list[str]:
    """Every `mft ...` line of the page's code, as a reader would type it."""
    code = [*blocks(page, "bash", "sh"), *re.findall(r"^    (\$ )?(mft .*)$", text_of(page), re.MULTILINE)]
    lines = [line for block in code for line in (block if isinstance(block, str) else block[1]).splitlines()]
    for written, meant in MEANT.items():
        lines = [line.replace(written, meant) for line in lines]
    lines = [re.sub(r"^torchrun .* -m mft_cli", "mft", line) for line in lines]
    return [line for line in lines if line.startswith("mft ")]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages suppose: rows in my.jsonl, a model in models/mine, settings in mine.yaml, runs in outputs."""
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems(40)))
    shutil.copytree(tiny_model, tmp_path / "models" / "mine")
    for name in ("a", "b", "run", "mine"):
        run = fake_run(tmp_path / "outputs" / name)
        fake_evaluation(run, "gsm8k", correct=range(10))
        shutil.copytree(tiny_model, run / "export")
        as_deep_as_llama(run / "export" / "config.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_deep_as_llama(file: Path) -> None:
    """For commands that name layers; nobody loads it."""
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 32}))


WRONG = ("method.mask_ratoi=0.2",)  # shown for the answer to it
ALL = [(p, c) for p in SHOWN for c in dict.fromkeys(commands(p)) if not any(w in c for w in WRONG)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{p.name}:{i}" for i, (p, _) in enumerate(ALL)])
def test_commands_are_ones_that_mft_takes(page: Path, command: str, folder: Path):
    verb, *words = shlex.split(command, comments=True)[1:]
    if verb in ("--help", "-sc"):
        return
    assert verb in VERBS, command
    (folder / "mine.yaml").write_text(
        "data.sources: {mine: {path: my.jsonl, response: answer}}\nmodel.path: models/mine\n"
    )
    (folder / "outputs" / "mine" / "config.yaml").write_text("seed: 1\nmethod: masked_thought\n")
    module = module_of(verb)
    if verb in ("train", "plan") or words[:1] in (["show"], ["check"]):
        words = [w for w in words if not is_option(verb, w) and not w.startswith("hydra/launcher=mft_")]
        composed("train", words, load.train_config, lambda config: None)
    elif verb == "eval" and words[0] != "list":
        composed("eval", words, load.eval_config, lambda config: None)
    else:
        assert hasattr(module, "main")


def is_option(verb: str, word: str) -> bool:
    """Whether a word is the verb's own, which no configuration holds."""
    known = {f.name for options in (data.ShowOptions, data.CheckOptions, PlanOptions) for f in fields(options)}
    return verb != "train" and (word in ("show", "check") or word.partition("=")[0] in known)


@pytest.mark.parametrize("page", [p for p in TUTORIALS if any(blocks(p, "bash"))], ids=lambda p: p.name)
def test_tutorials_run_as_they_stand(page: Path, folder: Path):
    """The page's blocks that are marked bash, one after the other, in one folder."""
    if page.name != "my_data_and_model.md":
        init.main(["data=my.jsonl", "model=models/mine", "method=masked_thought", "out=mine.yaml"])
    else:
        shutil.rmtree(folder / "outputs")
    python = f"{shlex.quote(sys.executable)} -m"
    script = "\n".join([
        "set -e", f"mft() {{ {python} mft_cli \"$@\"; }}", f"torchrun() {{ {python} torch.distributed.run \"$@\"; }}",
        f"export PYTHONPATH={shlex.quote(str(ROOT))} OMP_NUM_THREADS=1", *blocks(page, "bash"),
    ])  # fmt: skip
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr


# ---- keys -----------------------------------------------------------------------------------------------------------

KEYS = {k for cls in (TrainConfig, EvalRunConfig, CritiqueRunConfig) for k, *_ in walk(cls)}
SECTIONS = {k.partition(".")[0] for k in KEYS if "." in k}
NAMED = re.compile(rf"(?<![\w./@-])((?:{'|'.join(sorted(SECTIONS))})(?:\.[\w<>-]+)+)(?==|`)")
FILES = re.compile(r"\.(csv|html|json|jsonl|log|md|safetensors)$")
UNREAD = ("LOG.md", "CHANGELOG.md", "keys.md")  # they say what was, or are generated
PARENTS = {k[: dot.start()] for k in KEYS for dot in re.finditer(r"\.", k)}
KNOWN = re.compile("|".join(re.escape(k).replace("<name>", r"[\w<>-]+") for k in KEYS | PARENTS))


def test_pages_name_keys_that_there_are():
    read = [p for p in PAGES if p.name not in UNREAD]
    named = {(name, p.name) for p in read for name in NAMED.findall(text_of(p)) if not FILES.search(name)}
    assert len(named) > 300
    unknown = {n for n, _ in named if not KNOWN.fullmatch(n) and not n.startswith("deepspeed.config.")}
    assert [(n, page) for n, page in sorted(named) if n in unknown and f"{n}=0.2" not in WRONG] == []


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_other_tools_names_are_answered_with_the_keys_that_the_page_says():
    keys = [k for cls in (TrainConfig, EvalRunConfig) for k, *_ in walk(cls)]
    page = text_of(ROOT / "docs/tutorials/from_other_tools.md")
    rows = re.findall(r"^\| `([^`|]*)` \|(?: (.*) \|)? `([\w.<>]+)((?:=\w+)?)` \|$", page, re.MULTILINE)
    assert len(rows) > 20
    for first, middle, key, value in rows:
        assert key in [*keys, "eval"], key
        for name in [first, *re.findall(r"`(\w+)`", middle)]:
            is_ours = any(k.rsplit(".", 1)[-1] == name for k in keys)
            assert is_ours or {key, key + value} & {*aliases([name], [*keys, "eval"])}, name


def test_troubleshooting_quotes_what_mft_says():
    """Every heading is a part of a message: its fixed words stand in the code."""
    source = "\n".join(p.read_text() for p in sorted((ROOT / "mft_cli").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for heading in re.findall(r"^## `(.*)`$", text_of(ROOT / "docs/tutorials/troubleshooting.md"), re.MULTILINE):
        for part in re.split(r"\s*\.\.\.\s*", heading):
            assert part in source, part
