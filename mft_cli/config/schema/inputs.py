"""Model, prompt and data."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import (
    STRICT,
    AtLeastOne,
    Count,
    FileName,
    FileNameOrEmpty,
    Fraction,
    Seed,
    Share,
    Values,
    key,
)

# ---- model ----------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class NewModelConfig:
    """A Llama with random weights, whose tokenizer knows the words of a generated world."""

    layers: AtLeastOne = key(4, "Transformer layers.")
    width: AtLeastOne = key(128, "Size of the hidden states.")
    heads: AtLeastOne = key(4, "Attention heads; they divide width.")
    feed_forward: AtLeastOne = key(352, "Size inside the gated feed-forward layers.")
    context: AtLeastOne = key(1024, "Positions.")
    seed: Seed = key(0, "Seed of the weights.")


@dataclass(config=STRICT)
class ModelConfig:
    """The causal language model to start from."""

    path: str = key(
        "",
        "Folder, hub id, .gguf file, package:<python package>/<file>.gguf, new:chains (random weights) or lab:<name> "
        "(made by mft lab pretrain).",
    )
    new: NewModelConfig = key(NewModelConfig, "The model that path=new:chains makes.", needs="path=new:chains")
    revision: str | None = key(None, "Hub revision (branch, tag or commit); null is the default branch.")
    trust_remote_code: bool = key(False, "Run Python code that comes with the model. Off unless you trust its author.")
    attention: Literal["auto", "sdpa", "varlen", "flex", "flash_attention_2"] = key(
        "auto",
        "Attention backend; auto: on GPUs in 16 bits torch's varlen, else flash_attn, with hidden positions flex; else sdpa.",
    )
    chat_template: str | None = key(None, "Jinja file that replaces the tokenizer's chat template.")
    template_options: Values = key(
        {},
        "Variables set in the chat template, such as {enable_thinking: false}; they become part of it, in exports too.",
    )
    template_date: str = key(
        "2025-01-01", "Date (YYYY-MM-DD) that a chat template writes for today's: the same tokens on every day."
    )


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
    system: str | None = key(
        None, "System turn of a chat prompt; null leaves the template's own default.", needs="kind=chat"
    )
    template: str = key("{question}", "Text around the question; {question} stands for it. In chat: the user's turn.")
    template_input: str | None = key(
        None,
        "Template of a question of several lines: {instruction} is its first line, {input} the others; null: the template.",
        needs="kind=template",
    )
    option: str = key(
        "{letter}. {text}", "A multiple-choice option's line; they stand at {choices}, else after {question}."
    )
    response: str = key("{response}", "Text around the response in training; {response} and {answer} stand for fields.")
    shots: list[Shot] = key([], "Worked examples before the question.")
    shot_separator: str = key("\n\n", "Text between worked examples (template prompts).", needs="kind=template")
    stop: list[str] = key([], "Texts that end a completion in evaluation, besides the end-of-sequence tokens.")


# ---- data -----------------------------------------------------------------------------------------------------------


def expand(name: str) -> list[str]:
    """`a{b,c}d` is abd and acd, as in a shell; a name without braces is itself."""
    braces = re.search(r"\{([^{}]*,[^{}]*)\}", name)
    if not braces:
        return [name]
    parts = (name[: braces.start()] + part.strip() + name[braces.end() :] for part in braces[1].split(","))
    return [name for part in parts for name in expand(part)]


@dataclass(config=STRICT)
class SourceConfig:
    """One source of rows: a hub data set, a local file, or a generator."""

    path: str = key(
        "", "Hub id, local file or folder, https:// address of a file, or generated:<name>; a{b,c}: several."
    )
    name: str | None = key(None, "Hub configuration name; {a,b}: several.")
    split: str = key("train", "Split of a hub data set or generator.")
    revision: str | None = key(None, "Hub revision.")
    local: list[str] = key([], "Files under MFT_DATA_DIR that are used before the hub, the first that exists.")
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "xml", "text"] = key(
        "auto",
        "File format; auto: by the name, also of .gz, .bz2, .xz and .zst files; text: a file is one row, its field is text.",
    )
    layout: Literal["auto", "question_response", "messages", "sharegpt", "text_turns", "prompt_completion", "text"] = (
        key(
            "question_response",
            "Question and response fields; messages; ShareGPT turns; one ### Human/Assistant text; prompt and completion as "
            "lists of messages; text: plain text, all of it trained on; auto: by the first row's fields.",
        )
    )
    question: str = key(
        "question", "Field with the question; a+b joins fields, a|b is the first that exists, '{a}: {b}' is a text."
    )
    response: str | None = key(
        "response", "Field with the response (dots reach into objects: metadata.answer_cot); null: none (benchmarks)."
    )
    answer: str | None = key(
        None, "Field with the short final answer; with choices: the letter, the place from 0, or the option's text."
    )
    choices: list[str] = key([], "Field with the options of a multiple-choice question, or one field for each option.")
    choices_seed: Seed | None = key(
        None, "Shuffle each row's options by this seed; null keeps their order.", needs="choices"
    )
    system: str | None = key(None, "Field with a system turn.")
    messages: str = key("messages", "Field with the conversation (layouts other than question_response).")
    tools: str | None = key(
        "tools|functions",
        "Field with a conversation's tools, as OpenAI's list or JSON text of it, for the chat template; null: not read.",
    )
    loss_on: Literal["all", "last", "everything"] = key(
        "all",
        "Assistant turns that are trained on: all, or the last; everything: all tokens, those of prompts, too.",
        needs="layout!=question_response or loss_on=everything",
    )
    spans: dict[str, str] = key({}, "Named spans: name -> a field whose text lies in the response, or a /regex/.")
    keep_if: Values = key(
        {}, "Keep only rows whose field has this value (answer_match: true) or matches this /regex/; others counted."
    )
    unique: str | None = key(None, "Keep only the first row with each value of this field; others counted.")
    remove: str | None = key(None, "Regular expression removed from responses, such as GSM8K's <<48/2=24>>.")
    rewrite: dict[str, str] = key(
        {}, "Regular expression -> its replacement in responses (\\1 is its first group); rows that change are counted."
    )
    remove_question: str | None = key(None, "Regular expression removed from questions.")
    remove_answer: str | None = key(None, "Regular expression removed from answers, such as the unit in 9 (apples).")
    rows: AtLeastOne | None = key(None, "Number of rows to take (seeded draw); null takes all.")
    fraction: Share = key(1.0, "Share of the rows to take (seeded draw).")
    mask_ratio: Fraction | None = key(
        None, "Overrides the method's mask_ratio for this source's rows.", needs="method.mask_ratio!=null"
    )
    options: Values = key({}, "Options of a generated source.")
    derived_from: list[str] = key([], "Benchmarks whose problems this source contains or was made from.")


@dataclass(config=STRICT)
class ValidationConfig:
    """The validation split."""

    source: str | None = key(None, "Name of a source in data.sources_validation; null splits the training rows.")
    rows: Count = key(0, "Rows taken from the training rows (seeded draw); 0 without fraction and source: none.")
    fraction: Annotated[float, Field(ge=0, lt=1)] = key(
        0.0, "Share of the training rows taken instead, such as 0.1; halves are rounded up. Not together with rows."
    )
    every_steps: Count = key(
        0, "Validate every this many steps; 0: at the end of every epoch.", needs="rows or fraction or source"
    )

    @property
    def wanted(self) -> bool:
        """Whether there is a validation split."""
        return self.source is not None or self.rows > 0 or self.fraction > 0


@dataclass(config=STRICT)
class DataConfig:
    """Rows, their order, and the limits on them."""

    name: FileNameOrEmpty = key("", "Name of the mixture; used in the run folder's name.")
    domain: str | None = key(None, "Domain of the data for the report's cross-domain table; null: by its name.")
    sources: dict[FileName, SourceConfig] = key({}, "The mixture: name -> source.")
    sources_validation: dict[FileName, SourceConfig] = key({}, "Sources for validation only.")
    validation: ValidationConfig = key(ValidationConfig, "The validation split.")
    max_length: AtLeastOne = key(1024, "Longest example, prompt and response, in tokens.")
    on_long: Literal["error", "drop", "truncate"] = key("error", "What to do with a longer example.")
    on_bad_row: Literal["error", "drop"] = key("error", "What to do with a row that cannot be read.")
    fraction: Share = key(1.0, "Share of the mixture to train on (data-ratio ablation).")
    cache: bool = key(True, "Keep tokenized rows in the cache folder (MFT_CACHE_DIR).")
