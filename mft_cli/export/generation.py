"""An export's generation_config.json."""

from __future__ import annotations

import copy

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from mft_cli.errors import UserError, first_line


def generation_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, end_ids: list[int]
) -> GenerationConfig:
    """The model's settings of generation, with a padding token, and with the prompt's end tokens besides its own.

    transformers reads sampling settings without do_sample, and refuses to save them: it is switched on. Raises UserError for
    other settings that cannot be saved.
    """
    settings = copy.deepcopy(model.generation_config)
    known = settings.eos_token_id
    ends = sorted({*end_ids, *(known if isinstance(known, list) else [] if known is None else [known])})
    settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    try:
        settings.validate(strict=True)
    except ValueError:
        settings.do_sample = True
        try:
            settings.validate(strict=True)
        except ValueError as error:
            raise UserError(
                f"the model's generation_config.json cannot be saved with an export ({first_line(error)}); correct it in "
                f"the model's folder"
            ) from None
    return settings
