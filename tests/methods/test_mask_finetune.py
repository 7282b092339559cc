"""mask_finetune: what it computes, on which layers of which architectures, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mft_cli.config.layer_numbers import layer_numbers
from mft_cli.config.schema.methods import MaskFinetuneConfig
from mft_cli.data.questions import read_questions
from mft_cli.errors import UserError
from mft_cli.files import read_json
from mft_cli.methods import make
from mft_cli.methods import weight_masks as masks_file
from mft_cli.methods.masked_layers import MaskedProduct, choose, first_scores, value_for
from mft_cli.methods.selection import keep_largest, removed_count
from mft_cli.rng import digest64
from mft_cli.train.checkpoint import Stored
from mft_cli.train.run import train
from tests.methods.test_contract import make_trainer, settings
from tests.support.tiny import mft, tiny_overrides


def product(kind: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Input, weight, bias, scores, mask and upstream gradient of a random layer. `kind`: linear or conv1d."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    rows, columns = (13, 9) if kind == "linear" else (9, 13)
    scores = normal(rows, columns)
    scores.view(-1)[::11] = 0  # sign(0) = 0
    return {
        "x": normal(2, 5, 9), "weight": normal(rows, columns), "bias": normal(13), "scores": scores,
        "mask": torch.rand(rows, columns, generator=generator) > 0.3, "upstream": normal(2, 5, 13),
    }  # fmt: skip


def by_hand(p: dict[str, Any], kind: str, sign: bool) -> dict[str, Tensor]:
    """Plain autograd through W * M with M a leaf: dL/dM is its gradient, and dL/ds follows by the definition."""
    x, bias, mask = p["x"].clone().requires_grad_(), p["bias"].clone().requires_grad_(), p["mask"].to(p["x"].dtype)
    mask.requires_grad_()
    weight = p["weight"] * mask
    y = torch.nn.functional.linear(x, weight if kind == "linear" else weight.t(), bias)
    dx, db, dm = torch.autograd.grad(y, (x, bias, mask), p["upstream"])
    return {"y": y, "x": dx, "bias": db, "scores": dm * p["scores"].sign() if sign else dm}


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("sign", [True, False])
def test_gradients_are_the_definitions_bit_for_bit(kind, sign):
    p = product(kind)
    expected = by_hand(p, kind, sign)
    x, bias, scores = (p[n].clone().requires_grad_() for n in ("x", "bias", "scores"))
    y = MaskedProduct.apply(x, p["weight"], bias, scores, p["mask"], None, sign, kind == "conv1d")
    dx, db, ds = torch.autograd.grad(y, (x, bias, scores), p["upstream"])
    for name, found in {"y": y, "x": dx, "bias": db, "scores": ds}.items():
        assert torch.equal(found, expected[name]), name
    assert torch.equal(ds.view(-1)[::11], torch.zeros(len(ds.view(-1)[::11]))) or not sign


def test_a_weight_that_wants_a_gradient_gets_the_masked_one():
    p = product("linear")
    weight = p["weight"].clone().requires_grad_()
    y = MaskedProduct.apply(p["x"], weight, None, p["scores"], p["mask"], None, True, False)
    (found,) = torch.autograd.grad(y, weight, p["upstream"])
    plain = p["upstream"].flatten(0, 1).t() @ p["x"].flatten(0, 1)
    assert torch.equal(found, plain * p["mask"])


# ---- architectures --------------------------------------------------------------------------------------------------

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = {
    "llama": (GATED, 7), "qwen2": (GATED, 7), "qwen3": ({**GATED, "head_dim": 8}, 7),
    "gemma": ({**GATED, "head_dim": 8}, 7), "gemma2": ({**GATED, "head_dim": 8}, 7), "gpt2": (GPT2, 4),
    "gpt_neox": ({**SMALL, "intermediate_size": 48}, 4),
}  # fmt: skip


def small_model(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind][0])).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_masked_model_computes_what_the_plain_one_with_zeros_does(kind):
    """For every architecture: which layers, logits, and gradients of the scores from the plain model's weights."""
    plain, model = small_model(kind), small_model(kind)
    method = make(MaskFinetuneConfig(layers="1-2", mask_ratio=0.3), 1024)
    method.adapt(model, None)
    layers, each = method.layers, ARCHITECTURES[kind][1]
    assert len(layers) == 2 * each
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {f"{n}.scores" for n in layers}
    before = {n: m.weight.detach().clone() for n, m in layers.items()}
    for name, module in layers.items():
        assert float((~module.mask).float().mean()) == pytest.approx(0.3, abs=0.01)
        own = plain.get_submodule(name)
        own.weight.data = own.weight.data * module.mask
    ids = torch.arange(20)[None] % 64
    expected, found = plain(ids).logits, model(ids).logits
    assert torch.equal(found, expected)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for name, module in layers.items():
        (dw,) = torch.autograd.grad(expected, plain.get_submodule(name).weight, upstream, retain_graph=True)
        (ds,) = torch.autograd.grad(found, module.scores, upstream, retain_graph=True)
        assert torch.equal(ds, dw * before[name] * module.scores.sign()), name


def test_layers_and_modules_are_chosen_as_said():
    model = small_model("llama")
    assert len(choose(model, "all", ["attention"])) == 12
    assert set(choose(model, 1, ["q_proj", "mlp.up*"])) == {
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }
    assert layer_numbers("0-2,5", 8) == {0, 1, 2, 5}
    assert layer_numbers([4, 5], 8) == {4, 5}
    for wrong in ("4-9", "a", "-", "", "5-4", "-1"):
        with pytest.raises(UserError, match=r"method\.layers"):
            layer_numbers(wrong, 8)
    with pytest.raises(UserError, match=r"qq names no linear layer; expected .*q_proj"):
        choose(model, "all", ["qq"])


def test_a_map_gives_each_module_its_own_ratio():
    given = {"attention": 0.1, "mlp": 0.2, "down_proj": 0.3, "*.layers.2.*": 0.4}
    assert value_for("model.layers.0.self_attn.q_proj", given, "k") == 0.1
    assert value_for("model.layers.0.mlp.up_proj", given, "k") == 0.2
    assert value_for("model.layers.2.mlp.down_proj", given, "k") == 0.3
    assert value_for("model.layers.2.mlp.up_proj", given, "k") == 0.4
    with pytest.raises(UserError, match=r"method\.mask_ratio has no value for model\.layers\.0\.mlp\.up_proj"):
        value_for("model.layers.0.mlp.up_proj", {"attention": 0.1}, "method.mask_ratio")


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (MaskFinetuneConfig(layers="all", scores="random", mask_ratio=0.25), 0.25),
        (MaskFinetuneConfig(layers="all", scores="magnitude", mask_ratio=0.25), 0.25),
        (MaskFinetuneConfig(selection="global"), 0.0401),
        (MaskFinetuneConfig(selection="global", score_init=0.035), 0.1587),
        (MaskFinetuneConfig(layers="all", mask_ratio={"attention": 0.0, "mlp": 1.0}), 9 / 14),
    ],
)
def test_what_is_removed_before_training(config, share):
    """The share of each rule; the paper's global threshold removes 4.0 % of normal(0, 0.02) scores."""
    model = small_model("llama")
    method = make(config, 1024)
    method.adapt(model, None)
    removed, whole = method.shares()["removed_share"]
    assert whole == sum(m.weight.numel() for m in method.layers.values())
    mlp = sum(m.weight.numel() for n, m in method.layers.items() if "mlp" in n)
    share = mlp / whole if isinstance(config.mask_ratio, dict) else share
    assert removed / whole == pytest.approx(share, abs=0.012)
    if config.scores == "magnitude":
        for module in method.layers.values():
            kept, gone = module.weight[module.mask].abs().min(), module.weight[~module.mask].abs().max()
            assert gone <= kept


def test_scores_depend_on_the_seed_and_the_module_alone():
    found = []
    for layers, seed in (("all", 1), ("2", 1), ("2", 2)):
        model = small_model("llama")
        torch.manual_seed(seed)
        torch.randn(7 * len(layers))
        method = make(MaskFinetuneConfig(layers=layers), 1024)
        method.adapt(model, None)
        found.append(method.layers["model.layers.2.mlp.up_proj"].scores.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_a_random_mask_is_independent_of_where_the_learned_one_starts():
    weight = torch.zeros(400, 500)
    learned, random = (first_scores(kind, weight, 0.02, 7) for kind in ("learned", "random"))
    both = ~keep_largest(learned, 20_000) & (random < 0.1)
    assert int(both.sum()) == pytest.approx(2_000, abs=5 * 2_000**0.5)


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_mask_is_selected_once_a_step_from_the_fp32_scores(tiny_model, problem_file, tmp_path):
    """In bf16 most steps of 1e-6 are lost in the weights that the model holds: the masters keep them."""
    asked = settings(
        tiny_model, problem_file, "mask_finetune", {}, tmp_path, precision="bf16", learning_rate=1e-6,
        warmup_fraction=0.0, micro_batch_size=1, row_length=256,
    )  # fmt: skip
    trainer = make_trainer(asked)
    name, module = next(iter(trainer.method.layers.items()))
    calls: list[int] = []
    select = trainer.method.select
    trainer.method.select = lambda n, s: (calls.append(1), select(n, s))[1]
    first, master = module.mask.clone(), trainer.engine.master(f"{name}.scores")
    before = master.clone()
    trainer.step(0)
    assert len(calls) == len(trainer.method.layers)
    assert torch.equal(module.mask, first)  # the first step's mask is that of the scores at the start
    assert module.scores.dtype == torch.bfloat16
    assert master.dtype == torch.float32
    moved = (master != before).float().mean()
    lost = (module.scores == before.bfloat16()).float().mean()
    assert moved > 0.9
    assert lost > 0.9
    trainer.method.refresh(trainer.engine.model, trainer.engine.master)
    assert torch.equal(module.mask, trainer.method.select(name, master))


def test_changes_are_counted_step_by_step_whatever_is_saved_between(tiny_model, problem_file, tmp_path):
    rows = []
    for name in ("saved", "plain"):
        trainer = make_trainer(
            settings(tiny_model, problem_file, "mask_finetune", {}, tmp_path / name, warmup_fraction=0.0)
        )
        shares = []
        for k in range(3):
            shares.append(trainer.step(k).shares)
            if name == "saved":
                trainer.save()
                trainer.validate()
        rows.append(shares)
    assert rows[0] == rows[1]
    assert rows[0][0]["mask_changes"] == 0
    assert rows[0][1]["mask_changes"] > 0


def test_compiled_layers_compute_the_same(tiny_model, problem_file, tmp_path):
    """Traced as launch.compile=true does, with gradient checkpointing; the graphs run eagerly: C++ takes minutes."""
    results = []
    for compiled in (False, True):
        asked = settings(
            tiny_model, problem_file, "mask_finetune", {}, tmp_path / str(compiled),
            gradient_checkpointing=True, warmup_fraction=0.0, learning_rate=2e-5,
        )  # fmt: skip
        trainer = make_trainer(asked)
        if compiled:
            trainer.engine.model.model.compile(dynamic=True, backend="eager")
        results.append([trainer.step(k) for k in range(2)])
    for a, b in zip(*results, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.norm == pytest.approx(a.norm, rel=1e-5)


@pytest.mark.parametrize("variant", [{}, {"scores": "random"}, {"scores": "magnitude"}, {"selection": "global"}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_export_is_the_base_with_zeros_and_the_masks(tiny_model, problem_file, tmp_path, variant, precision):
    """Every other byte is the base's, also after training in 16 bits; masks are stored at one bit a weight."""
    asked = settings(tiny_model, problem_file, "mask_finetune", variant, tmp_path, precision=precision)
    train(asked)
    base, found = (load_file(f / "model.safetensors") for f in (tiny_model, tmp_path / "export"))
    packed = masks_file.read(tmp_path / "export")
    assert base.keys() == found.keys()
    assert len(packed.packed) == 14
    for name in base:
        assert base[name].dtype == found[name].dtype
        mask = packed[name] if name in packed.packed else torch.ones_like(base[name], dtype=torch.bool)
        assert torch.equal(found[name][mask].view(torch.int32), base[name][mask].view(torch.int32)), name
        assert not found[name][~mask].any()
    facts = read_json(tmp_path / "export" / "mft.json")
    assert facts["masks"]["base_digest"] == masks_file.weights_digest(tiny_model)
    assert read_questions(tmp_path / "export").size > 0  # what it was trained on, for `mft eval`
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    if variant.get("scores"):
        assert [r["kind"] for r in rows] == ["validation"]
    else:
        assert len([r for r in rows if r["kind"] == "train"]) == 4
    if not variant:
        removed = {n: round(0.1 * m.numel()) for n, m in base.items()}
        assert all(packed.removed(n) == removed[n] for n in packed)


def test_untrained_masks_by_the_command_line_and_a_resume(tiny_model, problem_file, tmp_path):
    common = tiny_overrides(tiny_model, problem_file, method="mask_finetune", run_dir=tmp_path / "run")
    asked = [*common, "method.layers=all", "method.scores=magnitude", "data.validation.rows=4"]
    for said in ("exported step 0", "is done"):
        done = mft("train", *asked, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    export = load_file(tmp_path / "run" / "export" / "model.safetensors")
    base = load_file(tiny_model / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert int((export[name] == 0).sum()) == round(0.1 * base[name].numel())


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_ranks_select_from_exact_fp32_scores_and_export_the_base(engine, tiny_model, problem_file, tmp_path):
    """Two ranks in bf16: steps of 1e-6 stay, the mask is that of the stored fp32 scores, the export is the base's bytes."""
    asked = {
        "method": "mask_finetune", "run_dir": tmp_path / "run", "method.layers": "all", "train.precision": "bf16",
        "train.learning_rate": 1e-6, "deepspeed": engine, "launch.processes": 2, "train.max_steps": 3,
        "train.gradient_checkpointing": "true",
    }  # fmt: skip
    done = mft("train", *tiny_overrides(tiny_model, problem_file, **asked), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    stored = Stored(tmp_path / "run" / "checkpoints" / "step-00000003")
    base, export = (load_file(f / "model.safetensors") for f in (tiny_model, tmp_path / "run" / "export"))
    packed = masks_file.read(tmp_path / "run" / "export")
    for name in packed:
        module = name.removesuffix(".weight")
        scores, seed = stored.tensor(f"{module}.scores"), digest64("mask_finetune", 1, module)
        moved = (scores - first_scores("learned", base[name], 0.02, seed)).abs()
        assert 0 < float(moved.max()) < 4e-6  # rounded to bf16 at the start they would be up to 1e-4 away
        mask = keep_largest(scores, removed_count(0.1, scores.numel()))
        assert torch.equal(packed[name], mask)
        assert torch.equal(export[name], torch.where(mask, base[name], 0.0))


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ({"layers": None}, "method.layers is missing"),
        ({"layers": "2-5"}, "the model has the layers 0 to 1"),
        ({"mask_ratio": 1.5}, "method.mask_ratio=1.5: expected a number from 0 to 1"),
        ({"mask_ratio": {"attention": 2.0}}, "method.mask_ratio.attention=2.0: expected a number from 0 to 1"),
        ({"mask_ratio": {"mlp": 0.1}}, "method.mask_ratio has no value for model.layers.0.self_attn.q_proj"),
        ({"selection": "global", "scores": "random"}, "set method.selection=local"),
        ({"modules": ["lm_head"]}, "lm_head names no linear layer"),
        (
            {"mask_ratio": {"attention": 0.1, "mlp": 0.2, "up_prj": 0.4}},
            "method.mask_ratio: up_prj names no linear layer",
        ),
        ({"selection": "global", "threshold": {"attn": 0.0}}, "method.threshold: attn names no linear layer"),
    ],
)
def test_mistakes_are_told_in_a_sentence(variant, said, tiny_model, problem_file, tmp_path):
    with pytest.raises(UserError) as told:
        make_trainer(settings(tiny_model, problem_file, "mask_finetune", variant, tmp_path))
    assert said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("layers", "said"), [("4-7", "the model has the layers 0 to 1"), ("3-2", "expected layer numbers such as 4-7")]
)
def test_wrong_layers_are_told_before_the_model_is_loaded(layers, said, tiny_model, problem_file, tmp_path):
    with pytest.raises(UserError) as told:
        settings(tiny_model, problem_file, "mask_finetune", {"layers": layers}, tmp_path)
    assert said in str(told.value)


def test_adapters_are_refused_with_the_reason():
    refusal = make(MaskFinetuneConfig(layers="all"), 1024).peft_refusal
    assert refusal is not None
    assert "freezes" in refusal


def test_frozen_modules_stay_linear_layers():
    """Peft, the plan and the fast modules tell a linear layer by its class."""
    model = small_model("llama")
    method = make(MaskFinetuneConfig(layers="0"), 1024)
    method.adapt(model, None)
    assert all(type(m) is nn.Linear for m in method.layers.values())
    from mft_cli.models.kernels import fast_modules

    gated = [m for n, m in model.named_modules() if n.endswith("mlp")]
    fast_modules.install(model)
    assert all("forward" in vars(m) for m in gated), "the gated product is fused in masked layers too"


def test_presets_are_the_papers():
    import yaml

    from mft_cli.config.compose import CONF

    published = {
        "llama2_math": "4-7", "llama2_code": "20-23", "llama2_instructions": "0-3", "llama31_math": "24-27",
        "llama31_code": "20-23", "llama31_instructions": "24-27",
    }  # fmt: skip
    for name, layers in published.items():
        values = yaml.safe_load(Path(CONF / "experiment" / f"paper_mask_finetune_{name}.yaml").read_text())
        config = MaskFinetuneConfig(**values["method"])
        assert (config.layers, config.mask_ratio, config.selection) == (layers, 0.1, "local")
    values = yaml.safe_load(Path(CONF / "method" / "mask_finetune_global.yaml").read_text())
    assert (MaskFinetuneConfig(**values).selection, values["threshold"]) == ("global", -0.035)
