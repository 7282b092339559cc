"""The examples of a training without the training: what `mft data show` shows and other trainers can take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedTokenizerFast

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.load import Loaded, load
from mft_cli.data.prompts import Renderer
from mft_cli.methods import make
from mft_cli.methods.base import Method
from mft_cli.models.loading import load_tokenizer, locate
from mft_cli.models.vocabulary import extend_tokenizer


class TrainingExamples(NamedTuple):
    """A tokenizer that knows the method's new tokens, the method, and the examples (`train`, `validation`, ...)."""

    tokenizer: PreTrainedTokenizerFast
    method: Method
    loaded: Loaded


def load_examples(config: TrainConfig, say: Callable[[str], None] = print) -> TrainingExamples:
    """Reads and tokenizes the rows as `mft train` does; `say` gets a line where a model has to be fetched.

    Raises UserError for rows or a prompt that cannot be used.
    """
    tokenizer = load_tokenizer(locate(config.model, say), config.model)
    method = make(config.method, config.train.logits_chunk)
    added = method.prepare(tokenizer)
    if method.new_tokens:
        extend_tokenizer(tokenizer, added)  # they stand in the rows
    loaded = load(config.data, Renderer(tokenizer, config.prompt, tuple(method.new_tokens)), config.seed)
    extend_tokenizer(tokenizer, added)
    method.adapt(nn.Identity(), tokenizer)
    method.check(loaded.train)
    return TrainingExamples(tokenizer, method, loaded)
