"""`mft critique` on real GSM8K questions with SmolLM2-135M and a scripted teacher of known quality, then a few steps.

    MFT_DATA_DIR=<folder with gsm8k/train.jsonl> python scripts/critique_demo.py [OUT]

The teacher is a scripted endpoint on loopback that looks the gold answer up: it answers 3 of 4 questions rightly, and its
first answer to every fourth solution lacks the format. A real teacher knows no gold answer; this one shows the pipeline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.endpoint import chat, serving  # noqa: E402


def teacher(golds: dict[str, str]) -> Any:
    """A script for the endpoint: what it says depends on the question, the solution and the number of the try."""
    tries: dict[str, int] = {}

    def answer(number: int, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][-1]["content"]
        tries[text] = tries.get(text, 0) + 1
        gold = next(g for q, g in golds.items() if q in text)
        if zlib.crc32(text.encode()) % 4 == 0 and tries[text] == 1:
            return chat("The solution looks plausible to me.", tokens=8)
        given = gold if zlib.crc32(gold.encode()) % 4 else "0"
        return chat(
            "<think><critique>The steps were compared with the question, one by one; the last of them does not follow "
            f"from those before it.</critique><reasoning>Counting again gives {given}.</reasoning></think>"
            f"<ans>\\boxed{{{given}}}</ans>",
            tokens=60,
        )

    return answer


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/critique_demo")
    source = Path(os.environ["MFT_DATA_DIR"]) / "gsm8k/train.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").split("\n") if line]
    golds = {r["question"]: r["answer"].rpartition("#### ")[2] for r in rows}
    env = {**os.environ, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "mft_cli"]
    with serving(teacher(golds)) as (_, url):
        asked = [
            "critique", "model=smollm2_135m", "data=gsm8k", "solutions.questions=8", "solutions.samples=2",
            "solutions.max_new_tokens=96", "eval.engine=hf", "launch.threads=1", "teacher.eval.engine=api",
            f"teacher.eval.api.base_url={url}", "teacher.eval.api.model=scripted", f"run_dir={out / 'data'}",
        ]  # fmt: skip
        subprocess.run([*command, *asked, "budget.requests=12"], env=env, check=True)
        print("---- once more, with a larger budget", flush=True)
        subprocess.run([*command, *asked, "budget.requests=100"], env=env, check=True)
    print("---- training", flush=True)
    subprocess.run(
        [
            *command, "train", "model=smollm2_135m", "method=masked_critique", "data=critique",
            f"data.sources.critique.path={out / 'data' / 'train.jsonl'}",
            "data.sources.critique.derived_from=[gsm8k_train]", "method.format_term=tag_likelihood",
            "train.global_batch_size=4", "train.max_steps=3", "train.learning_rate=1e-4", "launch.threads=1",
            "data.max_length=1024", f"run_dir={out / 'run'}",
        ],
        env=env, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
