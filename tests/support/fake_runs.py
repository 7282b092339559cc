"""Makes run folders that follow the contract of ARCHITECTURE.md, with scores of known content."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

from mft_cli.stats import intervals

PROBLEMS = 40


def write_lines(path: Path, rows: list[dict[str, Any]], torn: bool = False) -> None:
    """A .jsonl file; `torn` cuts the last line in the middle, as a kill would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text[: -len(json.dumps(rows[-1])) // 2] if torn else text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def fake_run(
    folder: Path,
    *,
    method: str | None = "sft",
    seed: int = 1,
    steps: int = 120,
    state: str = "done",
    settings: dict[str, Any] | None = None,
    message: str = "",
) -> Path:
    """A training run without evaluations; method=None makes the folder of `mft eval`."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"run_dir": None, "model": {"path": "tiny/model"}, "prompt": {"name": "chat", "stop": []}}
    if method is not None:
        config |= {"seed": seed, "note": "", "method": {"name": method}, "data": {"name": "gsm8k", "max_length": 1024}}
        config["train"] = {"learning_rate": 1e-5, "epochs": 3.0, "schedule": "cosine"}
        if method == "masked_thought":
            config["method"] |= {"mask_ratio": 0.4, "warmup_fraction": 0.6667}
    for key, value in (settings or {}).items():
        section, _, name = key.partition(".")
        config.setdefault(section, {})[name] = value
    # JSON is YAML, but 1e-05 in it is the float that plain YAML 1.1 would take for a text.
    (folder / "config.yaml").write_text(json.dumps(config, indent=1))
    provenance = {
        "command": ["mft", "train"],
        "started": "2026-01-02T10:00:00+0000",
        "git": {"commit": "0123456789abcdef", "changed_files": []},
        "packages": {"torch": "2.11.0"},
        "hardware": {"cpu": "A CPU", "gpus": []},
    }
    write_json(folder / "run.json", provenance)
    more = {"step": steps, "total_steps": 120, "message": message} if method else {}
    write_json(folder / "state.json", {"state": state, "time": "2026-01-02T11:02:05+0000", **more})
    if method is not None:
        write_lines(folder / "metrics.jsonl", training_rows(method, seed, steps))
    return folder


def training_rows(method: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """A plausible training log."""
    noise = random.Random(f"{method}{seed}")
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        masked = 0.4 * min(1.0, step / 80) if method == "masked_thought" else 0.0
        loss = 0.5 + 1.2 * math.exp(-step / 30) + 0.4 * masked + noise.gauss(0, 0.06)
        rows.append(
            {
                "kind": "train",
                "step": step,
                "loss": loss if step != 7 else math.nan,
                "learning_rate": 1e-5 * 0.5 * (1 + math.cos(math.pi * step / 120)),
                "grad_norm": 1.0 + abs(noise.gauss(0, 0.4)) + 3 * math.exp(-step / 10),
                "masked_share": masked,
                "tokens_per_s": 5200 + noise.gauss(0, 150),
                "step_s": 1.5,
            }
        )
        if step % 30 == 0:
            rows.append(
                {"kind": "validation", "step": step, "loss": 0.55 + 1.1 * math.exp(-step / 30), "label_tokens": 99}
            )
    return rows


def fake_evaluation(
    run: Path,
    benchmark: str = "gsm8k",
    *,
    correct: set[int] | range = frozenset(),  # type: ignore[assignment]
    n: int = PROBLEMS,
    shift: float = 0.0,
    place: str = "eval",
    finished: bool = True,
    texts: dict[int, str] | None = None,
    metrics: dict[str, Any] | None = None,
    gold_of: dict[int, str] | None = None,
    samples: int = 1,
) -> Path:
    """eval/<benchmark>/ with the given problems solved; `shift` is added to every gold log-probability."""
    folder = run / place / benchmark
    generations, scores, gold = [], [], []
    for number in range(n):
        right = number in correct
        answer = str(7 * number) if right else str(7 * number + 1)
        text = (texts or {}).get(number, f"Let us think. Seven times {number} is {answer}.\n#### {answer}")
        key = f"test-{number}"
        gold_answer = (gold_of or {}).get(number, str(7 * number))
        for sample in range(samples):
            common = {"id": key, "sample": sample}
            counts = {"finish_reason": "stop", "prompt_tokens": 20, "completion_tokens": 30}
            generations.append({**common, "prompt": f"What is 7 times {number}?", "completion": text, **counts})
            scores.append({**common, "gold": gold_answer, "answer": answer, "correct": right, "status": "ok"})
        gold.append(
            {
                "id": key,
                "logprob_sum": -20.0 * (0.6 + (number % 7) / 10 - shift * (0.5 + number / (n - 1))),
                "tokens": 20,
            }
        )
    write_lines(folder / "generations.jsonl", generations, torn=not finished)
    if not finished:
        return folder
    write_lines(folder / "scores.jsonl", scores)
    write_lines(folder / "gold.jsonl", gold)
    accuracy = sum(number in correct for number in range(n)) / n
    values = [row["logprob_sum"] / row["tokens"] for row in gold]
    mean = sum(values) / n
    content = {
        "benchmark": benchmark,
        "n": n,
        "samples": samples,
        "accuracy": accuracy,
        "interval": intervals.wilson(round(accuracy * n), n),
        "interval_method": "wilson",
        "correct": int(accuracy * n),
        "unparsed": 1,
        "truncated": 0,
        "timed_out": 0,
        "gold_logprob": {"mean": mean, "interval": [mean - 0.05, mean + 0.05], "n": n, "tokens": 20 * n},
        "contaminated": None,
        "warnings": [],
        "prompt": {"name": "chat"},
        "engine": {"name": "hf", "version": "5.17", "dtype": "bfloat16"},
        "generations_digest": hashlib.sha256((folder / "generations.jsonl").read_bytes()).hexdigest(),
        "seconds": {"load": 3.0, "generate": 60.0, "score": 1.0, "gold": 5.0},
    }
    write_json(folder / "metrics.json", content | (metrics or {}))
    return folder


def write_completions(path: Path, samples: int = 1) -> Path:
    """Completions whose entropy is high where the answer is wrong, with two exceptions."""
    lines = []
    for i in range(40):
        for sample in range(samples):
            right = (i + sample) % 4 != 0
            entropy = 0.2 + i / 1000 + (0.0 if right else 0.5)
            lines.append({
                "id": f"p{i}", "sample": sample, "gold": "7", "completion": f"#### {7 if right else i + 50}",
                "mean_entropy": 0.9 if i in (1, 2) else entropy, "finish_reason": "stop",
            })  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


NASTY = (
    '</script><script>document.title="hacked"</script><img src=x onerror="document.title=1">'
    "\x1b[31mred\x1b[0m nul:\x00 rtl:\u202eabc lone:\ud800 & <b>bold</b> </textarea></div> | pipe `tick` #### 0"
)


def showcase(root: Path) -> Path:
    """A parent folder with the situations that a report must show."""
    rng = random.Random(5)
    base = fake_run(root / "base-eval", method=None)
    easy = {number for number in range(200) if rng.random() < 0.35}
    fake_evaluation(
        base,
        correct=easy,
        n=200,
        metrics={"unparsed": 60, "truncated": 31, "warnings": ["60 of 200 completions have no readable answer"]},
    )
    for method, shift, gain in (("sft", 0.20, 0.15), ("masked_thought", 0.26, 0.3)):
        for seed in (1, 2, 3):
            run = fake_run(root / f"{method}-gsm8k-s{seed}-4a{seed}f", method=method, seed=seed)
            solved = {n for n in range(200) if rng.random() < (0.9 if n in easy else gain)}
            fake_evaluation(run, correct=solved, n=200, shift=shift + seed / 100, texts={3: NASTY})
            fake_evaluation(run, "math-small", correct={n for n in solved if n < 60}, n=60, shift=shift)
    bad = {
        "contaminated": "data source metamath contains problems of gsm8k.",
        "warnings": ["The prompt has no stop text."],
    }
    again = fake_run(
        root / "masked_thought-gsm8k-s1-ratio0", method="masked_thought", settings={"method.mask_ratio": 0.0}
    )
    fake_evaluation(again, correct=easy, n=200, shift=0.2, metrics=bad)
    half = fake_run(root / "sft-long-s1-77aa", steps=57, state="stopped", settings={"train.epochs": 9.0})
    fake_evaluation(half, n=31, finished=False)
    fake_run(root / "sft-broken-s1-99bb", steps=12, state="failed", message="loss was not finite in 5 steps")
    return root
