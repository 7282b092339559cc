"""Speed of `mft eval` against vLLM called directly on the same prompts: python scripts/bench/eval_overhead.py MODEL

One process loads one engine. It generates the same token ids alternately through LLM.generate and through evaluation's
own path (journal, decoding, scoring, metrics.json), several times, and prints the ratio of the median times. The
prefix cache is emptied before each. Goal: at least 0.95 of vLLM's own speed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import ModelConfig, SourceConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.eval.session import Session


def configuration(model: str, problems: int, tokens: int, dtype: str) -> EvalRunConfig:
    source = SourceConfig(
        path="generated:gsm_symbolic", split="test", rows=problems, response="metadata.answer_cot", answer="answer"
    )
    benchmark = BenchmarkConfig(source=source, max_new_tokens=tokens)
    evaluation = EvalConfig(benchmarks={"bench": benchmark}, engine="vllm", gold_logprob=False, replicas=1)
    evaluation.dtype = dtype  # type: ignore[assignment]
    return EvalRunConfig(model=ModelConfig(path=model), eval=evaluation)


def bare(llm: Any, plan: Any) -> float:
    from vllm import SamplingParams

    ends = list(plan.sampling.end_ids)
    settings = SamplingParams(temperature=0.0, max_tokens=plan.benchmark.max_new_tokens, stop_token_ids=ends)
    prompts: list[Any] = [{"prompt_token_ids": list(r.prompt)} for r in plan.requests]
    llm.reset_prefix_cache()
    start = time.perf_counter()
    outputs = llm.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - start
    print(f"bare vllm: {seconds:.2f} s, {sum(len(o.outputs[0].token_ids) for o in outputs)} tokens", flush=True)
    return seconds


def ours(session: Session, folder: Path) -> float:
    engine: Any = session.engine
    engine.llm.reset_prefix_cache()
    plan = session.plans(folder)[0]
    start = time.perf_counter()
    session.generate(plan, [plan])
    session.score(plan)
    seconds = time.perf_counter() - start
    tokens = sum(r["completion_tokens"] for r in plan.journal.done.values())
    print(f"mft eval:  {seconds:.2f} s, {tokens} tokens (generation to scores)", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = Session(configuration(options.model, options.problems, options.tokens, options.dtype), Path(folder))
        plans = session.plans(Path(folder) / "warm")
        session.load(plans)
        engine: Any = session.engine
        bare(engine.llm, plans[0])  # warms up
        times: list[tuple[float, float]] = []
        for turn in range(options.rounds):
            times.append((bare(engine.llm, plans[0]), ours(session, Path(folder) / str(turn))))
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"median: bare {first:.2f} s, mft {second:.2f} s; mft eval runs at {first / second:.3f} of vllm's speed")


if __name__ == "__main__":
    main()
