"""Small tokenizers of the forms that models come with. Each has the special tokens that it is given, and <unk>."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_model import CORPUS

TEXTS = [*CORPUS, "user assistant: User: Assistant: What is 1 plus 2? It is 3. And 1 more? Be brief."]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def byte_level(special: Sequence[str], prefix: bool = False) -> Tokenizer:
    """As GPT-2, Llama 3, Qwen; with `prefix` a blank is written before a text, as RoBERTa's may."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", *special], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentence_piece(special: Sequence[str], everywhere: bool = True) -> Tokenizer:
    """Byte-fallback BPE, as Llama 2's: a blank is written before the text, and `everywhere` behind every special token, too."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *BYTES, *special])
    trained.train_from_iterator([text.replace("\n", " ") for text in TEXTS], trainer)
    document = json.loads(trained.to_str())
    document["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    document["added_tokens"] = [a for a in document["added_tokens"] if a["content"] not in BYTES]
    document["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(document))
    if everywhere:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram(special: Sequence[str]) -> Tokenizer:
    """As T5's and XGLM's; line ends are blanks to it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    alphabet = sorted({c for text in TEXTS for c in text})
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", *special], unk_token="<unk>", initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_piece(special: Sequence[str]) -> Tokenizer:
    """As BERT's: blanks and line ends are lost."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>", *special])
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


FORMS: dict[str, Callable[[Sequence[str]], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level with a blank": lambda special: byte_level(special, prefix=True),
    "SentencePiece": sentence_piece,
    "SentencePiece, first blank only": lambda special: sentence_piece(special, everywhere=False),
    "unigram": unigram,
    "WordPiece": word_piece,
}


def fast(form: str, special: Sequence[str], eos: str, bos: str | None = None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=FORMS[form](special), bos_token=bos, eos_token=eos, pad_token=eos, unk_token="<unk>"
    )
