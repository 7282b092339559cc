"""Adapters: what trains, what is saved, merged and gone on from, and that no layout of a step changes a number."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mft_cli.config import compose as config
from mft_cli.config import load, validate
from mft_cli.config.schema.launching import PeftConfig
from mft_cli.console import Log
from mft_cli.errors import UserError
from mft_cli.files import read_json
from mft_cli.methods import make
from mft_cli.models.adapters import attach
from mft_cli.run_dir import RunDir
from mft_cli.signals import StopSignal
from mft_cli.train.checkpoint import Stored
from mft_cli.train.exports import write_exports
from mft_cli.train.run import train
from mft_cli.train.setup import Assembly, assemble
from tests.methods.test_contract import LAYOUTS, METHODS, REQUIRED, settings
from tests.support.tiny import mft, tiny_overrides

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: 4 and 8 bits are NOT tested",
)


def asked(model: Path, data: Path, method: str, run: Path, variant: dict | None = None, **more: Any) -> Any:
    """A LoRA run; `more` are keys of train, or of peft with a leading peft_."""
    peft = {"name": "lora", "rank": 4, "alpha": 8.0} | {k[5:]: v for k, v in more.items() if k.startswith("peft_")}
    keys = {k: v for k, v in more.items() if not k.startswith("peft_")}
    values = validate.to_plain(settings(data, data, method, variant or {}, run, **keys))  # an adapter needs peft=lora
    return load.train_config({**values, "model": {"path": str(model)}, "peft": peft})


def ready_for(asked_: Any) -> Assembly:
    RunDir(asked_.run_dir).root.mkdir(parents=True, exist_ok=True)
    return assemble(RunDir(asked_.run_dir), asked_, StopSignal(), Log())


def run_all(asked_: Any) -> Assembly:
    ready = ready_for(asked_)
    ready.trainer.run_to_end()
    write_exports(ready, Log())
    return ready


def adaptable() -> list[str]:
    """One preset of every method that trains adapters."""
    presets = {p: yaml.safe_load((config.CONF / "method" / f"{p}.yaml").read_text())["name"] for p in METHODS}
    chosen = {name: preset for preset, name in reversed(presets.items())}
    classes = {
        n: make(load.train_config({"method": {"name": n, **REQUIRED.get(n, {})}, **NEEDED}).method, 1024)
        for n in chosen
    }
    return sorted(chosen[n] for n, method in classes.items() if method.peft_refusal is None)


NEEDED = {"model": {"path": "x"}, "data": {"sources": {"x": {"path": "x"}}}}
ADAPTABLE = adaptable()


@pytest.mark.parametrize("method", ADAPTABLE)
def test_layout_changes_no_number_dropout_included(tiny_model, problem_file, tmp_path, method):
    """Packing, micro-batches, checkpointing: the same losses and norms, with half of the adapters' input dropped."""
    results = []
    for i, layout in enumerate([LAYOUTS[0], LAYOUTS[1], LAYOUTS[4], LAYOUTS[5]]):
        trainer = ready_for(
            asked(tiny_model, problem_file, method, tmp_path / str(i), peft_dropout=0.5, **layout)
        ).trainer
        results.append([trainer.step(k) for k in range(3)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.examples == b.examples
            assert a.shares == b.shares
            assert b.loss == pytest.approx(a.loss, rel=1e-5)
            assert b.norm == pytest.approx(a.norm, rel=1e-5)
    without = ready_for(asked(tiny_model, problem_file, method, tmp_path / "without")).trainer
    plain = [without.step(k) for k in range(3)]
    assert plain[0].loss == pytest.approx(results[0][0].loss, rel=1e-6)  # B is zero in the first step
    assert plain[2].norm != pytest.approx(results[0][2].norm, rel=1e-3)


def test_dropout_drops_the_stated_share_and_keeps_the_mean():
    from types import SimpleNamespace

    from mft_cli.models.adapters import DrawnDropout, Seen

    ids = torch.arange(64).view(4, 16)
    batch = SimpleNamespace(epoch=0, example=ids // 16, positions=ids % 16)
    layers = [DrawnDropout(0.3, 1, name, 501, Seen(batch)) for name in ("a", "a", "b")]
    one, same, other = (layer(torch.ones(4, 16, 501)) for layer in layers)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float((one == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(one.mean()) == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(layers[0].eval()(torch.ones(4, 16, 501)), torch.ones(4, 16, 501))
    with pytest.raises(UserError, match=r"peft\.dropout"):
        layers[1](torch.ones(2, 16, 501))


def test_the_first_step_is_full_trainings_and_the_seed_draws_the_adapters(tiny_model, problem_file, tmp_path):
    full = ready_for(settings(tiny_model, problem_file, "sft", {}, tmp_path / "full")).trainer.step(0)
    adapted = ready_for(asked(tiny_model, problem_file, "sft", tmp_path / "lora"))
    torch.manual_seed(99)  # the global generator has no say
    again = ready_for(asked(tiny_model, problem_file, "sft", tmp_path / "again"))
    for (n, a), (_, b) in zip(adapted.trainer.engine.named.items(), again.trainer.engine.named.items(), strict=True):
        assert torch.equal(a, b), n
    result = adapted.trainer.step(0)
    assert result.loss == pytest.approx(full.loss, rel=1e-6)
    assert result.examples == full.examples
    assert 0 < result.norm < full.norm


def wider(model: Path, folder: Path, tied: bool, spare: int = 8, **shape: int) -> Path:
    """A random model like the tiny one with spare embedding rows, perhaps with a head of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model, folder)
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, tie_word_embeddings=tied, **shape))
    if spare:
        made.resize_token_embeddings(made.get_input_embeddings().weight.shape[0] + spare)
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("tied", "spare"), [(True, 0), (True, 8), (False, 0), (False, 8)])
def test_new_tokens_rows_train_and_all_others_stay_to_the_byte(tiny_model, problem_file, tmp_path, tied, spare):
    """Kept mask token: its rows move (the output's too where it takes part in the softmax), no other byte does."""
    model = wider(tiny_model, tmp_path / "model", tied, spare)
    variant = {"schedule": "constant", "keep_mask_token": True}
    ready = run_all(asked(model, problem_file, "masked_thought", tmp_path / "run", variant))
    before, after = (load_file(f / "model.safetensors") for f in (model, ready.trainer.run.export))
    (new,) = ready.new_ids
    for name in ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"]):
        rows = [i for i in range(len(before[name])) if i != new]
        assert torch.equal(before[name][rows], after[name][rows])
        mean = before[name][:new].mean(0)
        assert torch.equal(after[name][new], mean) == (name == "lm_head.weight" and not spare)
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert len(after["model.embed_tokens.weight"]) == max(new + 1, len(before["model.embed_tokens.weight"]))
    saved = Stored(ready.trainer.run.checkpoints / "step-00000004").weights
    assert all("lora_" in n or "trainable_tokens" in n for n in saved)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("keep", [False, True])
def test_the_adapter_is_pefts_own_and_merged_it_is_the_export(tiny_model, problem_file, tmp_path, keep, precision):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    variant = {"schedule": "constant", "keep_mask_token": keep}
    run = asked(tiny_model, problem_file, "masked_thought", tmp_path, variant, precision=precision, peft_rslora=True)
    ready = run_all(run)
    adapter = ready.trainer.run.export / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    assert ("<mask>" in tokenizer.get_vocab()) == keep
    if keep:
        base.resize_token_embeddings(len(tokenizer))
    adapted = PeftModel.from_pretrained(base, adapter)
    merged = AutoModelForCausalLM.from_pretrained(ready.trainer.run.export, dtype=torch.float32)
    ids = torch.arange(20)[None]
    close = 1e-5 if precision == "fp32" else 0.02
    with torch.no_grad():
        expected, found = adapted(ids).logits, merged(ids).logits
        torch.testing.assert_close(found, expected, rtol=close, atol=close)
        assert float((found[..., :300] - plain(ids).logits[..., :300]).abs().max()) > 5 * close
    facts = read_json(adapter / "mft.json")
    assert facts["adapter_of"]["path"] == str(tiny_model)
    assert facts["peft"]["rank"] == 4
    assert facts["compared_with_merged"] is True


def test_an_adapter_that_memory_does_not_let_compare_says_so(tiny_model, problem_file, tmp_path, monkeypatch, capsys):
    from mft_cli.models import device as allocator
    from mft_cli.train import exports

    assert 2**20 < allocator.memory_left() < 2**50
    monkeypatch.setattr(exports, "memory_left", lambda: 10_000)
    ready = run_all(asked(tiny_model, problem_file, "sft", tmp_path))
    assert "NOT compared with the merged model" in capsys.readouterr().out
    assert read_json(ready.trainer.run.export / "adapter" / "mft.json")["compared_with_merged"] is False


@pytest.mark.parametrize("method", ADAPTABLE)
def test_resumed_equals_uninterrupted(tiny_model, problem_file, tmp_path, method):
    whole, cut = (asked(tiny_model, problem_file, method, tmp_path / d, peft_dropout=0.2) for d in ("whole", "cut"))
    train(whole)
    trainer = ready_for(cut).trainer
    trainer.run.config.write_text(validate.to_yaml(cut))
    for k in range(2):
        trainer.account(trainer.step(k), 1.0)
    trainer.save()
    train(cut)
    for name in ("export/model.safetensors", "export/adapter/adapter_model.safetensors",
                 "export/adapter/adapter_config.json", "checkpoints/step-00000004/optimizer.safetensors"):  # fmt: skip
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_going_on_from_an_adapter_and_from_its_merged_model(tiny_model, problem_file, tmp_path):
    """From the adapter: the same adapter, its rows included. From the merged model: a new adapter on top of it."""
    variant = {"schedule": "constant", "keep_mask_token": True}
    first = run_all(asked(tiny_model, problem_file, "masked_thought", tmp_path / "first", variant)).trainer.run.export
    still = {"learning_rate": 0.0}
    same = run_all(asked(first / "adapter", problem_file, "sft", tmp_path / "same", **still)).trainer.run.export
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        old, new = load_file(first / name), load_file(same / name)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[n], new[n]) for n in old), name
    assert read_json(same / "adapter" / "mft.json")["adapter_of"]["path"] == str(tiny_model)
    on_top = run_all(asked(first, problem_file, "sft", tmp_path / "on_top", **still)).trainer.run.export
    assert read_json(on_top / "adapter" / "adapter_config.json")["base_model_name_or_path"] == str(first)
    with pytest.raises(UserError, match=r"peft\.rank=8: the adapter in .* has 4"):
        ready_for(asked(first / "adapter", problem_file, "sft", tmp_path / "rank", peft_rank=8))
    with pytest.raises(UserError, match=r"peft\.targets=.*sits on other layers"):
        ready_for(asked(first / "adapter", problem_file, "sft", tmp_path / "targets", peft_targets=["q_proj"]))
    with pytest.raises(UserError, match=r"is an adapter: set peft=lora"):
        settings(first / "adapter", problem_file, "sft", {}, tmp_path / "none")


def test_contamination_goes_with_the_adapter(tiny_model, problem_file, tmp_path):
    tainted = validate.to_plain(asked(tiny_model, problem_file, "sft", tmp_path / "tainted"))
    tainted["data"]["sources"]["tiny"]["derived_from"] = ["gsm8k"]
    first = run_all(load.train_config(tainted)).trainer.run.export
    assert "gsm8k" in (first / "adapter" / "README.md").read_text()
    second = run_all(asked(first / "adapter", problem_file, "sft", tmp_path / "second")).trainer.run.export
    assert read_json(second / "mft.json")["derived_from"] == ["gsm8k"]


def test_plan_counts_what_trains(tiny_model, problem_file, tmp_path):
    from mft_cli.plan.shape import read_shape
    from mft_cli.plan.trained import count_trained

    wanted = asked(tiny_model, problem_file, "sft", tmp_path, peft_targets=["q_proj", "down_proj"])
    trainer = ready_for(wanted).trainer
    assert count_trained(wanted, read_shape(wanted.model, None)).trained == sum(
        p.numel() for p in trainer.engine.named.values()
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["peft=lora", "peft.targets=[q_prj]"], "expected auto or names of linear layers, such as"),
        (["peft=qlora"], "computes in 16 bits"),
        (["peft=qlora", "train.precision=bf16", "deepspeed=zero3"], "whole on every rank: set deepspeed=none"),
        (["train.optimizer=adamw_8bit", "deepspeed=zero2"], "ZeRO would cut otherwise"),
    ],
)
def test_refusals(overrides, said, tiny_model, problem_file, tmp_path):
    done = mft("train", *tiny_overrides(tiny_model, problem_file), *overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def small_model(kind: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2))
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=kind == "tied"))


@pytest.mark.parametrize(
    ("kind", "targets", "said"),
    [
        (
            "mixtral",
            ["auto"],
            r"experts could not be merged .* is no linear layer .*'peft\.targets=\[k_proj,o_proj,q_proj,v_proj\]'",
        ),
        ("tied", ["lm_head"], "lm_head could not be merged .* shares its weights with the embeddings"),
        ("tied", ["embed_tokens"], "embed_tokens could not be merged .* is no linear layer"),
        ("plain", ["embed_tokens"], "embed_tokens could not be merged .* is no linear layer"),
    ],
)
def test_an_adapter_that_no_export_could_merge_is_refused_before_the_first_step(
    kind: str, targets: list[str], said: str
):
    with pytest.raises(UserError, match=said):
        attach(small_model(kind), PeftConfig(name="lora", targets=targets), 1, [])


@pytest.mark.parametrize(
    ("kind", "targets"), [("mixtral", ["q_proj", "v_proj"]), ("plain", ["lm_head"]), ("tied", ["auto"])]
)
def test_other_targets_are_taken(kind: str, targets: list[str]):
    assert attach(small_model(kind), PeftConfig(name="lora", targets=targets), 1, []).layers


def test_a_method_may_refuse_adapters(tiny_model, problem_file, tmp_path, monkeypatch):
    from mft_cli.methods.sft import Sft

    monkeypatch.setattr(Sft, "peft_refusal", "it trains a score for each weight")
    with pytest.raises(UserError, match=r"peft\.name=lora: it trains a score for each weight; set peft=none"):
        ready_for(asked(tiny_model, problem_file, "sft", tmp_path))


def test_without_bitsandbytes_one_sentence(tiny_model, problem_file, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else found(n, *a))
    for more in ({"peft_name": "qlora", "precision": "bf16"}, {"optimizer": "adamw_8bit"}):
        with pytest.raises(UserError, match="pip install bitsandbytes"):
            asked(tiny_model, problem_file, "sft", tmp_path, **more)


@needs_bitsandbytes
def test_qlora_trains_on_four_bits_and_exports_sixteen(tiny_model, problem_file, tmp_path):
    model = wider(tiny_model, tmp_path / "model", True, 0, hidden_size=64, num_attention_heads=2)
    wanted = asked(model, problem_file, "sft", tmp_path / "run", peft_name="qlora", precision="bf16", max_steps=8)
    ready = run_all(wanted)
    layer = ready.adapters.layers["model.layers.0.mlp.down_proj.weight"]
    assert layer.base_layer.weight.dtype == torch.uint8
    losses = [row["loss"] for line in ready.trainer.run.metrics.open() if (row := json.loads(line))["kind"] == "train"]
    assert losses[-1] < losses[0]
    weights = load_file(ready.trainer.run.export / "model.safetensors")
    assert weights["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
    assert "quantization_config" not in json.loads((ready.trainer.run.export / "config.json").read_text())
    saved = Stored(ready.trainer.run.checkpoints / "step-00000008").weights
    assert saved
    assert all("lora_" in n for n in saved)


@needs_bitsandbytes
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_8_bit_adamw_resumes_to_the_byte(tiny_model, problem_file, tmp_path, peft):
    more = {"peft_name": peft, "peft_rank": 64, "optimizer": "adamw_8bit"}
    whole, cut = (asked(tiny_model, problem_file, "sft", tmp_path / d, **more) for d in ("whole", "cut"))
    train(whole)
    trainer = ready_for(cut).trainer
    trainer.run.config.write_text(validate.to_yaml(cut))
    for k in range(2):
        trainer.account(trainer.step(k), 1.0)
    trainer.save()
    train(cut)
    kinds = {str(v["state1"].dtype) for v in trainer.engine.optimizer.state.values() if "state1" in v}
    assert "torch.uint8" in kinds or peft == "lora"
    name = "export/model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 2.0), (True, 4.0)])
def test_an_adapter_is_scaled_by_its_rank_or_the_root_of_it(tiny_model, problem_file, tmp_path, rslora, scaling):
    ready = ready_for(asked(tiny_model, problem_file, "sft", tmp_path, peft_rslora=rslora))  # alpha 8, rank 4
    scales = [scale for m in ready.model.modules() if hasattr(m, "lora_A") for scale in m.scaling.values()]
    assert scales
    assert set(scales) == {scaling}
