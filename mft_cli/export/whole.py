"""The trained model as an ordinary Hugging Face folder, verified by loading it again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.console import quiet_transformers
from mft_cli.export.card import ExportFacts, write_facts
from mft_cli.export.generation import generation_settings
from mft_cli.files import replacing
from mft_cli.models.pretrained import plain_attention, read_adapted, read_model
from mft_cli.models.vocabulary import embedding_rows

WriteExtraFiles = Callable[[Path, Tensor, Tensor | None], None]  # (folder, probe ids [1, T], logits [1, T, V])


@dataclass
class ExportSettings:
    """What an export is besides its weights."""

    vocabulary: int  # rows of the embeddings that are kept
    tokenizer: PreTrainedTokenizerFast
    dtype: torch.dtype
    facts: ExportFacts
    end_ids: list[int]
    trust: bool  # model.trust_remote_code
    write_extra_files: WriteExtraFiles | None = None  # called with the folder before it appears


def export(folder: Path, model: PreTrainedModel, weights: dict[str, Tensor], settings: ExportSettings) -> None:
    """Write `weights` (by name; what is missing comes from `model`) as a folder that from_pretrained loads.

    The folder appears whole or not at all, and its logits are compared with the trained weights' before it does. Raises
    RuntimeError if they differ.
    """
    vocabulary, tokenizer = settings.vocabulary, settings.tokenizer
    plain = plain_model(model, weights, settings.dtype, settings.trust)
    probe = torch.arange(8).remainder(vocabulary)[None]
    with torch.no_grad():
        trained = plain(probe).logits[..., :vocabulary].clone()
        if embedding_rows(plain) != vocabulary:
            plain.resize_token_embeddings(vocabulary, mean_resizing=False)
        expected = plain(probe).logits
    # a product of another width may round otherwise; the reloaded model must then be the same to the bit
    torch.testing.assert_close(expected, trained)
    plain.generation_config = generation_settings(model, tokenizer, settings.end_ids)
    with replacing(folder) as temporary:
        with quiet_transformers():
            plain.save_pretrained(str(temporary))
            tokenizer.save_pretrained(str(temporary))
        write_facts(temporary, settings.facts)
        verify(temporary, probe, expected, settings.dtype, settings.trust)
        if settings.write_extra_files:
            settings.write_extra_files(temporary, probe, expected)


def plain_model(model: PreTrainedModel, weights: dict[str, Tensor], dtype: torch.dtype, trust: bool) -> PreTrainedModel:
    """A fresh model of the same architecture with these weights, on the CPU."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)
    config._attn_implementation = plain_attention(model)
    config.dtype = dtype
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of a 4-bit base, whose weights come in 16 bits
    with torch.no_grad():
        # not .to(dtype), which would cast rotary frequencies, too
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust)
        known = set(plain.state_dict())
        every = {n: t for n, t in {**model.state_dict(), **weights}.items() if n in known}
        state = {n: t.detach().to("cpu", dtype) for n, t in every.items()}
        if missing := known - state.keys():
            raise RuntimeError(f"the export would lack {sorted(missing)[0]} ({len(missing)} tensors)")
        if config.tie_word_embeddings:
            # the head's name is in the state dict too, with the weight of before: the trained one is the embedding's
            head = next((n for n, m in plain.named_modules() if m is plain.get_output_embeddings()), None)
            state.pop(f"{head}.weight", None)
        plain.load_state_dict(state, strict=False)
        plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def verify(folder: Path, probe: Tensor, expected: Tensor, dtype: torch.dtype, trust: bool) -> None:
    """The reloaded folder's logits are the trained weights', and tied embeddings are still tied."""
    again = read_model(folder, dtype=dtype, trust=trust).eval()
    with torch.no_grad():
        logits = again(probe).logits
    if not torch.equal(logits, expected):
        worst = float((logits.float() - expected.float()).abs().max())
        raise RuntimeError(f"{folder}: the reloaded export's logits differ from the trained model's by {worst}")
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    if again.config.tie_word_embeddings and not tied:
        raise RuntimeError(f"{folder}: the export's embeddings are no longer tied")


def verify_adapter(
    folder: Path, base: PreTrainedModel, merged: PreTrainedModel, probe: Tensor, vocabulary: int, close: float
) -> None:
    """The adapter in `folder`, loaded by peft onto `base`, has the logits of `merged`, both models in fp32.

    `close` is a share of the largest logit. In 16-bit arithmetic the two would differ by more than a wrong merge does
    (docs/peft.md has the numbers). Raises RuntimeError.
    """
    if embedding_rows(base) != vocabulary:
        base.resize_token_embeddings(vocabulary, mean_resizing=False)
    adapted = read_adapted(base, folder).eval()
    with torch.no_grad():
        logits, expected = adapted(probe).logits, merged(probe).logits[..., :vocabulary]
    worst = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not worst <= close:
        raise RuntimeError(f"{folder}: the merged model's logits differ from the adapter's by {worst:.2g}")


def loaded_fp32(folder: str, config: ModelConfig) -> PreTrainedModel:
    """A saved model in fp32 on the CPU. `config` tells a hub model's revision."""
    return read_model(
        folder, dtype=torch.float32, trust=config.trust_remote_code,
        revision=None if Path(folder).is_dir() else config.revision,
    ).eval()  # fmt: skip
