"""Packed masks: the file, `mft mask apply`, `inspect` and `diff`, and which base model a file belongs to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mft_cli.cli import mask_tables as report_masks
from mft_cli.cli.mask import main as mask_verb
from mft_cli.errors import UserError
from mft_cli.methods import weight_masks as masks
from mft_cli.models.checksums import check_sums
from tests.support.tiny import mft

NAMES = {
    "model.layers.0.self_attn.q_proj.weight": 0.1, "model.layers.0.mlp.up_proj.weight": 0.5,
    "model.layers.1.mlp.up_proj.weight": 0.0,
}  # fmt: skip


def some_masks(base: Path, seed: int = 0) -> masks.Masks:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: t.shape for n, t in masks.tensors(base)}
    found = {n: torch.rand(shapes[n], generator=generator) >= ratio for n, ratio in NAMES.items()}
    return masks.make(found, {"base_model": "tiny", "base_digest": masks.weights_digest(base)})


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (7, 13)])
def test_masks_are_stored_at_one_bit_a_weight(shape, tmp_path):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4
    masks.write(tmp_path / "m", masks.make({"a.weight": mask}, {"base_model": "x"}))
    again = masks.read(tmp_path / "m")
    assert torch.equal(again["a.weight"], mask)
    assert again.packed["a.weight"].numel() == -(-mask.numel() // 8)
    assert again.removed("a.weight") == int((~mask).sum())
    assert again.facts == {"base_model": "x"}
    bits = [int(again.packed["a.weight"][i // 8]) >> (i % 8) & 1 for i in range(mask.numel())]
    assert bits == mask.flatten().int().tolist()


def test_apply_removes_what_the_masks_say_and_nothing_else(tiny_model, tmp_path, capsys):
    packed = some_masks(tiny_model)
    masks.write(tmp_path / "m.mft", packed)
    mask_verb(["apply", str(tiny_model), str(tmp_path / "m.mft"), str(tmp_path / "out")])
    assert "removed" not in capsys.readouterr().err
    before, after = (load_file(f / "model.safetensors") for f in (tiny_model, tmp_path / "out"))
    for name, weight in before.items():
        expected = torch.where(packed[name], weight, 0.0) if name in NAMES else weight
        assert torch.equal(after[name], expected), name
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.model.layers[0].mlp.up_proj.weight[~packed["model.layers.0.mlp.up_proj.weight"]].any()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert masks.read(tmp_path / "out").facts["base_model"] == "tiny"


def test_a_flipped_bit_in_the_folder_that_apply_writes_is_told(tiny_model, tmp_path):
    masks.write(tmp_path / "m.mft", some_masks(tiny_model))
    mask_verb(["apply", str(tiny_model), str(tmp_path / "m.mft"), str(tmp_path / "out")])
    check_sums(tmp_path / "out", "out")
    weights = bytearray((tmp_path / "out" / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (tmp_path / "out" / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model\.safetensors is not as it was exported"):
        check_sums(tmp_path / "out", "out")


def test_masks_fit_their_own_base_model_only(tiny_model, tmp_path):
    masks.write(tmp_path / "m.mft", some_masks(tiny_model))
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(tiny_model / "model.safetensors")
    weights["model.norm.weight"][3] += 2**-20
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="its weights are not those of tiny"):
        mask_verb(["apply", str(other), str(tmp_path / "m.mft"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_digest_is_of_the_weights_not_of_their_files(tiny_model, tmp_path):
    weights = load_file(tiny_model / "model.safetensors")
    names = sorted(weights)
    for i, part in enumerate((names[:5], names[5:])):
        save_file({n: weights[n] for n in part}, tmp_path / f"model-{i}.safetensors")
    assert masks.weights_digest(tmp_path) == masks.weights_digest(tiny_model)
    save_file({n: weights[n].bfloat16() for n in names[:5]}, tmp_path / "model-0.safetensors")
    assert masks.weights_digest(tmp_path) != masks.weights_digest(tiny_model)


def test_names_in_the_base_models_files_may_lack_the_models_first_part():
    known = {"h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"}
    assert masks.stored_name("transformer.h.0.attn.c_attn.weight", known) == "h.0.attn.c_attn.weight"
    assert masks.stored_name("transformer.h.0.mlp.c_fc.weight", known) == "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(UserError, match="no weight of this name"):
        masks.stored_name("transformer.h.1.mlp.c_fc.weight", known)


def test_inspect_shows_every_layer_and_module(tiny_model, tmp_path, capsys):
    packed = some_masks(tiny_model)
    masks.write(tmp_path / "m.mft", packed)
    mask_verb(["inspect", str(tmp_path / "m.mft"), f"out={tmp_path / 'map.png'}"])
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    shares = {n: packed.removed(n) / packed[n].numel() for n in NAMES}
    first = next(x for x in lines if x[:1] == ["0"])
    last = next(x for x in lines if x[:1] == ["1"])
    assert first[1:3] == [f"{shares[n]:.2%}" for n in list(NAMES)[:2]]
    assert last[1:] == ["-", "0.00%", "0.00%"]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_diff_counts_the_overlap_and_says_what_chance_gives():
    n = 400_000
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(n, generator=generator) >= 0.1
    b = torch.rand(n, generator=generator) >= 0.2
    one, two = (masks.make({"m.layers.0.mlp.up.weight": m.view(400, 1000)}, {}) for m in (a, b))
    row, total = masks.diff(one, two)
    assert (row.first, row.second, row.both) == (int((~a).sum()), int((~b).sum()), int((~a & ~b).sum()))
    assert row.jaccard == pytest.approx(float((~a & ~b).sum() / (~a | ~b).sum()))
    assert row.chance_jaccard == pytest.approx(0.1 * 0.2 / (0.1 + 0.2 - 0.02), rel=0.02)
    assert row.jaccard == pytest.approx(row.chance_jaccard, rel=0.05)  # they are independent
    assert abs(row.both - row.chance) < 3 * row.variance**0.5
    assert row.variance == pytest.approx(n * 0.1 * 0.2 * 0.9 * 0.8, rel=0.02)  # large n: n p q (1 - p) (1 - q)
    assert (total.name, total.both, total.variance) == ("all", row.both, row.variance)
    assert masks.diff(one, one)[0].jaccard == 1.0


def test_two_masks_from_one_start_are_told(tmp_path, capsys):
    """The first scores are a function of the seed: two learned masks of one seed overlap before any training."""

    def written(name: str, seed: int | None, scores: str = "learned") -> str:
        generator = torch.Generator().manual_seed(ord(name))
        mask = {"m.layers.0.mlp.up.weight": torch.rand(40, 50, generator=generator) >= 0.1}
        facts = {"base_digest": "d", "method": {"scores": scores}} | ({} if seed is None else {"seed": seed})
        masks.write(tmp_path / name, masks.make(mask, facts))
        return str(tmp_path / name)

    first = written("a", 1)
    for second, same in (
        (written("b", 1), True), (written("c", 2), False), (written("d", 1, "random"), False), (written("e", None), False),
    ):  # fmt: skip
        report_masks.diff(first, second)
        said = capsys.readouterr().out
        assert f"A: {first}\nB: {second}" in said
        assert ("began as the same mask" in said) == same
        assert " ± " in said


def test_what_is_no_masks_file_is_told(tiny_model, tmp_path):
    for path, said in ((tmp_path, "not a masks file ("), (tiny_model / "model.safetensors", "not a masks file")):
        done = mft("mask", "inspect", str(path), cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
    with pytest.raises(UserError, match="no weight in common"):
        masks.diff(masks.make({"a": torch.ones(2).bool()}, {}), masks.make({"b": torch.ones(2).bool()}, {}))
    with pytest.raises(UserError, match="expected mft mask apply"):
        mask_verb(["apply", "a"])


def test_the_same_masks_are_the_same_bytes(tiny_model, tmp_path):
    """In every process: safetensors writes metadata in an order that differs."""
    program = """
import sys, torch
from pathlib import Path
from mft_cli.methods import weight_masks as masks
made = masks.make({"b": torch.ones(9).bool(), "a": torch.zeros(3, 5).bool()}, {"base_model": "µ/tiny", "seed": 1})
masks.write(Path(sys.argv[1]), made)
"""
    for number in range(4):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / str(number))], check=True)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1
    assert masks.read(tmp_path / "0").facts["base_model"] == "µ/tiny"


def test_a_flipped_bit_in_a_masks_file_is_noticed(tiny_model, tmp_path):
    masks.write(tmp_path / "m.mft", some_masks(tiny_model))
    whole = (tmp_path / "m.mft").read_bytes()
    for position in (len(whole) - 1, len(whole) - 1000, whole.index(b"tiny")):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (tmp_path / "m.mft").write_bytes(bytes(damaged))
        with pytest.raises(UserError, match="damaged"):
            masks.read(tmp_path / "m.mft")
