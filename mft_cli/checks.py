"""Settings that are each valid but cannot go together, and files that are named but not there. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from mft_cli import schema, zero_settings
from mft_cli.errors import UserError


def check_train(config: schema.TrainConfig) -> None:
    """Settings that are each valid but cannot go together. Raises UserError."""
    t, d = config.train, config.data
    if not config.model.path:
        raise UserError("model.path is empty: choose a preset with model=<name>, or give a folder or hub id")
    if not d.sources:
        raise UserError(
            "data.sources is empty: choose a preset with data=<name>, or data=local data.sources.local.path=FILE"
        )
    for name, source in {**d.sources, **d.sources_validation}.items():
        check_source(f"data.sources.{name}", source)
        if source.response is None:
            raise UserError(f"data.sources.{name}.response=null: training rows need a response; name its field")
    if t.row_length is not None and t.packing and t.row_length < d.max_length:
        raise UserError(
            f"train.row_length={t.row_length}: an example of data.max_length={d.max_length} does not fit in"
        )
    if len(t.betas) != 2:
        raise UserError(f"train.betas={t.betas}: expected two numbers, such as [0.9, 0.95]")
    check_validation(config)
    check_method(config.method, config.model)
    zero_settings.check(config)
    check_launch(config.launch)
    check_peft(config)
    if zero_settings.stage(config.deepspeed) == 3 and config.log.samples_every_steps:
        raise UserError("log.samples_every_steps does not go with ZeRO stage 3: set it to 0, or deepspeed=zero2")
    if "{solution}" in config.prompt.template:
        raise UserError(
            f"prompt={config.prompt.name}: its template takes a {{solution}}, which training rows hold in their question "
            f"already: choose prompt=chat or prompt=raw"
        )
    if config.eval.engine == "api" and config.eval.benchmarks:
        raise UserError("eval.engine=api evaluates what an endpoint serves, not this training's export: use mft eval")
    check_benchmarks(config.eval)
    check_paths(config)


def check_validation(config: schema.TrainConfig) -> None:
    """The validation split, and what needs one. Raises UserError."""
    v, best = config.data.validation, config.eval.checkpoints == "best"
    if v.source is not None and v.source not in config.data.sources_validation:
        raise UserError(f"data.validation.source={v.source}: no such source under data.sources_validation")
    if v.fraction and v.rows:
        raise UserError(
            f"data.validation.fraction={v.fraction} and data.validation.rows={v.rows} both say how many rows validate: "
            f"set one of them to 0"
        )
    if v.fraction and v.source is not None:
        raise UserError(
            f"data.validation.fraction={v.fraction} takes training rows, data.validation.source={v.source} others: "
            f"set the fraction to 0, or the source to null"
        )
    if not v.wanted and (config.checkpoint.keep_best or best):
        raise UserError(
            "checkpoint.keep_best and eval.checkpoints=best need a validation split: set data.validation.rows or "
            "data.validation.fraction"
        )
    if best and not config.checkpoint.keep_best:
        raise UserError("eval.checkpoints=best needs checkpoint.keep_best=true")


def check_method(m: schema.MethodConfig, model: schema.ModelConfig) -> None:
    """A method's settings that contradict each other or the model. Raises UserError."""
    if isinstance(m, schema.MaskedThoughtConfig):
        if m.drop_attention and model.attention == "flash_attention_2":
            raise UserError(
                "method.drop_attention=true needs model.attention=sdpa or flex: flash-attention takes no mask"
            )
        if m.granularity == "step" and m.target != "response":
            raise UserError(f"method.granularity=step masks reasoning lines; method.target={m.target} has none")
        if m.noise != "token":
            check_noise(m)
    if isinstance(m, schema.MaskFinetuneConfig):
        check_mask_finetune(m, model.path)
    if isinstance(m, schema.ChunkRefineConfig):
        check_chunk_refine(m)


DRY_RUN = (
    "launch.dry_run=true prints what launch=slurm or hydra/launcher=mft_slurm would submit; for a run on this machine look at "
    "its settings with --cfg job, and at its memory and time with mft plan"
)


def check_launch(launch: schema.LaunchConfig) -> None:
    """Settings of the processes that contradict each other. Raises UserError."""
    if launch.gpus and launch.processes:
        raise UserError(
            f"launch.gpus={launch.gpus} and launch.processes={launch.processes}: give one of them, "
            "gpus for one process a GPU, processes on machines without GPUs"
        )
    if launch.dry_run and launch.name != "slurm":
        raise UserError(DRY_RUN)
    if launch.name == "local" and (launch.node_rank or 0) >= (launch.nodes or 1):
        raise UserError(
            f"launch.node_rank={launch.node_rank}: expected a number below launch.nodes={launch.nodes or 1}"
        )


def check_peft(config: schema.TrainConfig) -> None:
    """Adapters and 8-bit optimizers with what they cannot go with. Raises UserError."""
    peft, optimizer = config.peft.name, config.train.optimizer
    folder = Path(config.model.path).expanduser()
    if peft == "none" and (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"model.path={config.model.path} is an adapter: set peft=lora to train on from it, or take the merged model "
            f"(an export of mft has it one folder up)"
        )
    if not config.peft.targets:
        raise UserError("peft.targets=[]: expected auto or names of linear layers, such as [q_proj, v_proj]")
    if peft == "qlora":
        if config.train.precision == "fp32":
            raise UserError("peft=qlora computes in 16 bits: set train.precision=bf16")
        if zero_settings.is_on(config.deepspeed):
            raise UserError("peft=qlora keeps its 4-bit weights whole on every rank: set deepspeed=none")
    if optimizer != "adamw" and zero_settings.is_on(config.deepspeed):
        raise UserError(
            f"train.optimizer={optimizer} rounds its state in blocks, which ZeRO would cut otherwise for every number of "
            f"ranks: set deepspeed=none, or train.optimizer=adamw"
        )
    wants = "peft=qlora" if peft == "qlora" else f"train.optimizer={optimizer}" if optimizer != "adamw" else ""
    if wants and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{wants} needs the package bitsandbytes, which is not installed: pip install bitsandbytes==0.50.2"
        )


def check_noise(m: schema.MaskedThoughtConfig) -> None:
    """Keys that say how a token is masked, where none is. Raises UserError."""
    mask = {"random_fraction": 0.0, "drop_attention": False, "mask_token": "auto", "keep_mask_token": False}
    for name, without in mask.items():
        if (value := getattr(m, name)) != without:
            said = str(value).lower() if isinstance(value, bool) else value
            raise UserError(
                f"method.{name}={said} is about the mask token, which method.noise={m.noise} does not use: "
                f"leave it at {str(without).lower()}, or set method.noise=token"
            )


def check_mask_finetune(m: schema.MaskFinetuneConfig, folder: str) -> None:
    if m.selection == "local" and m.layers is None:
        raise UserError(
            "method.layers is missing: name the layers to mask, such as 4-7, or all (method.selection=local)"
        )
    if m.selection == "global" and m.scores != "learned":
        raise UserError(
            f"method.scores={m.scores} is no learned score that a threshold could cut: set method.selection=local"
        )
    if not m.modules:
        raise UserError("method.modules is empty: expected attention, mlp or name patterns")
    layer_numbers(m.layers, layers_of(folder))


def layer_numbers(layers: Any, count: int | None) -> set[int]:
    """Numbers meant by "4-7", "0-3,20-23", 4, [4, 5] or "all"; null is all. Raises UserError for what is no such text.

    `count` is how many layers the model has. null: not known yet, so that only the text is checked, and "all" is none.
    """
    if layers is None or layers == "all":
        return set(range(count or 0))
    found: set[int] = set()
    for part in str(layers).strip("[]").replace("'", "").split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise UserError(f"method.layers={layers}: expected layer numbers such as 4-7, [4,5], 0-3,20-23, or all")
        found |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    if count is not None and max(found) >= count:
        raise UserError(f"method.layers={layers}: the model has the layers 0 to {count - 1}; choose among them")
    return found


def layers_of(path: str) -> int | None:
    """How many layers a model folder's config.json says it has, if it is a folder and does."""
    try:
        config = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
        inner = config.get("text_config") or config
        return next(int(inner[k]) for k in ("num_hidden_layers", "n_layer") if k in inner)
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        return None  # what is wrong with the folder is told where it is loaded


def check_chunk_refine(m: schema.ChunkRefineConfig) -> None:
    if m.min_steps > m.max_steps:
        raise UserError(f"method.min_steps={m.min_steps} is above method.max_steps={m.max_steps}; set it lower")
    if m.width % m.heads:
        raise UserError(f"method.heads={m.heads} does not divide method.width={m.width}; set method.heads to a divisor")
    if m.hidden == "embedding" and m.backbone == "trained":
        raise UserError(
            "method.hidden=embedding never runs the backbone, so method.backbone=trained would train nothing of it: "
            "set method.backbone=frozen, or method.hidden=backbone"
        )


def check_source(where: str, source: schema.SourceConfig) -> None:
    if not source.path:
        raise UserError(f"{where}.path is empty: give a file, a hub id or generated:<name>")
    if source.layout != "question_response":
        unused = [k for k, v in (("spans", source.spans), ("remove", source.remove), ("system", source.system)) if v]
        if unused:
            raise UserError(f"{where}.{unused[0]} works with layout=question_response, not with {source.layout}")
    for key in ("remove", "remove_question", "remove_answer"):
        if getattr(source, key) is not None:
            check_regex(f"{where}.{key}", getattr(source, key))
    for field, wanted in source.keep_if.items():
        if isinstance(wanted, str) and wanted.startswith("/"):
            check_regex(f"{where}.keep_if.{field}", wanted.strip("/"))
    for name, span in source.spans.items():
        if span.startswith("/"):
            check_regex(f"{where}.spans.{name}", span.strip("/"))


def check_regex(where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{where}={pattern}: not a regular expression ({error})") from None


def looks_local(path: str) -> bool:
    endings = (".gguf", ".jsonl", ".json", ".csv", ".parquet", ".xml", ".gz")
    return path.startswith(("/", "./", "../", "~")) or path.endswith(endings)


def check_paths(config: schema.RunConfig) -> None:
    """Files that are named must exist: told now, not after the model has been loaded."""
    check_model_path("model.path", config.model.path)
    template = config.model.chat_template
    if template and not Path(template).exists():
        raise UserError(f"model.chat_template={template}: no such file")
    for name, source in getattr(getattr(config, "data", None), "sources", {}).items():
        if missing := missing_file(source.path):
            raise UserError(f"data.sources.{name}.path={missing}: no such file or folder")


def check_model_path(where: str, path: str) -> None:
    if looks_local(path) and not path.startswith("package:") and not Path(path).expanduser().exists():
        raise UserError(f"{where}={path}: no such file or folder")


def missing_file(path: str) -> str | None:
    """A local file or folder that a source's path names and that is not there."""
    paths = schema.expand(path) if looks_local(path) and "://" not in path else []
    return next((one for one in paths if not Path(one).expanduser().exists()), None)


def check_answers(where: str, benchmark: schema.BenchmarkConfig) -> None:
    """Settings of a benchmark that its answer type needs."""
    kind, source = benchmark.answer_type, benchmark.source
    if kind == "choice" and not (source.choices or source.answer):
        raise UserError(f"{where}.answer_type=choice needs source.choices (the options) and source.answer (the letter)")
    if source.choices and not source.answer:
        raise UserError(f"{where}.source.choices needs source.answer: the field with the right letter, place or text")
    if kind in ("code", "instructions", "judged") and not benchmark.gold_fields:
        raise UserError(
            f"{where}.answer_type={kind} needs gold_fields: the fields of a row that are needed to judge it"
        )


def check_benchmarks(config: schema.EvalConfig) -> None:
    """Mistakes in the evaluation, told before a training is paid for."""
    for name, benchmark in config.benchmarks.items():
        where = f"eval.benchmarks.{name}"
        check_source(f"{where}.source", benchmark.source)
        check_answers(where, benchmark)
        if missing := missing_file(benchmark.source.path):
            raise UserError(f"{where}.source.path={missing}: no such file or folder")
        if benchmark.samples > 1 and benchmark.temperature == 0:
            raise UserError(
                f"{where}.samples={benchmark.samples} would be the same text: set {where}.temperature above 0"
            )
        second = benchmark.second_prompt
        if second is not None and ("{solution}" not in second.template or "{question}" not in second.template):
            raise UserError(f"{where}.second_prompt.template needs both {{question}} and {{solution}}")
        if benchmark.answer_type == "judged" and (config.judge.base_url or config.judge.model):
            check_endpoint("eval.judge", config.judge)
    if config.engine == "api":
        check_api(config)
    if config.decode == "refine" and config.logprobs:
        raise UserError("eval.logprobs needs eval.decode=plain: refinement chooses tokens out of their order")
    if config.decode == "refine" and config.engine == "vllm":
        raise UserError("eval.decode=refine runs in plain transformers: set eval.engine=hf or auto, or decode=plain")
    if config.engine == "vllm" and config.benchmarks and importlib.util.find_spec("vllm") is None:
        raise UserError("eval.engine=vllm, but vllm is not installed: pip install 'mft[vllm]', or use eval.engine=hf")


def check_api(config: schema.EvalConfig) -> None:
    """The settings of eval.engine=api. Raises UserError."""
    check_endpoint("eval.api", config.api)
    if config.replicas is not None and config.replicas > 1:
        raise UserError(f"eval.replicas={config.replicas} does not go with eval.engine=api: set eval.api.concurrency")


def check_endpoint(where: str, api: schema.ApiConfig) -> None:
    """An endpoint's address, model and key's name. The key itself must never stand in a configuration or a message."""
    for name in ("base_url", "model"):
        if not getattr(api, name):
            raise UserError(f"{where}.{name} is empty: an endpoint needs its base_url and model")
    if not api.base_url.startswith(("http://", "https://")) or "@" in api.base_url:
        raise UserError(f"{where}.base_url: expected http://host/v1 or https://host/v1, without user and password")
    if api.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api.key_env):
        raise UserError(f"{where}.key_env: expected the NAME of an environment variable, such as OPENAI_API_KEY")


def check_eval(config: schema.EvalRunConfig) -> None:
    no_model = not config.model.path
    if no_model and config.eval.engine == "api" and config.eval.api.send == "tokens":
        raise UserError("eval.api.send=tokens needs model.path: the folder or hub id that holds the tokenizer")
    if no_model and config.eval.engine != "api":
        raise UserError("model.path is empty: name the model to evaluate, model.path=outputs/<run>/export or a hub id")
    if not config.eval.benchmarks:
        raise UserError("no benchmark: choose with eval=gsm8k or eval=[gsm8k,gsm_symbolic]")
    check_benchmarks(config.eval)
    check_paths(config)


def check_critique(config: schema.CritiqueRunConfig) -> None:
    """The settings of `mft critique`. Raises UserError."""
    if not config.data.sources:
        raise UserError("data.sources is empty: choose questions with data=<name>, such as data=gsm8k")
    for name, source in config.data.sources.items():
        check_source(f"data.sources.{name}", source)
        if source.layout != "question_response":
            raise UserError(f"data.sources.{name}.layout={source.layout}: mft critique needs question_response rows")
    check_generator("model.path", config.model, "eval", config.eval)
    check_generator("teacher.model.path", config.teacher.model, "teacher.eval", config.teacher.eval)
    for where, prompt in (("teacher.prompt", config.teacher.prompt), ("row_prompt", config.row_prompt)):
        if "{solution}" not in prompt.template or "{question}" not in prompt.template:
            raise UserError(f"{where}.template needs both {{question}} and {{solution}}")
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
    check_paths(config)


def check_generator(where: str, model: schema.ModelConfig, engine: str, config: schema.EvalConfig) -> None:
    """A model that generates, at an endpoint or here."""
    if config.engine == "api":
        check_endpoint(f"{engine}.api", config.api)
        if config.api.send == "tokens" and not model.path:
            raise UserError(f"{engine}.api.send=tokens needs {where}: the folder or hub id that holds the tokenizer")
    elif not model.path:
        raise UserError(f"{where} is empty: name a model, or set {engine}.engine=api with {engine}.api.base_url")
    else:
        check_model_path(where, model.path)
