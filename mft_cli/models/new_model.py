"""Models with random weights for generated worlds: a plain Llama, and a tokenizer whose tokens are the world's words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mft_cli.config.schema.inputs import NewModelConfig
from mft_cli.config.validate import to_plain
from mft_cli.console import Logger
from mft_cli.data.chain_wording import vocabulary
from mft_cli.errors import UserError
from mft_cli.files import cache_folder, digest_of, replacing

VERSION = 1  # part of the cache's key: a change in what is written makes a new folder
END, UNKNOWN = "<end>", "<unknown>"
# A token is a word, a digit, a sign or a line break, with the blank before it: texts come back as they went in.
PIECES = r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]|\s"


def make_new(config: NewModelConfig, log: Logger) -> Path:
    """The folder of a new model (fp32 safetensors, tokenizer), made once and kept in the cache. Raises UserError."""
    if config.width % (2 * config.heads):
        raise UserError(f"model.new.width={config.width}: expected a multiple of twice model.new.heads={config.heads}")
    words = vocabulary()
    folder = cache_folder() / "models" / f"new-{digest_of([to_plain(config), words, VERSION])[:12]}"
    if not (folder / "config.json").exists():
        with replacing(folder) as temporary:
            tokenizer_of(words).save_pretrained(str(temporary))
            model = random_llama(config, len(words) + 2)
            log(f"new model: {model.num_parameters():,} parameters, random weights; kept in {folder}")
            model.save_pretrained(str(temporary))
    return folder


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    """Ids: the end token, the unknown one, then the words in their order."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate([END, UNKNOWN, *words])}, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def random_llama(config: NewModelConfig, tokens: int) -> LlamaForCausalLM:
    """Input and output embeddings are the same weights. The caller's random state is untouched."""
    shape = LlamaConfig(
        vocab_size=tokens, hidden_size=config.width, intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.heads,
        max_position_embeddings=config.context, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(shape)
