"""Checks of evaluation settings that need more than one key, before torch."""

from __future__ import annotations

import importlib.util
import re

from mft_cli.config import schema
from mft_cli.config.checks_sources import check_model_path, check_paths, check_source, missing_file
from mft_cli.errors import UserError


def check_answers(prefix: str, benchmark: schema.BenchmarkConfig) -> None:
    """Settings of a benchmark that its answer type needs."""
    kind, source = benchmark.answer_type, benchmark.source
    if kind == "choice" and not (source.choices or source.answer):
        raise UserError(
            f"{prefix}.answer_type=choice needs source.choices (the options) and source.answer (the letter)"
        )
    if source.choices and not source.answer:
        raise UserError(f"{prefix}.source.choices needs source.answer: the field with the right letter, place or text")
    if kind in ("steps", "code", "instructions", "judged") and not benchmark.gold_fields:
        raise UserError(
            f"{prefix}.answer_type={kind} needs gold_fields: the fields of a row that are needed to judge it"
        )


def check_benchmarks(config: schema.EvalConfig) -> None:
    """Mistakes in the evaluation, told before a training is paid for."""
    for name, benchmark in config.benchmarks.items():
        prefix = f"eval.benchmarks.{name}"
        check_source(f"{prefix}.source", benchmark.source)
        check_answers(prefix, benchmark)
        if missing := missing_file(benchmark.source.path):
            raise UserError(f"{prefix}.source.path={missing}: no such file or folder")
        if benchmark.samples > 1 and benchmark.temperature == 0 and config.decoding == "benchmark":
            raise UserError(
                f"{prefix}.samples={benchmark.samples} would be the same text: set {prefix}.temperature above 0"
            )
        second = benchmark.second_prompt
        if second is not None and ("{solution}" not in second.template or "{question}" not in second.template):
            raise UserError(f"{prefix}.second_prompt.template needs both {{question}} and {{solution}}")
        if benchmark.answer_type == "judged" and (config.judge.base_url or config.judge.model):
            check_endpoint("eval.judge", config.judge)
        check_sampling(prefix, benchmark, config)
        if not benchmark.generates:
            check_log_likelihoods(prefix, benchmark, config)
    if config.engine == "api":
        check_api(config)
    check_decode(config)
    if config.engine == "vllm" and config.benchmarks and importlib.util.find_spec("vllm") is None:
        raise UserError("eval.engine=vllm, but vllm is not installed: pip install vllm==0.32.0, or use eval.engine=hf")


def check_log_likelihoods(prefix: str, benchmark: schema.BenchmarkConfig, config: schema.EvalConfig) -> None:
    """Choice tasks and perplexity: nothing is generated. Raises UserError."""
    if config.engine == "api" or benchmark.samples > 1:
        raise UserError(
            f"{prefix}.answer_type={benchmark.answer_type} reads a model's own log-likelihoods once: leave out samples, and "
            f"eval.engine=api"
        )
    if benchmark.answer_type == "perplexity" and not benchmark.source.response:
        raise UserError(f"{prefix}.source.response=null: perplexity needs the field with the text, such as text")
    rule = benchmark.likelihood
    if rule.shots and not (rule.shots_path or rule.shots_split):
        raise UserError(
            f"{prefix}.likelihood.shots={rule.shots} needs rows that examples come from: set {prefix}.likelihood.shots_split "
            f"(of the same source) or .shots_path"
        )


def check_sampling(prefix: str, benchmark: schema.BenchmarkConfig, config: schema.EvalConfig) -> None:
    """Rules of sampling that not every way of decoding has. Raises UserError."""
    rules = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    changed = [name for name, off in rules.items() if getattr(benchmark, name) != off]
    if changed and config.decode != "plain":
        raise UserError(f"{prefix}.{changed[0]} needs eval.decode=plain; eval.decode={config.decode} does not know it")
    if benchmark.stop_ids and config.engine == "api" and config.api.send != "tokens":
        raise UserError(
            f"{prefix}.stop_ids={benchmark.stop_ids}: an endpoint that gets texts knows no ids: set eval.api.send=tokens, or "
            f"name stop texts in the prompt (prompt.stop)"
        )


def check_decode(config: schema.EvalConfig) -> None:
    """Decoding that is not plain belongs to a method and runs in plain transformers. Raises UserError."""
    decoders = sorted(name for method in schema.method_classes() for name in method.decoders)
    if config.decode == "plain":
        return
    if config.decode not in decoders:
        raise UserError(f"eval.decode={config.decode}: expected one of plain, {', '.join(decoders)}")
    if config.logprobs:
        raise UserError(f"eval.logprobs needs eval.decode=plain; eval.decode={config.decode} keeps none")
    if config.engine not in ("auto", "hf"):
        raise UserError(
            f"eval.decode={config.decode} runs in plain transformers: set eval.engine=hf or auto, or eval.decode=plain"
        )


def check_api(config: schema.EvalConfig) -> None:
    """The settings of eval.engine=api. Raises UserError."""
    check_endpoint("eval.api", config.api)
    if config.decoding == "model":
        raise UserError(
            "eval.decoding=model reads a model's folder, which an endpoint has not: set temperature and top_p"
        )
    if config.replicas is not None and config.replicas > 1:
        raise UserError(f"eval.replicas={config.replicas} does not go with eval.engine=api: set eval.api.concurrency")


def check_endpoint(prefix: str, api: schema.ApiConfig) -> None:
    """An endpoint's address, model and key's name. The key itself must never stand in a configuration or a message."""
    for name in ("base_url", "model"):
        if not getattr(api, name):
            raise UserError(f"{prefix}.{name} is empty: an endpoint needs its base_url and model")
    if not api.base_url.startswith(("http://", "https://")) or "@" in api.base_url:
        raise UserError(f"{prefix}.base_url: expected http://host/v1 or https://host/v1, without user and password")
    if api.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api.key_env):
        raise UserError(f"{prefix}.key_env: expected the NAME of an environment variable, such as OPENAI_API_KEY")


def check_eval(config: schema.EvalRunConfig) -> None:
    no_model = not config.model.path
    if no_model and config.eval.engine == "api" and config.eval.api.send == "tokens":
        raise UserError("eval.api.send=tokens needs model.path: the folder or hub id that holds the tokenizer")
    if no_model and config.eval.engine != "api":
        raise UserError("model.path is empty: name the model to evaluate, model.path=outputs/<run>/export or a hub id")
    if not config.eval.benchmarks:
        raise UserError("no benchmark: choose with eval=gsm8k or eval=[gsm8k,gsm_symbolic]")
    check_benchmarks(config.eval)
    check_paths(config.model, {})


def check_critique(config: schema.CritiqueRunConfig) -> None:
    """The settings of `mft critique`. Raises UserError."""
    if not config.data.sources:
        raise UserError("data.sources is empty: choose questions with data=<name>, such as data=gsm8k")
    for name, source in config.data.sources.items():
        check_source(f"data.sources.{name}", source)
        if source.layout not in ("auto", "question_response"):
            raise UserError(f"data.sources.{name}.layout={source.layout}: mft critique needs question_response rows")
    check_generator("model.path", config.model, "eval", config.eval)
    check_generator("teacher.model.path", config.teacher.model, "teacher.eval", config.teacher.eval)
    for prefix, prompt in (("teacher.prompt", config.teacher.prompt), ("row_prompt", config.row_prompt)):
        if "{solution}" not in prompt.template or "{question}" not in prompt.template:
            raise UserError(f"{prefix}.template needs both {{question}} and {{solution}}")
    if config.row_prompt.shots or config.row_prompt.system is not None:
        raise UserError("row_prompt takes a template only: shots and system belong to the prompt of the training")
    if config.solutions.samples > 1 and config.solutions.temperature == 0:
        raise UserError(
            f"solutions.samples={config.solutions.samples} would be the same text: set solutions.temperature above 0"
        )
    if config.teacher.retries and config.teacher.temperature == 0:
        raise UserError(
            f"teacher.retries={config.teacher.retries} would give the same text: set teacher.temperature above 0, "
            f"or teacher.retries=0"
        )
    tokens, longest = config.budget.tokens, config.teacher.max_new_tokens
    if tokens and tokens < longest:
        raise UserError(
            f"budget.tokens={tokens} holds not one answer of up to teacher.max_new_tokens={longest}: set it to at least "
            f"{longest}, or to 0 for solutions alone"
        )
    if config.eval.benchmarks or config.teacher.eval.benchmarks:
        raise UserError("mft critique evaluates no benchmark: leave eval= out, and choose the questions with data=")
    check_paths(config.model, config.data.sources)


def check_generator(prefix: str, model: schema.ModelConfig, engine: str, config: schema.EvalConfig) -> None:
    """A model that generates, at an endpoint or here."""
    if config.engine == "api":
        check_endpoint(f"{engine}.api", config.api)
        if config.api.send == "tokens" and not model.path:
            raise UserError(f"{engine}.api.send=tokens needs {prefix}: the folder or hub id that holds the tokenizer")
    elif not model.path:
        raise UserError(f"{prefix} is empty: name a model, or set {engine}.engine=api with {engine}.api.base_url")
    else:
        check_model_path(prefix, model.path)
