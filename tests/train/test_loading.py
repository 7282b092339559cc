"""How weights come from their files to the device: in the files' own precision, tensor by tensor, nothing rounded on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.training import TrainingConfig
from mft_cli.distributed.zero import is_rounded
from mft_cli.models.kernels.backends import register
from mft_cli.models.loading import held_dtype, load_model
from mft_cli.train import setup
from mft_cli.train.engine import TorchEngine
from tests.methods.test_contract import make_trainer, settings

LORA = {"name": "lora", "rank": 4}


@pytest.fixture(scope="module")
def in_16_bits(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with files in bf16, as most published ones."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny_bf16")
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def test_weights_are_held_as_the_files_have_them(tiny_model, in_16_bits, tmp_path):
    for path, computed, held in (
        (in_16_bits, torch.bfloat16, torch.bfloat16),
        (in_16_bits, torch.float16, torch.float32),  # fp16 would round them
        (in_16_bits, torch.float32, torch.float32),
        (tiny_model, torch.bfloat16, torch.float32),
        (tmp_path / "nowhere", torch.bfloat16, torch.float32),
    ):
        assert held_dtype(str(path), ModelConfig(path=str(path)), computed) == held


def mapped(file: Path) -> list[range]:
    """Addresses at which a file's pages are this process's memory, too."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


def test_the_ranks_of_a_node_share_one_copy_of_the_weights(in_16_bits, tiny_model):
    """Weights that nothing has to round are the files' own pages, which all processes of a machine have in common."""
    for path, dtype in ((in_16_bits, torch.bfloat16), (tiny_model, torch.float32)):
        model = load_model(str(path), ModelConfig(path=str(path)), dtype=dtype, attention=register("sdpa"))
        places = mapped(path / "model.safetensors")
        assert all(any(p.data_ptr() in place for place in places) for p in model.parameters())
    rounded = load_model(
        str(tiny_model), ModelConfig(path=str(tiny_model)), dtype=torch.bfloat16, attention=register("sdpa")
    )
    places = mapped(tiny_model / "model.safetensors")
    assert not any(any(p.data_ptr() in place for place in places) for p in rounded.parameters())


CASES: list[tuple[str, dict[str, Any]]] = [
    ("sft", {}), ("masked_thought", {}), ("masked_thought", LORA), ("sft", LORA), ("mask_finetune", {}), ("chunk_refine", {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "peft"), CASES)
def test_no_number_depends_on_what_is_held(in_16_bits, problem_file, tmp_path, monkeypatch, method, peft):
    """Steps and masters, to the bit, of weights held in 16 bits and in fp32; new tokens and adapters included."""
    runs = []
    for name, held in (("as_stored", held_dtype), ("fp32", lambda *a: torch.float32)):
        monkeypatch.setattr(setup, "held_dtype", held)
        asked = settings(in_16_bits, problem_file, method, {}, tmp_path / name, precision="bf16")
        asked.peft = setup.replace(asked.peft, **peft)
        trainer = make_trainer(asked)
        results = [trainer.step(k) for k in range(2)]
        numbers = [(r.loss, r.norm, r.terms) for r in results]
        runs.append((numbers, {n: trainer.engine.full(n).clone() for n in trainer.engine.named}))
    (numbers, masters), (expected, expected_masters) = runs
    assert numbers == expected
    assert masters.keys() == expected_masters.keys()
    assert all(torch.equal(masters[n], expected_masters[n]) for n in masters)


def test_the_device_never_holds_the_model_in_fp32(monkeypatch):
    """By the time that the module as a whole moves to the device, every weight has gone there, rounded; buffers stay fp32."""
    model = nn.Sequential(nn.Linear(32, 64, bias=False), nn.BatchNorm1d(64), nn.Linear(64, 16, bias=False))
    model[:2].requires_grad_(False)
    moved: list[set[torch.dtype]] = []
    move = nn.Module.to

    def recorded(self: nn.Module, *arguments: Any) -> nn.Module:
        moved.append({p.dtype for p in self.parameters()})
        return move(self, *arguments)

    monkeypatch.setattr(nn.Module, "to", recorded)
    groups = [{"params": [("2.weight", model[2].weight)], "decay": True, "scale": 1.0}]
    engine = TorchEngine(model, groups, TrainingConfig(), "bf16", torch.device("cpu"))
    assert moved == [{torch.bfloat16}]
    assert {n: m.dtype for n, m in engine.masters.items()} == {"2.weight": torch.float32}
    assert model[1].running_mean.dtype == torch.float32


def test_only_weights_that_16_bits_round_are_cloned():
    exact = torch.randn(8, 8).bfloat16()
    assert not is_rounded(exact, torch.bfloat16)
    assert not is_rounded(exact.float(), torch.bfloat16)
    assert is_rounded(exact.float() + 1e-6, torch.bfloat16)
    assert is_rounded(exact, torch.float16) == bool((exact.half().float() != exact.float()).any())
