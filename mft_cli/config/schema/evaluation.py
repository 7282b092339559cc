"""Evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import (
    STRICT,
    AtLeastOne,
    Count,
    FileName,
    Fraction,
    NonNegative,
    Positive,
    Processes,
    Seconds,
    Seed,
    Share,
    Values,
    key,
)
from mft_cli.config.schema.inputs import PromptConfig, SourceConfig
from mft_cli.config.schema.likelihood import LikelihoodConfig


@dataclass(config=STRICT)
class BenchmarkConfig:
    """One benchmark: rows, prompt, decoding, and how an answer is read and compared."""

    source: SourceConfig = key(SourceConfig, "The problems; its question, response (gold solution) and answer fields.")
    problems: AtLeastOne | None = key(None, "Problems that it has as published; another number is reported.")
    answer_type: Literal[
        "number", "math", "choice", "text", "steps", "code", "instructions", "judged", "likelihood", "perplexity"
    ] = key(
        "number",
        "How answers are compared: number, math (LaTeX), choice (letter), text (exact), steps, code (tests) ...",
    )
    likelihood: LikelihoodConfig = key(
        LikelihoodConfig, "How rows become options (answer_type likelihood).", needs="answer_type=likelihood"
    )
    gold_fields: list[str] = key([], "The gold is these fields of the row as JSON; name=field: under another name.")
    group: str | None = key(
        None, "Field that names the base problem of a variant: adds robust and per-problem accuracy."
    )
    clean: str | None = key(None, "Benchmark with the base problems themselves, for accuracy relative to theirs.")
    labels: list[str] = key([], "With group: fields that say what kind of variant a row is; accuracy for each value.")
    round_to_gold: bool = key(False, "An answer counts that rounds to the gold at the gold's last decimal.")
    gold_marker: str | None = key(None, "The gold answer is what follows this in the gold field.")
    unreadable_golds: Fraction = key(
        0.01, "Share of the golds that answer_type may fail to read; more of them refuse the benchmark."
    )
    markers: list[str] = key(
        ["<answer>", "<ans>"],
        "Markers that announce the final answer in a completion, with gold_marker; the last one counts.",
    )
    last_number: bool = key(
        False, "Word problems: a completion that announces no answer ends in it; false: it is unparsed."
    )
    prompt: PromptConfig | None = key(None, "The benchmark's own prompt; null: the run's, or eval.prompt.")
    instruction: str | None = key(None, "Text after the question, in any prompt: how the answer is to be given.")
    second_prompt: PromptConfig | None = key(
        None, "Prompt of a second pass; {question} and {solution}, the first pass's completion, go into its template."
    )
    max_new_tokens: AtLeastOne = key(512, "Longest completion in tokens.")
    temperature: NonNegative = key(0.0, "Sampling temperature; 0 is greedy.")
    top_p: Share = key(1.0, "Nucleus sampling.")
    top_k: Count = key(0, "Sample among this many of the likeliest tokens; 0: all.", needs="temperature!=0.0")
    min_p: Fraction = key(
        0.0, "Sample among tokens of at least this share of the likeliest one's probability.", needs="temperature!=0.0"
    )
    repetition_penalty: Positive = key(
        1.0, "Divides the logits of tokens that prompt or completion already hold (negative ones: times); 1 is off."
    )
    stop_ids: list[Count] = key([], "Token ids that end a completion, besides the model's and the prompt's own.")
    samples: AtLeastOne = key(1, "Completions a problem; pass@1 is their mean.")
    domain: str | None = key(None, "Domain of the benchmark for the report's cross-domain table; null: by its name.")
    limit: AtLeastOne | None = key(None, "Take this many problems (seeded draw, the same for every model).")

    @property
    def generates(self) -> bool:
        """Whether completions are generated; else the log-likelihoods of texts that are there decide."""
        return self.answer_type not in ("likelihood", "perplexity")


@dataclass(config=STRICT)
class ApiConfig:
    """An OpenAI-compatible endpoint (eval.engine=api)."""

    base_url: str = key("", "Its address, such as http://localhost:8000/v1.")
    model: str = key("", "Name of the model there.")
    version: str = key("", "Your own mark of what is served under that name; another mark makes new completions.")
    key_env: str | None = key(None, "NAME of the environment variable that holds the key; null: none is sent.")
    send: Literal["auto", "messages", "text", "tokens"] = key(
        "auto", "messages (chat endpoint), text or token ids (completions endpoint); auto: by the prompt's kind."
    )
    concurrency: Processes = key(16, "Requests under way at the same time.")
    retries: Count = key(6, "Further tries of a request that fails, stalls or is answered with nonsense.")
    backoff_s: Seconds = key(1.0, "Wait before the first further try; doubled each time, at most 60 s.")
    timeout_s: Seconds = key(300.0, "Longest wait for one answer.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = key(
        "max_tokens", "What the endpoint calls the limit of new tokens."
    )
    extra: Values = key({}, "More fields of every request's body.")


@dataclass(config=STRICT)
class EvalConfig:
    """Evaluation of an exported model."""

    benchmarks: dict[FileName, BenchmarkConfig] = key({}, "What to evaluate; filled by eval=<name> or eval=[a,b].")
    engine: Literal["auto", "vllm", "hf", "api"] = key(
        "auto", "auto: vllm where installed, else hf (transformers); api: an OpenAI-compatible endpoint."
    )
    decoding: Literal["benchmark", "model"] = key(
        "benchmark",
        "Where temperature, top_p, top_k, min_p and repetition_penalty come from: the benchmark's keys, or the model's own "
        "generation_config.json.",
    )
    decode: str = key(
        "plain",
        "plain; with an exported refinement head also verify (it drafts, the model verifies: plain's text in fewer "
        "passes) and refine (chunks are unmasked by the head).",
    )
    refine_accept: AtLeastOne = key(
        4, "Tokens of a chunk that are accepted in a round (decode=refine).", needs="decode=refine"
    )
    refine_order: Literal["left", "confidence"] = key(
        "left", "Which of them: from the left, or the most confident ones (decode=refine).", needs="decode=refine"
    )
    refine_steps: Count | None = key(
        None,
        "Refinement steps at most; null: as trained; 0: the backbone alone (decode=verify, refine).",
        needs="decode=refine|verify",
    )
    api: ApiConfig = key(ApiConfig, "The endpoint of eval.engine=api.", needs="engine=api")
    judge: ApiConfig = key(ApiConfig, "The endpoint of the language model that judges (answer_type judged).")
    replicas: Processes | None = key(None, "Copies of the model over one work queue; null: one a GPU, one on a CPU.")
    tensor_parallel: Processes | None = key(
        None,
        "GPUs that share one copy of the model (vllm); null: the fewest that it fits on.",
        needs="engine=auto|vllm",
    )
    logprobs: bool = key(False, "Keep each completion's mean token log-probability and mean token entropy.")
    token_logprobs: bool = key(False, "With logprobs: keep every token's log-probability, too.", needs="logprobs=true")
    logprobs_top: AtLeastOne = key(
        20, "Likeliest tokens that the entropy is computed from where not all are available.", needs="logprobs=true"
    )
    every_steps: Count = key(
        0,
        "mft train: evaluate also every this many steps (eval.live says where); 0: only at its end.",
    )
    live: Literal["inside", "beside"] = key(
        "inside",
        "Where eval.every_steps evaluates. inside: in the training's process by plain transformers; beside: that step's export by "
        "eval.engine in a process of its own, on the GPUs without a rank, while the training waits.",
        needs="every_steps",
    )
    every_limit: AtLeastOne | None = key(
        None,
        "Take at most this many problems of every benchmark (seeded draw) for eval.every_steps.",
        needs="every_steps",
    )
    checkpoints: Literal["last", "best", "all"] = key("last", "Which checkpoints of a training run are evaluated.")
    own_process: bool = key(
        True,
        "mft train: evaluate in a process of its own, when the trainer's memory is free; false: in the training's, which saves "
        "the seconds that a process needs to start (small models).",
    )
    prompt: PromptConfig | None = key(None, "Prompt for all; null: the one recorded in the export, else chat or raw.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto", "Precision of generation; auto: as train.precision."
    )
    batch_size: AtLeastOne = key(16, "Prompts at a time (hf engine).", needs="engine=auto|hf")
    max_model_len: AtLeastOne | None = key(None, "Context in tokens; null: what the longest prompt needs.")
    enforce_eager: bool | None = key(
        None, "vllm without compilation; null: eager on CPU, compiled on GPU.", needs="engine=auto|vllm"
    )
    kv_cache_gb: Positive = key(2.0, "vllm's cache on CPU in GiB.", needs="engine=auto|vllm")
    gpu_memory: Fraction = key(0.9, "Share of a GPU's memory for vllm.", needs="engine=auto|vllm")
    gold_logprob: bool = key(True, "Also measure the mean log-likelihood per token of the gold solutions.")
    limit: AtLeastOne | None = key(
        None, "Take at most this many problems (seeded draw) of every benchmark that has no limit of its own."
    )
    seed: Seed = key(0, "Seed of sampling and of the draw of problems.")
    score_workers: Processes = key(2, "Processes that compare answers.")
    answer_timeout_s: Seconds = key(5.0, "Time that one answer may take to compare.")
    code_timeout_s: Seconds = key(5.0, "Time that one call of a generated function may take; a problem: 30 times that.")
    allow_unsandboxed: bool = key(
        False, "Run generated programs without a sandbox if none can be made: at your own risk."
    )
    failure_threshold: NonNegative | None = key(
        None, "Mean entropy (nats a token) above which an answer is flagged as probably wrong; null: chosen, see docs."
    )
