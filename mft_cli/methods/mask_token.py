"""Which token stands for a masked one."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerFast

from mft_cli.errors import UserError

ADDED_TOKEN = "<mask>"


RESERVED = (r"^(\[MASK\]|<mask>|<\|mask\|>|<\|MASK\|>)$", r"reserved", r"unused", r"extra_id_\d+")


def choose_mask_token(tokenizer: PreTrainedTokenizerFast, setting: str) -> str:
    """`auto`: a token that the tokenizer has for this or in reserve, else <mask>. Raises UserError for an unfit one."""
    if setting != "auto":
        known = tokenizer.get_vocab().get(setting)
        if known is None and not re.match(r"^\S+$", setting):
            raise UserError(f"method.mask_token={setting!r}: expected one token without blanks, or auto")
        if known is not None and known in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            raise UserError(
                f"method.mask_token={setting!r} is the tokenizer's end or begin token; choose another, or auto"
            )
        return setting
    if tokenizer.mask_token:
        return str(tokenizer.mask_token)
    special = sorted((i, t.content) for i, t in tokenizer.added_tokens_decoder.items() if t.special)
    for pattern in RESERVED:
        for _, token in special:
            if re.search(pattern, token):
                return str(token)
    return ADDED_TOKEN
