"""Evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.schema.base import STRICT, AtLeastOne, Count, Fraction, NonNegative, Positive, key
from mft_cli.schema.inputs import PromptConfig, SourceConfig


@dataclass(config=STRICT)
class BenchmarkConfig:
    """One benchmark: rows, prompt, decoding, and how an answer is read and compared."""

    source: SourceConfig = key(SourceConfig, "The problems; its question, response (gold solution) and answer fields.")
    answer_type: Literal["number"] = key("number", "How answers are compared.")
    gold_fields: list[str] = key([], "The gold is these fields of the row as JSON (tests of a program, say).")
    gold_marker: str | None = key(None, "The gold answer is what follows this in the gold field.")
    markers: list[str] = key(["####"], "Markers that announce the final answer in a completion; the last one counts.")
    last_number: bool = key(True, "Fall back to the last number of a completion that has no marker or box.")
    prompt: PromptConfig | None = key(None, "The benchmark's own prompt; null: the run's, or eval.prompt.")
    max_new_tokens: AtLeastOne = key(512, "Longest completion in tokens.")
    temperature: NonNegative = key(0.0, "Sampling temperature; 0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] = key(1.0, "Nucleus sampling.")
    samples: AtLeastOne = key(1, "Completions a problem; pass@1 is their mean.")
    limit: AtLeastOne | None = key(None, "Take this many problems (seeded draw, the same for every model).")


@dataclass(config=STRICT)
class EvalConfig:
    """Evaluation of an exported model."""

    benchmarks: dict[str, BenchmarkConfig] = key({}, "What to evaluate; filled by eval=<name> or eval=[a,b].")
    engine: Literal["auto", "vllm", "hf"] = key("auto", "auto: vllm where installed, else hf (transformers).")
    decode: Literal["plain", "refine"] = key("plain", "refine: unmask chunk by chunk with method=chunk_refine's head.")
    refine_accept: AtLeastOne = key(4, "Tokens of a chunk that are accepted in a round (decode=refine).")
    checkpoints: Literal["last", "best", "all"] = key("last", "Which checkpoints of a training run are evaluated.")
    prompt: PromptConfig | None = key(None, "Prompt for all; null: the one recorded in the export, else chat or raw.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key("auto", "Precision of generation; auto: bfloat16.")
    batch_size: AtLeastOne = key(16, "Prompts at a time (hf engine).")
    max_model_len: AtLeastOne | None = key(None, "Context in tokens; null: what the longest prompt needs.")
    enforce_eager: bool | None = key(None, "vllm without compilation; null: eager on CPU, compiled on GPU.")
    kv_cache_gb: Positive = key(2.0, "vllm's cache on CPU in GiB.")
    gpu_memory: Fraction = key(0.9, "Share of a GPU's memory for vllm.")
    gold_logprob: bool = key(True, "Also measure the mean log-probability of the gold solutions.")
    seed: Count = key(0, "Seed of sampling and of the draw of problems.")
    score_workers: AtLeastOne = key(2, "Processes that compare answers.")
    answer_timeout_s: Positive = key(5.0, "Time that one answer may take to compare.")
