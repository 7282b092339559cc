"""eval.decode=verify against plain: passes of the backbone and wall time, the same text.

    python scripts/bench/verify.py [EXPORT] [questions=4] [tokens=48] [threads=2]

EXPORT is the export of a chunk_refine run; without it one is trained first, a dozen short steps of the embedded model on generated
problems: enough to time, not to judge a head by. With the defaults all of it takes less than three minutes on two cores. Greedy,
in fp32, one question at a time, so that the number of passes is what counts; refine_steps=0 in the last column says what the
head is worth: the draft is then made of the backbone's own states.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mft_cli.eval.engines.base import Completion, Loading, Request, Sampling
from mft_cli.eval.engines.decoders import DecoderEngine
from mft_cli.eval.engines.hf import HfEngine, load_model
from mft_cli.methods.decoding import DecoderSettings

QUESTIONS = [
    "A baker fills 6 trays with 14 rolls each and sells 59 rolls. How many rolls are left?",
    "A train ticket costs $18. Two adults and three children travel; children pay half. What do they pay?",
    "Mira reads 12 pages a day for 9 days. How many pages has she read?",
    "A tank holds 300 litres and is two thirds full. How many litres are in it?",
    "Three boxes hold 24 pencils each. Five children share them equally. How many are left over?",
    "A shirt costs $20 and is 25% off. What is the price of four such shirts?",
    "How many legs do 3 dogs and 2 hens have?",
    "Tom has twice as many marbles as Ann, who has 17. How many do they have together?",
]


def timed(
    make: Callable[[], HfEngine], requests: list[Request], ends: tuple[int, ...]
) -> tuple[HfEngine, dict[int, Completion], float]:
    """An engine, its completions and seconds. Another engine touches the model first: it is neither timed nor counted."""
    sampling = Sampling(0.0, 1.0, (), ends)
    make().generate(requests[:1], set(), sampling, lambda i, c: None, lambda n: None)
    engine = make()
    completions: dict[int, Completion] = {}
    start = time.perf_counter()
    engine.generate(requests, set(), sampling, completions.__setitem__, lambda n: None)
    return engine, completions, time.perf_counter() - start


def trained(folder: str) -> Path:
    """The export of a short training of the head, in `folder`."""
    run = Path(folder) / "run"
    settings = (
        "method=chunk_refine",
        "data=gsm_symbolic",
        "train.max_steps=12",
        "train.global_batch_size=4",
        "eval=none",
    )
    subprocess.run([sys.executable, "-m", "mft_cli", "train", *settings, f"run_dir={run}"], check=True)
    return run / "export"


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    named = [Path(argument) for argument in sys.argv[1:] if "=" not in argument]
    torch.set_num_threads(int(options.get("threads", 2)))
    with tempfile.TemporaryDirectory() as folder:
        export = named[0] if named else trained(folder)
        compare(export, int(options.get("questions", 4)), int(options.get("tokens", 48)))


def compare(export: Path, count: int, tokens: int) -> None:
    """Prints passes and seconds of plain decoding, of verify, and of verify without refinement, of `count` questions."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export)
    prompts = [f"Question: {q}\n\nLet's solve this step by step:\n" for q in QUESTIONS[:count]]
    requests = [Request(tuple(tokenizer(p)["input_ids"]), tokens) for p in prompts]
    ends = (int(tokenizer.eos_token_id),)
    loading = Loading("verify", str(export), None, str(export), "float32", "cpu", 2048, False)
    model = load_model(export, "float32", "cpu", False)
    _, plain, plain_s = timed(lambda: HfEngine(model, tokenizer, 1), requests, ends)
    made = sum(c.tokens for c in plain.values())
    print(f"plain: {made} tokens in {made} passes, {plain_s:.2f} s")
    for steps in (None, 0):
        settings = DecoderSettings(steps=steps)
        engine, verified, seconds = timed(partial(DecoderEngine, loading, tokenizer, 1, settings), requests, ends)
        assert isinstance(engine, DecoderEngine)
        same = sum(verified[i].text == plain[i].text for i in plain)
        label = "verify" if steps is None else "verify, refine_steps=0"
        print(f"{label}: {seconds:.2f} s, {plain_s / seconds:.2f} times as fast, {same} of {len(plain)} texts equal")
        print(f"  {engine.decoder.describe()}")


if __name__ == "__main__":
    main()
