"""Every configuration key: its type, range, default and one line of documentation. Imports no torch.

The YAML files in `conf/` hold only what differs from the defaults here. `docs/keys.md` is generated from this file
(`python -m mft_cli.keys`), and a test keeps the two equal. Validation is pydantic's, in strict mode: 1 is no boolean,
"3" no number.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


def key(default: Any, doc: str) -> Any:
    """A configuration key with its one line of documentation. A list, dict or dataclass type is made anew each time."""
    if isinstance(default, (list, dict)):
        return Field(default_factory=lambda: type(default)(default), description=doc)
    if isinstance(default, type):
        return Field(default_factory=default, description=doc)
    return Field(default=default, description=doc)


# ---- model ----------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class ModelConfig:
    """The causal language model to start from."""

    path: str = key("", "Folder, hub id, .gguf file, or package:<python package>/<file>.gguf.")
    revision: str | None = key(None, "Hub revision (branch, tag or commit); null is the default branch.")
    trust_remote_code: bool = key(False, "Run Python code that comes with the model. Off unless you trust its author.")
    attention: Literal["auto", "sdpa", "flex", "flash_attention_2"] = key(
        "auto", "Attention backend; auto is flash-attention where installed on a GPU, else sdpa."
    )
    chat_template: str | None = key(None, "Jinja file that replaces the tokenizer's chat template.")


# ---- prompts --------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class Shot:
    """One worked example of a few-shot prompt."""

    question: str = key("", "The example's question.")
    response: str = key("", "The example's full answer.")


@dataclass(config=STRICT)
class PromptConfig:
    """How a question becomes token ids, in training and in evaluation alike."""

    name: str = key("chat", "The prompt's name; recorded with every score.")
    kind: Literal["chat", "template"] = key("chat", "chat: the tokenizer's chat template; template: plain text.")
    system: str | None = key(None, "System turn of a chat prompt; null leaves the template's own default.")
    template: str = key("{question}", "Text around the question; {question} stands for it. In chat: the user's turn.")
    response: str = key("{response}", "Text around the response in training; {response} and {answer} stand for fields.")
    shots: list[Shot] = key([], "Worked examples in front of the question.")
    shot_separator: str = key("\n\n", "Text between worked examples (template prompts).")
    stop: list[str] = key([], "Texts that end a completion in evaluation, besides the end-of-sequence tokens.")


# ---- data -----------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class SourceConfig:
    """One source of rows: a hub data set, a local file, or a generator."""

    path: str = key("", "Hub id, local file or folder, or generated:<name>.")
    name: str | None = key(None, "Hub configuration name.")
    split: str = key("train", "Split of a hub data set or generator.")
    revision: str | None = key(None, "Hub revision.")
    local: list[str] = key([], "Files under MFT_DATA_DIR that are used before the hub, the first that exists.")
    format: Literal["auto", "jsonl", "json", "csv", "parquet"] = key("auto", "File format; auto goes by the name.")
    layout: Literal["question_response", "messages", "sharegpt", "text_turns"] = key(
        "question_response", "Question and response fields, messages, ShareGPT turns, or one ### Human/Assistant text."
    )
    question: str = key("question", "Field with the question; several fields may be joined: instruction+input.")
    response: str = key("response", "Field with the response (dots reach into objects: metadata.answer_cot).")
    answer: str | None = key(None, "Field with the short final answer, for prompts that ask for {answer}.")
    system: str | None = key(None, "Field with a system turn.")
    messages: str = key("messages", "Field with the conversation (layouts other than question_response).")
    loss_on: Literal["all", "last"] = key("all", "Assistant turns that are learnt: all, or the last.")
    spans: dict[str, str] = key({}, "Named spans: name -> a field whose text lies in the response, or a /regex/.")
    keep_if: dict[str, Any] = key({}, "Keep only rows whose field has this value (answer_match: true); others counted.")
    remove: str | None = key(None, "Regular expression removed from responses, such as GSM8K's <<48/2=24>>.")
    rows: AtLeastOne | None = key(None, "Number of rows to take (seeded draw); null takes all.")
    fraction: Annotated[float, Field(gt=0, le=1)] = key(1.0, "Share of the rows to take (seeded draw).")
    mask_ratio: Fraction | None = key(None, "Overrides the method's mask_ratio for this source's rows.")
    options: dict[str, Any] = key({}, "Options of a generated source.")
    derived_from: list[str] = key([], "Benchmarks whose problems this source contains or was made from.")


@dataclass(config=STRICT)
class ValidationConfig:
    """The validation split."""

    source: str | None = key(None, "Name of a source in data.sources_validation; null splits the training rows.")
    rows: Count = key(0, "Rows taken from the training rows (seeded draw); 0 with source null: no validation.")
    every_steps: Count = key(0, "Validate every this many steps; 0: at the end of every epoch.")


@dataclass(config=STRICT)
class DataConfig:
    """Rows, their order, and the limits on them."""

    name: str = key("", "Name of the mixture; used in the run folder's name.")
    sources: dict[str, SourceConfig] = key({}, "The mixture: name -> source.")
    sources_validation: dict[str, SourceConfig] = key({}, "Sources for validation only.")
    validation: ValidationConfig = key(ValidationConfig, "The validation split.")
    max_length: AtLeastOne = key(1024, "Longest example, prompt and response, in tokens.")
    on_long: Literal["error", "drop", "truncate"] = key("error", "What to do with a longer example.")
    on_bad_row: Literal["error", "drop"] = key("error", "What to do with a row that cannot be read.")
    fraction: Annotated[float, Field(gt=0, le=1)] = key(1.0, "Share of the mixture to train on (data-ratio ablation).")
    cache: bool = key(True, "Keep tokenized rows in the cache folder (MFT_CACHE_DIR).")


# ---- methods --------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class MethodConfig:
    """What every method has."""

    implementation: ClassVar[str] = ""
    name: str = key("", "The method's name.")


@dataclass(config=STRICT)
class SftConfig(MethodConfig):
    """Plain fine-tuning on response tokens: the baseline."""

    implementation: ClassVar[str] = "mft_cli.methods.sft:Sft"
    name: Literal["sft"] = key("sft", "The method's name.")


@dataclass(config=STRICT)
class MaskedThoughtConfig(MethodConfig):
    """Corrupt response tokens in the input, keep the labels (arXiv 2403.02178)."""

    implementation: ClassVar[str] = "mft_cli.methods.masked_thought:MaskedThought"
    name: Literal["masked_thought"] = key("masked_thought", "The method's name.")
    mask_ratio: Fraction = key(0.4, "Fraction of the target tokens that is corrupted after the warm-up.")
    warmup_fraction: Fraction = key(2 / 3, "Share of training over which mask_ratio ramps up from 0 (linear).")
    schedule: Literal["linear", "constant", "uniform"] = key(
        "linear", "linear ramp; constant; or uniform: a ratio from U(0, mask_ratio) for each example."
    )
    random_fraction: Fraction = key(0.0, "Share of chosen tokens replaced by a random id, not by the mask token.")
    target: Literal["response", "prompt", "both"] = key("response", "Which tokens may be corrupted.")
    granularity: Literal["token", "span", "step"] = key("token", "Single tokens, runs of tokens, or whole lines.")
    span_mean: Annotated[float, Field(ge=1)] = key(3.0, "Mean length of a run in tokens (granularity=span).")
    drop_attention: bool = key(False, "Also hide corrupted positions from attention of all other positions.")
    mask_token: str = key("auto", "Token that stands for a masked one; auto: a reserved one, else <mask> is added.")
    keep_mask_token: bool = key(False, "Keep an added mask token in the export.")


AnyMethod = Annotated[SftConfig | MaskedThoughtConfig, Field(discriminator="name")]  # a new method is added here


# ---- training -------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class TrainingConfig:
    """Optimizer, schedule and steps."""

    global_batch_size: AtLeastOne = key(32, "Examples in an optimizer step, over all ranks.")
    micro_batch_size: AtLeastOne = key(1, "Rows in one forward pass of one rank.")
    packing: bool = key(True, "Lay several examples into one row; off: one example a row, padded.")
    row_length: AtLeastOne | None = key(None, "Tokens in a packed row; null: 1024, or data.max_length if larger.")
    epochs: Positive = key(3.0, "Passes over the data (a part of a pass counts).")
    max_steps: AtLeastOne | None = key(None, "Stop after this many optimizer steps; overrides epochs.")
    learning_rate: NonNegative = key(2e-5, "Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = key("cosine", "Shape of the learning rate after the warm-up.")
    warmup_steps: Count | None = key(None, "Warm-up in steps; overrides warmup_fraction.")
    warmup_fraction: Fraction = key(0.03, "Warm-up as a share of all steps.")
    min_ratio: Fraction = key(0.0, "Lowest learning rate, as a share of the peak, where the decay ends.")
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = key(1.0, "Share of all steps at which the decay ends.")
    tail: Literal["constant", "linear"] = key("constant", "After the decay: stay at min_ratio, or go linearly to 0.")
    weight_decay: NonNegative = key(0.0, "AdamW weight decay; weight matrices only.")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = key([0.9, 0.999], "AdamW betas.")
    eps: Positive = key(1e-8, "AdamW epsilon.")
    max_grad_norm: NonNegative = key(1.0, "Clip the gradient's norm to this; 0 does not clip.")
    precision: Literal["auto", "bf16", "fp32", "fp16"] = key(
        "auto", "auto: bf16 where the hardware multiplies it fast, else fp32. Master weights are always fp32."
    )
    gradient_checkpointing: bool = key(False, "Recompute activations in the backward pass: less memory, slower.")
    logits_chunk: AtLeastOne = key(1024, "Positions whose logits are held at once.")
    fast_modules: bool = key(True, "Swap element-wise modules for fused ones that were checked to compute the same.")
    max_bad_steps: AtLeastOne = key(5, "Stop after this many steps in a row without a finite loss and gradient.")


@dataclass(config=STRICT)
class CheckpointConfig:
    """What is saved during training."""

    every_steps: Count = key(0, "Save every this many steps; 0: at the end of every epoch.")
    every_minutes: NonNegative = key(30.0, "Save also when this long has passed since the last one; 0: never.")
    keep_last: AtLeastOne = key(2, "How many of the newest checkpoints stay.")
    keep_best: bool = key(False, "Keep also the checkpoint with the lowest validation loss.")
    resume: bool = key(True, "Go on from the newest verified checkpoint in the run folder; false starts anew.")
    retime: bool = key(False, "Allow a resume that changes the total number of steps.")


@dataclass(config=STRICT)
class LogConfig:
    """What is watched during training."""

    every_steps: AtLeastOne = key(1, "Write a row of metrics every this many steps.")
    samples_every_steps: Count = key(0, "Generate a few completions every this many steps; 0: never.")
    samples: AtLeastOne = key(2, "How many completions.")
    sample_tokens: AtLeastOne = key(128, "Longest such completion in tokens.")
    wandb: Literal["off", "online", "offline"] = key("off", "Weights & Biases.")
    wandb_project: str = key("mft", "Weights & Biases project.")
    tensorboard: bool = key(False, "TensorBoard files in the run folder.")
    peak_tflops: Positive | None = key(None, "Peak of the device, for model FLOP utilisation; null: known GPUs only.")


# ---- engines and launching ------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class DeepspeedConfig:
    """DeepSpeed."""

    name: Literal["none"] = key("none", "none: plain torch in one process.")


@dataclass(config=STRICT)
class PeftConfig:
    """Parameter-efficient fine-tuning."""

    name: Literal["none"] = key("none", "none: all parameters that the method trains.")


@dataclass(config=STRICT)
class LaunchConfig:
    """Where the run's process runs."""

    name: Literal["local"] = key("local", "local: in this process.")
    device: Literal["auto", "cpu", "cuda"] = key("auto", "auto: a GPU if there is one.")
    threads: AtLeastOne | None = key(None, "CPU threads of torch; null: one per core.")
    compile: bool = key(False, "torch.compile the model (GPU).")


# ---- evaluation -----------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class BenchmarkConfig:
    """One benchmark: rows, prompt, decoding, and how an answer is read and compared."""

    source: SourceConfig = key(SourceConfig, "The problems; its question, response (gold solution) and answer fields.")
    answer_type: Literal["number"] = key("number", "How answers are compared.")
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


# ---- the whole ------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class RunConfig:
    """What training and evaluation share."""

    run_dir: str | None = key(None, "The run's folder; null: outputs/<method>-<data>-s<seed>-<digest of the settings>.")
    model: ModelConfig = key(ModelConfig, "The model.")
    eval: EvalConfig = key(EvalConfig, "Evaluation.")
    launch: LaunchConfig = key(LaunchConfig, "Launching.")


@dataclass(config=STRICT)
class TrainConfig(RunConfig):
    """`mft train`."""

    seed: Count = key(1, "Seed of order, masks, dropout and new weights.")
    note: str = key("", "Free text, kept with the run.")
    prompt: PromptConfig = key(PromptConfig, "The prompt.")
    method: AnyMethod = key(SftConfig, "The method.")
    data: DataConfig = key(DataConfig, "The data.")
    train: TrainingConfig = key(TrainingConfig, "Optimizer, schedule and steps.")
    checkpoint: CheckpointConfig = key(CheckpointConfig, "Checkpoints.")
    log: LogConfig = key(LogConfig, "Watching.")
    deepspeed: DeepspeedConfig = key(DeepspeedConfig, "DeepSpeed.")
    peft: PeftConfig = key(PeftConfig, "Parameter-efficient fine-tuning.")


@dataclass(config=STRICT)
class EvalRunConfig(RunConfig):
    """`mft eval`: the model of model.path on the benchmarks of eval=; prompt=<name> sets eval.prompt."""
