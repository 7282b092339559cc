"""Training as a user runs it: the contents of a run folder, kills, signals, full disks, bad numbers, resumes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.support.tiny import ROOT, mft, tiny_overrides

RUN_FILES = {
    ".lock", "config.yaml", "run.json", "state.json", "train.log", "metrics.jsonl",
    "checkpoints/step-00000005/manifest.json", "checkpoints/step-00000005/model.safetensors",
    "checkpoints/step-00000005/optimizer.safetensors", "checkpoints/step-00000005/trainer.json",
    "export/README.md", "export/chat_template.jinja", "export/config.json", "export/generation_config.json",
    "export/mft.json", "export/model.safetensors", "export/tokenizer.json", "export/tokenizer_config.json",
    "training_questions.bin", "export/training_questions.bin", "export/SHA256SUMS", "export/.mft-digests.json",
}  # fmt: skip


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def rows(run: Path, kind: str) -> list[dict]:
    return [r for line in (run / "metrics.jsonl").open() if (r := json.loads(line))["kind"] == kind]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mft_cli", *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_run_folder(tiny_model, problem_file, tmp_path):
    done = mft("train", "method=masked_thought", *tiny_overrides(tiny_model, problem_file, run_dir="run"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert files(run) == RUN_FILES
    state = json.loads((run / "state.json").read_text())
    assert (state["state"], state["step"], state["total_steps"]) == ("done", 5, 5)
    train = rows(run, "train")
    assert [r["step"] for r in train] == [1, 2, 3, 4, 5]
    assert sum(r["examples"] for r in train) == 40
    assert train[0]["masked_share"] == 0.0
    assert 0.2 < train[-1]["masked_share"] < 0.6
    assert {
        "loss",
        "loss/ce",
        "learning_rate",
        "grad_norm",
        "label_tokens",
        "padding_share",
        "tokens_per_s",
        "memory_gb",
    } <= set(train[0])
    facts = json.loads((run / "run.json").read_text())
    assert {"command", "git", "packages", "hardware", "seeds", "data", "settings_digest"} <= set(facts)
    assert facts["data"]["local"]["digest"]
    assert (
        "is done"
        in mft(
            "train", "method=masked_thought", *tiny_overrides(tiny_model, problem_file, run_dir="run"), cwd=tmp_path
        ).stdout
    )


def test_the_same_command_finds_its_own_folder(tiny_model, problem_file, tmp_path):
    same = tiny_overrides(tiny_model, problem_file)
    assert mft("train", *same, cwd=tmp_path).returncode == 0
    again = mft("train", *same, "log.every_steps=2", cwd=tmp_path)
    assert "is done" in again.stdout
    assert mft("train", *same, "seed=2", cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "outputs").glob("sft-local-s*"))) == 2


def test_sweep(tiny_model, problem_file, tmp_path):
    done = mft(
        "train",
        "-m",
        "method=masked_thought",
        "method.mask_ratio=0.1,2,0.4",
        *tiny_overrides(tiny_model, problem_file),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "method.mask_ratio=2" in done.stderr
    found = [json.loads(p.read_text())["state"] for p in (tmp_path / "outputs").glob("masked_thought-*/state.json")]
    assert found == ["done", "done"]  # the impossible job does not cost the others


def test_other_settings_in_the_same_folder_are_refused(tiny_model, problem_file, tmp_path):
    assert mft("train", *tiny_overrides(tiny_model, problem_file, run_dir="run"), cwd=tmp_path).returncode == 0
    before = files(tmp_path / "run")
    other = mft(
        "train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.learning_rate": 0.5}), cwd=tmp_path
    )
    assert other.returncode == 2
    assert "train.learning_rate was 0.01, is 0.5" in other.stderr
    assert files(tmp_path / "run") == before
    longer = mft("train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.epochs": 2}), cwd=tmp_path)
    assert longer.returncode == 2
    retimed = mft(
        "train",
        *tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.epochs": 2, "checkpoint.retime": "true"}),
        cwd=tmp_path,
    )
    assert retimed.returncode == 0, retimed.stderr
    assert [r["step"] for r in rows(tmp_path / "run", "train")] == list(range(1, 11))


def test_two_processes_in_one_folder(tiny_model, problem_file, tmp_path):
    long = tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.epochs": 4000})
    first = start("train", *long, cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
        second = mft("train", *long, cwd=tmp_path)
        assert second.returncode == 2
        assert "in use by another mft process" in second.stderr
    finally:
        first.kill()
        first.wait()


def wait_for(condition, timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def count_rows(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_text().count("\n")
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_finish_the_step_and_save(tiny_model, problem_file, tmp_path, name):
    long = tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.max_steps": 4000})
    process = start("train", *long, cwd=tmp_path)
    wait_for(lambda: count_rows(tmp_path / "run") > 3)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert name in output
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["state"] == "stopped"
    trained = rows(tmp_path / "run", "train")
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1].name
    assert int(saved.removeprefix("step-")) == trained[-1]["step"] == state["step"]


def test_a_terminal_that_is_closed_stops_and_saves(tiny_model, problem_file, tmp_path):
    """A hang-up: the signal comes, and whatever is printed from then on is refused."""
    master, terminal = pty.openpty()
    long = tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.max_steps": 4000})

    def take_terminal() -> None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "mft_cli", "train", *long], cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(terminal)
    wait_for(lambda: count_rows(tmp_path / "run") > 3)
    os.close(master)
    assert process.wait(timeout=120) == 75
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["state"], state["by"]) == ("stopped", "SIGHUP")
    assert (tmp_path / "run" / "checkpoints" / f"step-{state['step']:08d}").is_dir()


KILLS = int(os.environ.get("MFT_TEST_KILLS", "10"))


def test_kill_at_any_moment_ends_in_the_same_weights(tiny_model, problem_file, tmp_path):
    """kill -9 at random moments, again and again; the run that survives has byte-identical weights and metrics."""
    more = {"train.max_steps": 60, "checkpoint.every_steps": 3}
    settings = ["method=masked_thought", *tiny_overrides(tiny_model, problem_file, **more)]
    assert mft("train", *settings, "run_dir=whole", cwd=tmp_path).returncode == 0
    rng, killed = random.Random(7), 0
    for _ in range(KILLS):
        process = start("train", *settings, "run_dir=cut", cwd=tmp_path)
        done_before = count_rows(tmp_path / "cut")
        target = done_before + rng.randint(1, 6)
        wait_for(
            lambda p=process, t=target: (
                p.poll() is not None or count_rows(tmp_path / "cut") >= t or rng.random() < 0.002
            )
        )
        time.sleep(rng.random() * 0.03)
        process.kill()
        killed += process.wait() == -9
    assert killed >= KILLS // 2
    assert mft("train", *settings, "run_dir=cut", cwd=tmp_path).returncode == 0
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    names = files(whole) - {"train.log", "run.json", "state.json", "config.yaml", ".lock", "metrics.jsonl"}
    assert files(whole) == files(cut)
    for name in sorted(n for n in names if n.endswith("safetensors")):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    timing = ("tokens_per_s", "step_s", "memory_gb")
    strip = [[{k: v for k, v in r.items() if k not in timing} for r in rows(d, "train")] for d in (whole, cut)]
    assert strip[0] == strip[1]


def test_numbers_that_are_not_finite(tiny_model, problem_file, tmp_path):
    """A rate that blows up: steps are skipped and counted; the run stops with a checkpoint and names the examples."""
    more = {
        "train.learning_rate": 1000,
        "train.weight_decay": 1e12,
        "train.warmup_fraction": 0,
        "train.max_steps": 50,
        "train.max_bad_steps": 3,
        "train.max_grad_norm": 0,
    }
    done = mft("train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **more), cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert "3 steps in a row" in done.stderr
    assert "problems.jsonl:" in done.stderr
    trained = rows(tmp_path / "run", "train")
    assert [r["skipped"] for r in trained[-3:]] == [True] * 3
    assert trained[-1]["loss"] is None or trained[-1]["grad_norm"] is None
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "failed"


def test_best_checkpoint_is_kept_and_exported(tiny_model, problem_file, tmp_path):
    more = {
        "data.validation.rows": 6,
        "data.validation.every_steps": 2,
        "checkpoint.keep_best": "true",
        "train.max_steps": 12,
        "train.learning_rate": 0.3,
    }
    done = mft("train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **more), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    found = rows(run, "validation")
    assert [r["step"] for r in found] == [2, 4, 6, 8, 10, 12]
    best = min(found, key=lambda r: r["loss"])["step"]
    assert (run / "checkpoints" / f"step-{best:08d}").is_dir()
    assert json.loads((run / "export-best" / "mft.json").read_text())["step"] == best


def test_samples_and_followers_that_fail(tiny_model, problem_file, tmp_path):
    (tmp_path / "wandb.py").write_text("def init(**settings):\n    raise RuntimeError('no network')\n")
    more = {"log.samples_every_steps": 2, "log.sample_tokens": 4, "log.wandb": "online", "log.tensorboard": "true"}
    done = mft(
        "train",
        *tiny_overrides(tiny_model, problem_file, run_dir="run", **more),
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    assert "WandbFollower cannot start" in done.stdout
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "samples.jsonl").open()] == [2, 2, 4, 4]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    plain = mft("train", *tiny_overrides(tiny_model, problem_file, run_dir="plain"), cwd=tmp_path)
    assert plain.returncode == 0
    weights = [(tmp_path / d / "export" / "model.safetensors").read_bytes() for d in ("run", "plain")]
    assert weights[0] == weights[1]  # watching changes nothing


def test_no_secret_in_any_file(tiny_model, problem_file, tmp_path):
    secret = "hf_ThisIsASecret"
    done = mft(
        "train",
        *tiny_overrides(tiny_model, problem_file, run_dir="run"),
        cwd=tmp_path,
        env={"HF_TOKEN": secret, "WANDB_API_KEY": secret},
    )
    assert done.returncode == 0
    for path in (p for p in (tmp_path / "run").rglob("*") if p.is_file()):
        assert secret.encode() not in path.read_bytes(), path


def test_full_disk(tiny_model, problem_file, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        more = {"checkpoint.every_steps": 1, "checkpoint.keep_last": 9, "run_dir": disk / "run"}
        done = mft("train", *tiny_overrides(tiny_model, problem_file, **more), cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "no space left" in done.stderr.lower()
        from mft_cli.train import checkpoint

        assert checkpoint.newest_verified(disk / "run" / "checkpoints", print) is not None
        assert not list((disk / "run" / "checkpoints").glob(".tmp*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_examples_longer_than_the_models_context(tiny_model, tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "q " * 400, "answer": "a"}) + "\n")
    more = {"data.max_length": 2000, "run_dir": "run"}
    done = mft("train", *tiny_overrides(tiny_model, long, **more), cwd=tmp_path)
    assert done.returncode == 2
    assert "the model has 512 positions" in done.stderr


def test_fp16_needs_a_gpu(tiny_model, problem_file, tmp_path):
    more = {"train.precision": "fp16", "launch.device": "cpu", "run_dir": "run"}
    done = mft("train", *tiny_overrides(tiny_model, problem_file, **more), cwd=tmp_path)
    assert done.returncode == 2
    assert "fp16 needs a GPU" in done.stderr


def test_training_ends_in_an_evaluation_that_is_not_done_twice(tiny_model, problem_file, tmp_path):
    more = {
        "run_dir": "run", "eval": "gsm_symbolic", "eval.engine": "hf", "eval.benchmarks.gsm_symbolic.limit": 3,
        "eval.benchmarks.gsm_symbolic.max_new_tokens": 4, "eval.dtype": "float32",
    }  # fmt: skip
    command = ["train", "method=masked_thought", *tiny_overrides(tiny_model, problem_file, **more)]
    done = mft(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "run" / "eval" / "gsm_symbolic"
    assert {p.name for p in results.iterdir()} == {"generations.jsonl", "scores.jsonl", "metrics.json", "gold.jsonl"}
    metrics = json.loads((results / "metrics.json").read_text())
    assert (metrics["n"], metrics["engine"]["name"]) == (3, "hf")
    assert "## Scores" in (tmp_path / "run" / "export" / "README.md").read_text()
    before = (results / "generations.jsonl").stat().st_mtime_ns
    again = mft(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "is done" in again.stdout
    assert (results / "generations.jsonl").stat().st_mtime_ns == before
    page = mft("report", "run", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert (tmp_path / "run" / "report" / "report.html").stat().st_size > 10_000
    scored = mft(
        "score", "eval=gsm_symbolic", f"generations={results / 'generations.jsonl'}", "out=again",
        "eval.benchmarks.gsm_symbolic.limit=3", cwd=tmp_path,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    same = [json.loads((d / "metrics.json").read_text())["accuracy"] for d in (results, tmp_path / "again")]
    assert same[0] == same[1]


def test_all_checkpoints_are_evaluated(tiny_model, problem_file, tmp_path):
    more = {
        "run_dir": "run", "train.max_steps": 4, "checkpoint.every_steps": 2, "eval": "gsm_symbolic", "eval.engine": "hf",
        "eval.benchmarks.gsm_symbolic.limit": 2, "eval.benchmarks.gsm_symbolic.max_new_tokens": 2,
        "eval.checkpoints": "all", "eval.gold_logprob": "false", "eval.dtype": "float32",
    }  # fmt: skip
    done = mft("train", *tiny_overrides(tiny_model, problem_file, **more), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("eval", "eval-step-00000002"):
        assert json.loads((tmp_path / "run" / name / "gsm_symbolic" / "metrics.json").read_text())["n"] == 2
    steps = [
        json.loads((tmp_path / "run" / e / "mft.json").read_text())["step"] for e in ("export", "export-step-00000002")
    ]
    assert steps == [4, 2]


def test_a_model_that_is_none(tmp_path, problem_file):
    (tmp_path / "empty").mkdir()
    done = mft("train", *tiny_overrides(tmp_path / "empty", problem_file, run_dir="run"), cwd=tmp_path)
    assert done.returncode == 2
    assert "config.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_changed_data_is_noticed(tiny_model, problem_file, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(problem_file.read_text())
    command = ["train", *tiny_overrides(tiny_model, data, run_dir="run")]
    assert mft(*command, cwd=tmp_path).returncode == 0
    data.write_text(problem_file.read_text().replace("plus", "and"))
    again = mft(*command, cwd=tmp_path)
    assert again.returncode == 2
    assert "another version of" in again.stderr
    anew = mft(*command, "checkpoint.resume=false", cwd=tmp_path)
    assert anew.returncode == 0, anew.stderr


def test_changed_weights_are_noticed(tiny_model, problem_file, tmp_path):
    """Checkpoints hold what trains; frozen weights are read again from model.path."""
    import shutil

    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    command = ["train", *tiny_overrides(model, problem_file, run_dir="run")]
    assert mft(*command, cwd=tmp_path).returncode == 0
    weights = {name: 1.5 * tensor for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    again = mft(*command, cwd=tmp_path)
    assert again.returncode == 2
    assert f"other weights than model.path={model} now holds" in again.stderr


def test_a_continued_run_inherits_what_its_base_was_made_from(tiny_model, problem_file, tmp_path):
    first = tiny_overrides(
        tiny_model, problem_file, run_dir="first", **{"data.sources.local.derived_from": "[gsm8k_test]"}
    )
    assert mft("train", *first, cwd=tmp_path).returncode == 0
    second = tiny_overrides(tmp_path / "first" / "export", problem_file, run_dir="second")
    assert mft("train", *second, cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "second" / "export" / "mft.json").read_text())["derived_from"] == ["gsm8k_test"]


def test_a_damaged_newest_checkpoint_does_not_push_good_ones_out(tiny_model, problem_file, tmp_path):
    more = {"train.max_steps": 6, "checkpoint.every_steps": 2}
    command = ["train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **more)]
    assert mft(*command, "checkpoint.keep_last=2", cwd=tmp_path).returncode == 0
    run = tmp_path / "run"
    weights = (run / "export" / "model.safetensors").read_bytes()
    (run / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"damaged")
    (run / "state.json").unlink()
    done = mft(*command, "checkpoint.keep_last=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stdout
    assert "going on from run/checkpoints/step-00000004" in done.stdout
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000006"]
    assert (run / "export" / "model.safetensors").read_bytes() == weights


def test_an_installed_mft_does_not_take_the_repository_around_it_for_its_own(tmp_path: Path):
    def git(*words: str, folder: Path) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    def recorded(folder: Path) -> str:
        code = "from mft_cli.provenance import git_state; print((git_state() or {}).get('commit'))"
        env = {**os.environ, "PYTHONPATH": str(folder)}
        return subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True
        ).stdout

    installed = tmp_path / ".venv"
    shutil.copytree(ROOT / "mft_cli", installed / "mft_cli", ignore=shutil.ignore_patterns("__pycache__"))
    git("init", folder=tmp_path)
    mine = ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "of a project that uses mft")
    git(*mine, folder=tmp_path)
    assert recorded(installed) == "None\n"
    if (ROOT / ".git").exists():
        assert recorded(ROOT).strip() == git("rev-parse", "HEAD", folder=ROOT)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_anew(tiny_model, problem_file, tmp_path):
    more = {"train.max_steps": 4, "checkpoint.every_steps": 2, "checkpoint.keep_last": 2}
    command = ["train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **more)]
    assert mft(*command, cwd=tmp_path).returncode == 0
    run = tmp_path / "run"
    (run / "state.json").unlink()
    before = (run / "metrics.jsonl").read_text()
    for step in (2, 4):
        (run / "checkpoints" / f"step-{step:08d}" / "model.safetensors").write_bytes(b"damaged")
    for ranks in ([], ["launch.processes=2"]):
        done = mft(*command, *ranks, cwd=tmp_path)
        assert done.returncode == 2, done.stdout
        [line] = [line for line in done.stderr.splitlines() if "no checkpoint can be used" in line]
        assert "run/checkpoints" in line
        assert "step-00000004 (model.safetensors has 7 bytes instead of" in line
        assert "step-00000002" in line
        assert "Traceback" not in done.stderr
        assert (run / "metrics.jsonl").read_text() == before
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
    (run / "checkpoints").rename(run / "damaged")
    assert mft(*command, cwd=tmp_path).returncode == 0


def test_a_kill_in_the_first_save_leaves_nothing_to_refuse(tiny_model, problem_file, tmp_path):
    half = tmp_path / "run" / "checkpoints" / ".tmp-step-00000002-1"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    command = ["train", *tiny_overrides(tiny_model, problem_file, run_dir="run", **{"train.max_steps": 4})]
    done = mft(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not half.exists()
