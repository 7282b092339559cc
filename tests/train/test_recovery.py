"""What a run notices about its folder: other contents, other versions, damage, and a folder that goes away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mft_cli import provenance
from mft_cli.errors import UserError
from mft_cli.files import read_json, write_json
from mft_cli.train import checkpoint, metrics
from mft_cli.train.checkpoint import steps_in
from mft_cli.train.run import train
from tests.support.training import at_step, break_at, state_of, steps_logged, stop_at, training


@pytest.fixture
def stopped(tiny_model, problem_file, tmp_path) -> Path:
    """The folder of a run that was stopped after step 3 of 5."""
    stop_at(training(tiny_model, problem_file, tmp_path / "run"), 3)
    return tmp_path / "run"


# ---- contents and versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 5])
def test_another_chat_template_is_noticed(tiny_model, problem_file, tmp_path, steps):
    """By its text: the path in the settings stays."""
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    asked = training(
        tiny_model, problem_file, tmp_path / "run", model={"path": str(tiny_model), "chat_template": str(template)}
    )
    if steps == 3:
        stop_at(asked, 3)
    else:
        train(asked)
    template.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    with pytest.raises(UserError, match=r"another chat template than model\.chat_template now holds"):
        train(asked)


def test_another_tokenizer_is_noticed(tiny_model, problem_file, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    asked = training(model, problem_file, tmp_path / "run")
    train(asked)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "changed": True}))
    with pytest.raises(UserError, match=r"another tokenizer or chat template than model\.path now holds"):
        train(asked)


def test_a_resume_with_other_versions_is_told_and_recorded(tiny_model, problem_file, stopped, monkeypatch):
    before = read_json(stopped / "run.json")
    installed = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**installed, "torch": "99.0"})
    train(training(tiny_model, problem_file, stopped))
    assert f"torch {installed['torch']}, now 99.0" in (stopped / "train.log").read_text()
    after = read_json(stopped / "run.json")
    first, second = after["segments"]
    assert (first["first_step"], first["last_step"], second["first_step"]) == (0, 3, 3)
    assert (first["packages"]["torch"], second["packages"]["torch"]) == (installed["torch"], "99.0")
    assert {"command", "started", "hardware", "git", "python"} <= second.keys()
    kept = before.keys() - {"segments", "digest"}
    assert {k: after[k] for k in kept} == {k: before[k] for k in kept}


def test_a_run_record_of_before_segments_is_taken_for_the_first_one(tiny_model, problem_file, stopped):
    old = read_json(stopped / "run.json")
    write_json(stopped / "run.json", {k: v for k, v in old.items() if k not in ("segments", "contents", "digest")})
    train(training(tiny_model, problem_file, stopped))
    assert [s["first_step"] for s in read_json(stopped / "run.json")["segments"]] == [0, 3]


def test_checkpoints_that_are_gone_are_told(tiny_model, problem_file, stopped):
    shutil.rmtree(stopped / "checkpoints")
    train(training(tiny_model, problem_file, stopped))
    assert "tells of step 3, but" in (stopped / "train.log").read_text()
    assert steps_logged(stopped / "metrics.jsonl") == [1, 2, 3, 4, 5]


# ---- the folder goes away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_folder_that_goes_away_is_noticed_at_the_next_save(tiny_model, problem_file, tmp_path, how):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def go_away() -> None:
        if how == "deleted":
            shutil.rmtree(run)
        else:
            run.rename(elsewhere)
        if how == "replaced":
            run.mkdir()

    asked = training(tiny_model, problem_file, run, checkpoint={"every_steps": 2})
    assert "deleted or moved while it ran" in break_at(asked, 3, go_away, UserError)
    assert {path.name for path in run.glob("*")} <= {"train.log"}  # nothing of the old name is made again
    if how == "moved":
        elsewhere.rename(run)
        train(training(tiny_model, problem_file, run))
        assert steps_in(run / "checkpoints")[0] == 5


def test_a_closed_terminal_stops_and_saves(tiny_model, problem_file, tmp_path):
    assert "SIGHUP" in stop_at(training(tiny_model, problem_file, tmp_path / "run"), 2, signal.SIGHUP)
    assert steps_in(tmp_path / "run" / "checkpoints")[0] == 2


def test_under_nohup_a_closed_terminal_is_nothing(tiny_model, problem_file, tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 2, lambda: signal.raise_signal(signal.SIGHUP))
        train(training(tiny_model, problem_file, tmp_path / "run"))
    assert state_of(tmp_path / "run")["state"] == "done"


def test_a_second_interrupt_is_told_as_that(tiny_model, problem_file, tmp_path):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    break_at(training(tiny_model, problem_file, tmp_path / "run"), 2, twice, KeyboardInterrupt)
    assert "second Ctrl-C" in state_of(tmp_path / "run")["message"]


# ---- leftovers and damage -------------------------------------------------------------------------------------------


def test_temporary_exports_of_killed_runs_are_removed(tiny_model, problem_file, stopped):
    for name in (".export.123.tmp", ".state.json.123.tmp", ".old-export-123"):
        (stopped / name).mkdir()
        (stopped / name / "model.safetensors").write_bytes(bytes(100))
    (stopped / "export").mkdir(exist_ok=True)
    (stopped / "export" / "..mft-digests.json.123.tmp").write_text("half")
    train(training(tiny_model, problem_file, stopped))
    assert not [p.name for p in stopped.iterdir() if p.name.startswith(".") and p.name != ".lock"]
    assert not list((stopped / "export").glob("*.tmp"))


def test_samples_are_cut_back_as_metrics_are(tiny_model, problem_file, stopped):
    for name in ("samples.jsonl", "metrics.jsonl"):
        lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2, 3, 4)]
        (stopped / name).write_text("\n".join([lines[0], "{damaged", *lines[1:], '{"step": 4, "to']))
    train(training(tiny_model, problem_file, stopped))
    assert steps_logged(stopped / "samples.jsonl") == [1, 2, 3]
    assert steps_logged(stopped / "metrics.jsonl") == [1, 2, 3, 4, 5]
    assert (stopped / "train.log").read_text().count("damaged lines left out: 2") == 2


DAMAGES = {
    "empty": lambda data: b"", "half": lambda data: data[: len(data) // 2], "binary": lambda data: bytes(range(128, 256)),
    "list": lambda data: b"[1]", "null": lambda data: b"null",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["state.json", "run.json", "config.yaml", "checkpoints/step-00000003/manifest.json"])
def test_a_damaged_small_file_is_a_sentence_or_made_again(tiny_model, problem_file, stopped, name, damage):
    path = stopped / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    asked = training(tiny_model, problem_file, stopped)
    if name != "state.json":
        # half a YAML file is one that says less: its settings are others
        told = {"manifest.json": "step-00000003", "config.yaml": "config.yaml|other settings"}.get(path.name, path.name)
        with pytest.raises(UserError, match=told):
            train(asked)
    else:
        train(asked)
        assert state_of(stopped)["state"] == "done"
        assert read_json(stopped / "run.json")["segments"][1]["first_step"] == 3  # it went on, not from the first step


def test_a_changed_figure_is_told_and_kept(tiny_model, problem_file, stopped):
    text = (stopped / "metrics.jsonl").read_text()
    (stopped / "metrics.jsonl").write_text(text.replace('"step": 1', '"step": 0', 1))
    train(training(tiny_model, problem_file, stopped))
    assert "metrics.jsonl is not as it was written" in (stopped / "train.log").read_text()
    assert steps_logged(stopped / "metrics.jsonl") == [0, 2, 3, 4, 5]


def test_a_damaged_export_is_made_again_from_the_checkpoint(tiny_model, problem_file, tmp_path):
    asked = training(tiny_model, problem_file, tmp_path / "run")
    weights = train(asked) / "export" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    train(asked)
    assert weights.read_bytes() == whole


def test_a_damaged_export_is_not_trained_on_from(tiny_model, problem_file, tmp_path):
    export = train(training(tiny_model, problem_file, tmp_path / "run")) / "export"
    whole = (export / "model.safetensors").read_bytes()
    (export / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model\.safetensors is not as it was exported"):
        train(training(export, problem_file, tmp_path / "more"))


def test_a_flipped_bit_in_the_record_of_a_run_is_told(tiny_model, problem_file, stopped):
    text = (stopped / "run.json").read_text()
    (stopped / "run.json").write_text(text.replace('"seed": 1', '"seed": 3', 1))
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        train(training(tiny_model, problem_file, stopped))


def test_a_number_changed_in_a_manifest_is_noticed(stopped):
    path = stopped / "checkpoints" / "step-00000003" / "manifest.json"
    manifest = read_json(path)
    manifest["files"]["model.safetensors"]["parts"] = {"lm_head.weight": {"start": 1, "shape": [1]}}
    write_json(path, manifest)
    assert "digest that was written" in str(checkpoint.verify(path.parent))


def test_a_manifest_without_a_digest_is_of_an_older_version(stopped):
    path = stopped / "checkpoints" / "step-00000003" / "manifest.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k != "digest"})
    assert checkpoint.verify(path.parent) is None


def test_settings_that_damage_changed_are_told_from_others(stopped, tiny_model, problem_file, tmp_path):
    """A config.yaml that was cut off at a line's end can be read, and says other settings."""
    config = stopped / "config.yaml"
    with pytest.raises(UserError, match=r"holds a run with other settings \(train\.learning_rate was 0\.01, is 0\.02"):
        train(training(tiny_model, problem_file, stopped, train={"learning_rate": 0.02}))
    config.write_text(config.read_text().partition("\ntrain:")[0])
    with pytest.raises(UserError, match=r"config\.yaml is not as it was written, damaged or changed: "):
        train(training(tiny_model, problem_file, stopped))


# ---- disks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EPERM, errno.ENOSPC])
def test_an_export_that_a_disk_refuses_is_one_sentence_and_is_made_later(
    tiny_model, problem_file, tmp_path, monkeypatch, number
):
    from mft_cli.train import run as running

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    asked = training(tiny_model, problem_file, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(running, "write_exports", refuse)
        with pytest.raises(UserError, match=os.strerror(number)):
            train(asked)
    assert state_of(tmp_path / "run")["state"] == "failed"
    train(asked)
    assert (tmp_path / "run" / "export" / "config.json").exists()
    assert [s["first_step"] for s in read_json(tmp_path / "run" / "run.json")["segments"]] == [0, 5]


def test_safetensors_tells_a_full_disk_in_words(tiny_model, problem_file, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from mft_cli.train import run as running

    def refuse(*arguments: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(running, "write_exports", refuse)
    with pytest.raises(UserError, match="No space left on device"):
        train(training(tiny_model, problem_file, tmp_path / "run"))


def test_cutting_back_a_file_that_is_not_there_makes_none(tmp_path):
    metrics.cut_back(tmp_path / "samples.jsonl", 3, print)
    assert not list(tmp_path.iterdir())


def test_cutting_back_keeps_texts_with_other_line_separators(tmp_path):
    """U+2028 stands unescaped in JSON: the row was taken for two damaged lines and lost at a resume."""
    file = tmp_path / "samples.jsonl"
    rows = [json.dumps({"step": k, "completion": f"a\u2028b\x85{k}"}, ensure_ascii=False) for k in range(1, 5)]
    file.write_text("\n".join([rows[0], "{torn", *rows[1:], rows[3][:9]]), encoding="utf-8")
    told: list[str] = []
    metrics.cut_back(file, 3, told.append)
    assert file.read_text(encoding="utf-8") == "".join(f"{row}\n" for row in rows[:3])
    assert told == [f"warning: {file}: damaged lines left out: 2"]


@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, [5, 4, 3, 2, 1]), (0, [5])])
def test_a_checkpoint_when_this_long_has_passed(tiny_model, problem_file, tmp_path, minutes, steps):
    run = tmp_path / "run"
    keep = {"every_minutes": minutes, "every_steps": 100, "keep_last": 9}
    train(training(tiny_model, problem_file, run, checkpoint=keep))
    assert steps_in(run / "checkpoints") == steps


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "problem"),
    [(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU's memory does not suffice"),
     (RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
      "this machine's memory does not suffice"),
     (MemoryError(), "this machine's memory does not suffice")],
)  # fmt: skip
def test_too_little_memory_is_a_sentence_and_what_is_saved_stays(tiny_model, problem_file, tmp_path, error, problem):
    def fail() -> None:
        raise error

    asked = training(tiny_model, problem_file, tmp_path / "run", checkpoint={"every_steps": 1})
    said = break_at(asked, 3, fail, UserError)
    assert problem in said
    assert "train.micro_batch_size" in said
    assert state_of(tmp_path / "run")["message"] == said
    assert steps_in(tmp_path / "run" / "checkpoints")[0] == 2
    train(asked)
    assert state_of(tmp_path / "run")["state"] == "done"
