"""docs/architectures.md: which architectures train here, tried on tiny random models.

    python scripts/architectures.py                # writes the page
    python scripts/architectures.py llama qwen3    # prints the rows of these only

For each: the model is saved, loaded as a training loads it, with faster modules, and asked what its tokens see. Then the
losses of packed sequences, of padded ones and of plain transformers (its own sdpa or eager attention, one document at a
time) are compared, and the model is exported and loaded again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.console import quiet_transformers
from mft_cli.errors import UserError, first_line
from mft_cli.export.card import ExportFacts
from mft_cli.export.whole import ExportSettings, export
from mft_cli.models.architectures import WORKING
from mft_cli.models.kernels import fast_modules
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.backends import resolve
from mft_cli.models.kernels.cross_entropy import hidden_states, own_logits
from mft_cli.models.kernels.own_attention import has_own_attention
from mft_cli.models.loading import flops_per_token, load_model
from mft_cli.models.pretrained import read_model
from mft_cli.models.probes import may_pack, settle

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
TOLERANCE = 1e-5
FACTS: ExportFacts = {
    "base_model": "tiny", "method": {"name": "sft"}, "peft": {"name": "none"}, "prompt": {"name": "raw"}, "data": {},
    "derived_from": [], "settings_digest": "", "step": 0, "seed": 0, "versions": {},
}  # fmt: skip
LENGTHS = [9, 14, 1, 8]  # documents of a packed sequence
B = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
OLD = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    "num_local_experts": 4,
}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
KINDS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", B),
    "mistral": ("mistral", B | {"sliding_window": 7}),
    "mixtral": ("mixtral", B | EXPERTS),
    "qwen2": ("qwen2", B | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", B),
    "qwen2_moe": ("qwen2_moe", B | EXPERTS),
    "qwen3_moe": ("qwen3_moe", B | EXPERTS),
    "gemma": ("gemma", B),
    "gemma2": ("gemma2", B | {"sliding_window": 5}),
    "gemma3": ("gemma3_text", B | {"sliding_window": 5}),
    "gemma3 with vision": (
        "gemma3", {"text_config": B | {"sliding_window": 5}, "vision_config": VISION, "mm_tokens_per_image": 4},
    ),
    "phi3": ("phi3", B),
    "gpt2": ("gpt2", OLD | GPT),
    "gpt_neox": ("gpt_neox", B | {"num_key_value_heads": None}),
    "olmo2": ("olmo2", B),
    "olmo3": ("olmo3", B | {"sliding_window": 5}),
    "granite": ("granite", B),
    "starcoder2": ("starcoder2", B),
    "smollm3": ("smollm3", B),
    "cohere": ("cohere", B),
    "cohere2": ("cohere2", B | {"sliding_window": 5}),
    "glm4": ("glm4", B),
    "stablelm": ("stablelm", B),
    "nemotron": ("nemotron", B),
    "falcon": ("falcon", OLD | FALCON | {"alibi": False}),
    "falcon with alibi": ("falcon", OLD | FALCON | {"alibi": True}),
    "opt": (
        "opt",
        OLD | {
            "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
        },
    ),
    "gpt_oss": ("gpt_oss", B | EXPERTS | {"sliding_window": 32}),
    "mpt": ("mpt", OLD | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    "gptj": ("gptj", OLD | GPT | {"rotary_dim": 4}),
    "codegen": ("codegen", OLD | GPT | {"rotary_dim": 4}),
    "gpt_neo": (
        "gpt_neo",
        OLD | {
            "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 7,
        },
    ),
    "gpt_bigcode": ("gpt_bigcode", OLD | GPT),
    "persimmon": ("persimmon", B),
    "phi": ("phi", B),
    "xglm": ("xglm", OLD | {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 128}),
    "biogpt": ("biogpt", B),
    "bloom": ("bloom", OLD | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "qwen3_next": ("qwen3_next", B | EXPERTS | LINEAR),
    "qwen3_5": ("qwen3_5_text", B | LINEAR),
    "lfm2": ("lfm2", B | {"layer_types": ["conv", "full_attention"]}),
    "mamba": ("mamba", OLD | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
}  # fmt: skip


@dataclass
class Row:
    """What came out for one architecture; None: not come to."""

    name: str
    architecture: str = ""
    sentence: str = ""  # why it cannot be trained
    unpacked: bool = False  # its documents leak, or it has its own attention, so that examples are not packed
    own_attention: bool = False
    packed: float | None = None  # largest difference of a loss from plain transformers
    padded: float | None = None
    mixed: float = (
        0.0  # the same where the documents are laid together as one: what the comparison would show of a leak
    )
    exported: str = ""

    @property
    def works(self) -> bool:
        differences = [d for d in (self.packed, self.padded) if d is not None]
        seen = self.mixed > 20 * TOLERANCE  # else the comparison proves nothing
        return not self.sentence and self.exported == "yes" and seen and all(d <= TOLERANCE for d in differences)


def build(name: str, folder: Path) -> str:
    """Saves a tiny random model whose weights are large enough to read their context. Returns its class."""
    kind, settings = KINDS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    model.save_pretrained(str(folder))
    return type(model).__name__


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Of every token but the first, [t - 1], from logits [t, V]."""
    return F.cross_entropy(logits[:-1].float(), ids[1:], reduction="none")


def documents() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (n,), generator=generator) for n in LENGTHS]


def in_rows(model: torch.nn.Module, rows: list[list[Tensor]], width: int) -> list[Tensor]:
    """The documents' losses where they lie together in rows of `width` tokens, the rest padding."""
    lengths = [[len(d) for d in row] for row in rows]
    padding = [width - sum(row) for row in lengths]
    ids = torch.stack(
        [torch.cat([*row, torch.zeros(p, dtype=torch.long)]) for row, p in zip(rows, padding, strict=True)]
    )
    whole = [row + ([p] if p else []) for row, p in zip(lengths, padding, strict=True)]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in whole])
    states = hidden_states(model, input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs(whole))
    result = []
    for row, state in zip(rows, states, strict=True):
        parts = own_logits(model, state).split([*map(len, row), width - sum(map(len, row))])
        result += [losses(part, document) for part, document in zip(parts[: len(row)], row, strict=True)]
    return result


@torch.no_grad()
def try_out(name: str, folder: Path) -> Row:
    """One row of the table. What fails is reported in it."""
    row = Row(name)
    try:
        row.architecture = build(name, folder / "model")
        attention = resolve("auto", "cpu")
        model = load_model(
            str(folder / "model"), ModelConfig(path=name), dtype=torch.float32, attention=attention
        ).eval()
        fast_modules.install(model)
        settle(model, torch.device("cpu"))
        flops_per_token(model, 16.0)
        row.unpacked, row.own_attention = not may_pack(model), has_own_attention(model)
        plain = read_model(folder / "model", dtype=torch.float32).eval()
        expected = [losses(plain(input_ids=d[None], use_cache=False).logits[0], d) for d in documents()]
        if not row.unpacked:
            row.packed = worst(in_rows(model, [documents()], sum(LENGTHS) + 3), expected)
        row.padded = worst(in_rows(model, [[d] for d in documents()], max(LENGTHS)), expected)
        row.mixed = worst(as_one(plain), expected)
        row.exported = exports(model, folder)
    except UserError as error:
        row.sentence = first_line(error).replace(f"model.path={name}: ", "").partition(". These work")[0]
    except Exception as error:
        row.sentence = f"FAULT {type(error).__name__}: {first_line(error, 160)}"
    return row


def as_one(plain: torch.nn.Module) -> list[Tensor]:
    """The documents' losses where plain transformers takes all of them for one document."""
    logits = plain(input_ids=torch.cat(documents())[None], use_cache=False).logits[0].split(LENGTHS)
    return [losses(part, document) for part, document in zip(logits, documents(), strict=True)]


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = [(a - b).abs().max() for a, b in zip(found, expected, strict=True) if len(a)]
    return float(torch.stack(pairs).max())


def exports(model: torch.nn.Module, folder: Path) -> str:
    """`yes` where the exported folder has the model's logits; the export compares them."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0")), eos_token="t2"
    )
    settings = ExportSettings(64, fast, torch.float32, FACTS, [2], False)
    export(folder / "export", model, {n: p.detach() for n, p in model.named_parameters()}, settings)  # type: ignore[arg-type]
    return "yes"


def shown(row: Row) -> str:
    if row.sentence:
        return f"| {row.name} | {row.architecture} | no | | | | {row.sentence.partition(': ')[2] or row.sentence} |"
    state = "yes" if row.works else "NO"
    packed = "not packed" if row.unpacked else f"{row.packed:.0e}"
    why = "its own attention" if row.own_attention else "examples leak in packed sequences"
    remark = f"{why}: one example a sequence" if row.unpacked else ""
    return f"| {row.name} | {row.architecture} | {state} | {packed} | {row.padded:.0e} | {row.mixed:.2g} | {remark} |"


def rows_of(names: list[str]) -> Iterator[Row]:
    for name in names:
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
            row = try_out(name, Path(folder))
        print(shown(row), file=sys.stderr, flush=True)
        yield row


def page(rows: list[Row]) -> str:
    import transformers

    return f"""# Architectures

Tiny random models of each architecture, with transformers {transformers.__version__} on a CPU in fp32. Made by
`python scripts/architectures.py`; no test runs it.

*packed*, *padded*: the largest difference of any token's loss from plain transformers that runs each document alone, in
packed sequences and in padded ones. *one document*: the same difference where the documents are taken for one, so what a
leak would look like; 5e-07 is the last bit of a loss. *trains: yes* needs both below {TOLERANCE:g}, and an export whose reloaded
logits are the model's to the bit. Not tried here: vLLM, GPUs, real weights.

| `model_type` | class | trains | packed | padded | one document | |
|---|---|---|---|---|---|---|
{chr(10).join(map(shown, rows))}

Every run asks its own model again, after all swaps, inside the engine: it runs on three short packed sequences, and
compares hidden states (tested on plain torch, and on two ranks of ZeRO-3). Where
a document changes with the one before it, the run lays one example into a sequence, logs it
and records `packing: false` in run.json. A model that does not run so, or is not causal so, gets its own attention back and is asked
again (*its own attention*): it trains with one example a sequence, padded behind its end, and run.json names that attention, too. What
hides single positions (`method.drop_attention`) is refused with it. Where a token still changes with a later one, the run is refused
before the first step.

Dropout of a model's own (GPT-2 has 0.1 in its configuration) draws from torch's generator, so its numbers do depend on
packing, micro-batches and ranks; LoRA's dropout (`peft.dropout`) does not. Set the model's to 0 for comparisons.
"""


def main() -> None:
    rows = list(rows_of(sys.argv[1:] or list(KINDS)))
    if sys.argv[1:]:
        return
    PAGE.write_text(page(rows))
    working = [r.name for r in rows if r.works and " " not in r.name]
    if set(working) != set(WORKING.split(", ")):
        print(f"WORKING in mft_cli/models/architectures.py should be: {', '.join(working)}")
    print(json.dumps({"trains": sum(r.works for r in rows), "of": len(rows)}))


if __name__ == "__main__":
    main()
