"""`mft plan`: numbers that can be checked on paper, formulas against what autograd saves, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.answers.critique_format import TAGS
from mft_cli.config import schema
from mft_cli.config.compose import CONF
from mft_cli.config.schema.methods import MaskedCritiqueConfig, MaskedThoughtConfig, MaskFinetuneConfig, SftConfig
from mft_cli.config.validate import build_from_texts
from mft_cli.errors import UserError
from mft_cli.plan.activations import Micro, head_forward, layer_bytes
from mft_cli.plan.estimate import Plan, make_plan
from mft_cli.plan.memory import StageMemory
from mft_cli.plan.presets import ARCHITECTURES
from mft_cli.plan.settings import PlanOptions, Settings, settings_of
from mft_cli.plan.shape import Shape, measure
from mft_cli.plan.show import as_text
from mft_cli.plan.trained import Trained, count_trained
from mft_cli.plan.work import DataFacts, extra_passes, pass_work
from tests.support.tiny import mft, tiny_overrides

PUBLISHED = {  # parameters as the model pages state them
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "agentica-org/DeepScaleR-1.5B-Preview": 1_777_088_000,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}


def make_config(path: str = "meta-llama/Llama-2-7b-hf", **more: object) -> schema.TrainConfig:
    sources = {"local": schema.SourceConfig(path="none.jsonl")}
    return schema.TrainConfig(model=schema.ModelConfig(path=path), data=schema.DataConfig(sources=sources), **more)


def planned(path: str = "meta-llama/Llama-2-7b-hf", gpus: int = 8, nodes: int = 1, **more: object) -> Plan:
    settings = Settings(gpus=gpus, nodes=nodes, peak_tflops=312.0, rows=7473, mean_tokens=200.0)
    return make_plan(make_config(path, **more), settings)


def stage(plan: Plan, name: str, checkpointing: bool = False) -> StageMemory:
    return next(s for s in plan.stages if s.stage == name and s.checkpointing == checkpointing)


def states(s: StageMemory) -> list[float]:
    """Parameters, gradients and optimizer in GB, to one place."""
    return [round(s.part(n) / 1e9, 1) for n in ("parameters", "gradients", "optimizer")]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_of_the_presets_are_the_published_ones(name: str):
    assert measure(ARCHITECTURES[name], "table").parameters == PUBLISHED[name]


def test_every_preset_with_a_hub_id_is_in_the_table():
    paths = [line for p in (CONF / "model").glob("*.yaml") for line in p.read_text().splitlines() if "path:" in line]
    hub = {p.removeprefix("path: ") for p in paths if not any(kind in p for kind in ("package:", "lab:", '""'))}
    assert hub == set(ARCHITECTURES)


# ---- on paper -------------------------------------------------------------------------------------------------------


def test_7b_on_eight_gpus():
    """6.738e9 parameters: 13.5 GB of 16-bit weights, 80.9 GB of optimizer; 16 bytes each are 107.8 GB."""
    p = planned()
    assert states(stage(p, "none")) == [13.5, 27.0, 80.9]  # gradients are summed in fp32
    assert states(stage(p, "zero1")) == [13.5, 27.0, 10.1]
    assert states(stage(p, "zero2")) == [13.5, 3.4, 10.1]
    assert states(stage(p, "zero3")) == [1.7, 3.4, 10.1]
    assert states(stage(p, "zero3_offload")) == [0, 0, 0]
    assert not stage(p, "none").fits
    assert p.lowest(False).stage == p.lowest(True).stage == "zero1"
    assert round(stage(p, "zero3_offload").cpu_total / 1e9, 1) == 148.2  # 22 bytes a parameter on the one node
    # in the node's memory while it loads: 16 bits a weight, or fp32, once for all ranks
    assert [round(stage(p, s).loading.bytes / 1e9, 1) for s in ("none", "zero1", "zero2", "zero3")] == [13.5] * 3 + [
        27.0
    ]


def test_ranks_without_an_example_are_planned():
    """As training deals them: 6 examples on 8 GPUs."""
    from mft_cli.plan.show import as_text

    p = planned(train=schema.TrainingConfig(global_batch_size=6), gpus=8)
    assert (p.work.balance.passes, p.work.balance.idle) == (1, 2)
    assert "2 of 8 GPUs have no example in a step: raise train.global_batch_size" in as_text(p)


def test_70b_on_eight_gpus_fits_with_offload_only():
    """18 bytes x 68.98e9 / 8 = 155 GB of states on each GPU even with ZeRO-3 (on paper, 16 bytes: 138)."""
    p = planned("meta-llama/Llama-2-70b-hf")
    assert states(stage(p, "zero3")) == [17.2, 34.5, 103.5]
    assert p.lowest(False).stage == p.lowest(True).stage == "zero3_offload"
    assert round(stage(p, "zero3_offload").cpu_total / 1e9) == 1517
    many = planned("meta-llama/Llama-2-70b-hf", gpus=32, nodes=4)
    assert many.lowest(True).stage == "zero3"
    assert round(stage(many, "zero3_offload").cpu_total / 1e9) == 379  # a quarter on each node
    assert p.fewest_gpus(True) <= 32


def test_7b_activations_by_hand():
    """bf16, 2,048 positions: per layer 16 D-wide and 3 I-wide numbers, and 4 bytes for norms and log-sums."""
    p = planned(train=schema.TrainingConfig(row_length=2048))
    d, i, h = 4096, 11008, 32
    per_position = 2 * (2 * d + 4) + 2 * 3 * d + 2 * 3 * d + (2 * d + 4 * h) + 3 * 2 * i
    assert stage(p, "zero3").work[0].bytes == 32 * 2048 * per_position
    assert stage(p, "none", True).work[0].bytes == 32 * 2048 * 2 * d


def test_fp32_needs_no_master():
    p = planned(train=schema.TrainingConfig(precision="fp32"))
    assert states(stage(p, "none")) == [27.0, 27.0, 53.9]  # 4 + 4 + 8 bytes


def test_lora_trains_adapters_only():
    """Rank 16 on q and v of 32 layers: 16 x (4096 + 4096) x 64 = 8,388,608."""
    p = planned(gpus=1, peft=schema.PeftConfig(name="lora", rank=16, targets=["q_proj", "v_proj"]))
    assert p.trained.trained == 8_388_608
    assert stage(p, "none").part("optimizer") == 12 * 8_388_608
    assert p.disk.checkpoint == 12 * 8_388_608
    assert p.lowest(False).stage == "none"


def test_qlora_holds_four_bits_a_weight():
    """224 linear layers have 6,476,005,376 weights: 0.516 bytes each; the other 262 million and the adapters 2."""
    p = planned(gpus=1, peft=schema.PeftConfig(name="qlora", rank=16))
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    adapters = 32 * 16 * (4 * 8192 + 3 * (4096 + 11008))
    assert p.trained.trained == adapters
    expected = linear * (0.5 + 1 / 64 + 1 / 4096) + 2 * (6_738_415_616 - linear + adapters)
    assert stage(p, "none").part("parameters") == pytest.approx(expected)


def test_scores_are_trained_and_weights_frozen():
    config = make_config(method=MaskFinetuneConfig(layers="4-7"))
    trained = count_trained(config, measure(ARCHITECTURES["meta-llama/Llama-2-7b-hf"], "table"))
    assert trained.trained == trained.scores == 4 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert trained.frozen == 6_738_415_616


def test_adapters_that_the_method_does_not_train_are_refused():
    config = make_config(peft=schema.PeftConfig(name="lora"), method=MaskFinetuneConfig(layers="4-7"))
    with pytest.raises(UserError, match=r"peft\.name=lora: mask_finetune freezes every weight"):
        count_trained(config, measure(ARCHITECTURES["meta-llama/Llama-2-7b-hf"], "table"))


@pytest.mark.parametrize("scores", ["random", "magnitude"])
def test_scores_that_never_train_have_no_gradients_and_no_moments(scores: str):
    """Held: weights and scores in 16 bits, an fp32 copy of the scores, a mask. The checkpoint has 4 + 1 bytes a score."""
    size = 4 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    learned = planned(gpus=1, method=MaskFinetuneConfig(layers="4-7"))
    plain = planned(gpus=1, method=MaskFinetuneConfig(layers="4-7", scores=scores))
    held = stage(plain, "none")
    assert (held.part("parameters"), held.part("masks")) == (2 * (6_738_415_616 + size), size)
    assert (held.part("gradients"), held.part("optimizer")) == (0, 4 * size)
    product, layer, _ = (i.bytes for i in held.work)  # one layer at a time: nothing is kept for backward
    assert (product, 32 * layer) == (2 * size, stage(learned, "none").work[0].bytes - 2 * size)
    assert (plain.work.steps, plain.work.flops) == (0, 0)
    assert plain.disk.checkpoint == 5 * size
    assert learned.disk.checkpoint == 13 * size
    in_fp32 = planned(method=plain.config.method, train=schema.TrainingConfig(precision="fp32"))
    assert stage(in_fp32, "none").part("optimizer") == 0
    assert "nothing trains" in as_text(plain)


@pytest.mark.parametrize(("tied", "method"), [(True, "masked_critique"), (False, "masked_critique"), (True, "sft")])
def test_rows_of_new_tokens_train_beside_adapters(tiny_model: Path, tmp_path: Path, tied: bool, method: str):
    """The plan counts what peft makes trainable, for tied and untied embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from mft_cli.models.adapters import attach
    from mft_cli.models.vocabulary import extend_model

    tokenizer, config = AutoTokenizer.from_pretrained(tiny_model), AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = tied
    for part in (tokenizer, config):
        part.save_pretrained(tmp_path)
    peft = schema.PeftConfig(name="lora", rank=4)
    asked = make_config(str(tmp_path), peft=peft, method=config_class(method)())
    found = count_trained(asked, measure(config, "test"))
    model = AutoModelForCausalLM.from_config(config)
    tags = list(TAGS) if method == "masked_critique" else []
    extend_model(model, tokenizer, tags)
    made = attach(model, peft, 1, tokenizer.convert_tokens_to_ids(tags))
    assert found.trained == sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    assert found.token_rows == len(tags) * 32 * (1 if tied else 2)


def config_class(name: str) -> type:
    return {"masked_critique": MaskedCritiqueConfig, "sft": SftConfig}[name]


def test_without_a_tokenizer_all_tokens_that_a_method_may_add_are_counted():
    """Llama-2 is not here: eight tags x 4,096 x 2 embeddings."""
    peft = schema.PeftConfig(name="lora", rank=16, targets=["q_proj", "v_proj"])
    p = planned(gpus=1, peft=peft, method=MaskedCritiqueConfig())
    assert p.trained.trained == 8_388_608 + 8 * 4096 * 2
    assert "at most 8 new tokens" in p.trained.note


def test_work_time_and_disk_by_hand():
    """7,473 examples of 200 tokens, 3 epochs of 234 steps; 6 x 6.607e9 + 6 x 32 x 4096 x 200 FLOPs a token."""
    w = planned().work
    assert (w.tokens_per_epoch, w.steps_per_epoch, w.steps, w.tokens) == (1_494_600, 234, 702, 4_483_800)
    assert w.flops_per_token == 6 * (6_738_415_616 - 32000 * 4096) + 6 * 32 * 4096 * 200
    assert w.seconds == pytest.approx(w.flops / (8 * 312e12 * 0.4))
    assert 175 < w.seconds < 185
    disk = planned().disk
    assert disk.total == 3 * 12 * 6_738_415_616 + 2 * 6_738_415_616


def test_adapters_need_no_gradient_of_frozen_weights():
    """4 x 6.607e9 frozen weights, 6 x the adapters' own."""
    p = planned(peft=schema.PeftConfig(name="lora", rank=16, targets=["q_proj", "v_proj"]))
    assert p.work.flops_per_token == 4 * (6_738_415_616 - 32000 * 4096) + 6 * 8_388_608 + 6 * 32 * 4096 * 200


@pytest.mark.parametrize(
    ("more", "products"),
    [({"noise": "model_sample"}, 1), ({"noise": "mixup"}, 2), ({"noise": "mixup", "mixup_with": "sample"}, 1)],
)
def test_the_clean_pass_of_noise_is_counted(more: dict[str, str], products: int):
    """mask_ratio 0.3, a ramp over half of the run: 0.225 of the tokens are chosen on average."""
    method = MaskedThoughtConfig(mask_ratio=0.3, warmup_fraction=0.5, **more)
    p = planned(method=method)
    head = 32000 * 4096
    body = 2 * (6_738_415_616 - 2 * head) + 2 * 32 * 4096 * 200
    (extra,) = p.work.extra
    assert extra.flops_per_token == pytest.approx(body + 0.225 * products * 2 * head)
    plain = planned().work
    assert p.work.seconds / plain.seconds == pytest.approx(1 + extra.flops_per_token / plain.flops_per_token)
    assert 1.31 < p.work.seconds / plain.seconds < 1.34
    assert f"(noise={more['noise']})" in as_text(p)
    assert "it will say 0.30" in as_text(p)


@pytest.mark.parametrize(
    "more", [{"noise": "token"}, {"noise": "dropout"}, {"noise": "neftune"}, {"noise": "mixup", "mixup_with": "random"}]
)
def test_other_noise_needs_no_clean_pass(more: dict[str, str]):
    p = planned(method=MaskedThoughtConfig(**more))
    assert p.work.extra == ()
    assert p.work.flops == planned().work.flops


def test_the_embedding_table_of_mixup_is_the_peak_where_little_else_is_kept():
    """Qwen2.5-0.5B, LoRA, short rows, checkpointed: the table of 151,936 x 896 numbers is more than the activations."""
    more = {"peft": schema.PeftConfig(name="lora"), "train": schema.TrainingConfig(row_length=64, packing=True)}
    mixed = planned("Qwen/Qwen2.5-0.5B", gpus=1, method=MaskedThoughtConfig(noise="mixup"), **more)
    names = {i.name: i.bytes for i in stage(mixed, "none", True).work}
    assert names["embedding table"] == 2 * 151_936 * 896
    plain = planned("Qwen/Qwen2.5-0.5B", gpus=1, method=MaskedThoughtConfig(), **more)
    assert stage(plain, "none", True).work_total < stage(mixed, "none", True).work_total


def test_sixteen_bytes_where_gradients_are_summed_in_16_bits():
    """13.5 / 8 + 13.5 / 8 + 80.9 / 8 GB, and an fp32 copy of a rank's gradients at the step: 4 x 6.738e9 / 8."""
    own = {"data_types": {"grad_accum_dtype": "bf16"}}
    p = planned(deepspeed=schema.DeepspeedConfig(name="zero3", config=own))
    assert states(stage(p, "zero1")) == [13.5, 13.5, 10.1]
    assert states(stage(p, "zero3")) == [1.7, 1.7, 10.1]
    assert stage(p, "zero3", True).work_total == 4 * 6_738_415_616 / 8


def test_buffers_follow_deepspeeds_settings():
    own = {"zero_optimization": {"stage": 3, "reduce_bucket_size": 1e8, "stage3_max_live_parameters": 2e8}}
    p = planned(deepspeed=schema.DeepspeedConfig(name="zero3", config=own))
    assert stage(p, "zero3").part("buffers") == 2 * (1e8 + 2e8 + 5e7)
    assert stage(planned(), "zero3").part("buffers") == 2 * (5e7 + 1e9 + 5e7)  # conf/deepspeed/zero3.yaml
    assert stage(planned(), "zero2").part("buffers") == 2 * 2 * 2e8  # two buckets: overlap_comm


def test_the_configurations_own_row_is_named(tmp_path: Path):
    """A DeepSpeed file of the user's counts as the configuration does: its stage, its buffers, its type of gradients."""
    assert "this configuration: none without gradient checkpointing, 126.9 GB: too much" in as_text(planned())
    own = {"stage": 2, "reduce_bucket_size": 1e8, "overlap_comm": False}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": own, "data_types": {"grad_accum_dtype": "bf16"}}))
    p = planned(deepspeed=schema.DeepspeedConfig(config_file=str(file)))
    assert stage(p, "zero2").part("buffers") == 2 * 1e8
    assert states(stage(p, "zero2")) == [13.5, 1.7, 10.1]
    assert "this configuration: zero2 without gradient checkpointing" in as_text(p)
    half = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    p = planned(deepspeed=schema.DeepspeedConfig(name="zero2", config=half))
    assert "this configuration: an offload that is not in the table" in as_text(p)


def test_gradient_checkpointing_costs_another_forward_pass_of_the_body():
    """2 of 6 FLOPs a weight, and 2 of 4 under adapters; the head is not computed again."""
    assert planned().work.recomputed == 2 * (6_738_415_616 - 2 * 32000 * 4096) + 2 * 32 * 4096 * 200
    assert "computes 33% more" in as_text(planned())
    assert "computes 48% more" in as_text(planned(peft=schema.PeftConfig(name="lora")))
    on = planned(train=schema.TrainingConfig(gradient_checkpointing=True))
    assert "computes 33% more and is on: 3:57" in as_text(on)


# ---- the formulas against autograd ----------------------------------------------------------------------------------


def saved_bytes(layers: int, dtype: str, fast: bool, documents: list[int]) -> int:
    """What backward keeps of a Llama's forward pass, parameters not counted, each storage once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mft_cli.models.kernels import fast_modules
    from mft_cli.models.kernels.attention import packed_kwargs
    from mft_cli.models.kernels.backends import register
    from mft_cli.models.kernels.cross_entropy import hidden_states

    config = LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation=register("sdpa"),
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if fast:
        assert fast_modules.install(model)
    model = model.to(getattr(torch, dtype)).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return t

    positions = torch.cat([torch.arange(n) for n in documents])[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ids = torch.zeros(1, sum(documents), dtype=torch.long)
        hidden = hidden_states(
            model, input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs([documents], None)
        )
    assert hidden.requires_grad
    return sum(s.nbytes() for s in kept.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("documents", [[1000], [200, 300]])
def test_a_layer_keeps_what_the_formula_says(dtype: str, fast: bool, documents: list[int]):
    one = saved_bytes(2, dtype, fast, documents) - saved_bytes(1, dtype, fast, documents)
    numbers = {
        "model_type": "llama", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    total = sum(documents)
    micro = Micro(
        positions=total, labels=total, chunk=1024, document=sum(n * n for n in documents) / total,
        compute=2 if dtype == "bfloat16" else 4, fast=fast, cpu=True,
    )  # fmt: skip
    assert layer_bytes(measure(numbers, "test"), micro, Trained(1, 0)) == one


@pytest.mark.parametrize(("noise", "products"), [("model_sample", 1), ("mixup", 2)])
def test_the_clean_pass_computes_what_the_plan_says(noise: str, products: int):
    """torch's own counter of FLOPs against the plan's. It counts attention whole, the plan the causal half."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    from mft_cli.data.pack import Batch
    from mft_cli.methods.noise import marks, noisy_inputs
    from mft_cli.models.kernels.backends import register
    from mft_cli.rng import Draw

    numbers = {
        "model_type": "llama", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    shape = measure(numbers, "test")
    model = LlamaForCausalLM._from_config(shape.model.config, attn_implementation=register("sdpa"))
    method = MaskedThoughtConfig(noise=noise, mask_ratio=0.25, schedule="constant")
    length, zeros = 200, torch.zeros(1, 200, dtype=torch.long)
    batch = Batch(
        zeros, zeros, zeros > -1, torch.arange(length)[None], zeros, zeros > -1, zeros, zeros, zeros, [[length]]
    )  # fmt: skip
    chosen = torch.arange(length)[None] % 4 == 3  # a quarter
    batch.extra = marks(batch, chosen, "test", Draw(1))
    with FlopCounterMode(display=False) as counter:
        noisy_inputs(model, batch, method, 97)
    whole = 4 * shape.layers * shape.queries * length**2
    config = make_config(method=method)
    (extra,) = extra_passes(config, DataFacts(rows=1, mean_tokens=length))
    counted = pass_work(extra, shape, length)
    assert counted.products == products
    assert counted.flops_per_token * length == pytest.approx(counter.get_total_flops() - whole / 2, rel=0.01)


def test_logits_are_chunked():
    shape: Shape = measure(ARCHITECTURES["meta-llama/Llama-2-7b-hf"], "table")
    micro = Micro(positions=8192, labels=1024, chunk=1024, document=8192, compute=2, fast=True, cpu=False)
    block = 4 * 1024 * 32000  # the whole chunk at once: it is below 2**25
    assert head_forward(shape, micro, Trained(1, 0)) == 1024 * 32000 * 2 + 6 * 32000 * 4096 + block
    assert head_forward(shape, micro, Trained(1, 0, trains_head=False)) == 1024 * 32000 * 2 + block


# ---- the command ----------------------------------------------------------------------------------------------------


def test_command_counts_the_data_and_prints_json(tmp_path: Path, tiny_model: Path, problem_file: Path):
    done = mft("plan", *tiny_overrides(tiny_model, problem_file), "gpus=2", "json=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["data"]["rows"] == 40
    assert found["work"]["steps"] == 5
    assert found["model"]["parameters"] == sum_of_weights(tiny_model)
    assert found["lowest"]["plain"] == "none"
    assert len(found["stages"]) == 10


def sum_of_weights(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(k).numel() for k in file.keys())  # noqa: SIM118


def test_text_shows_the_arithmetic(tmp_path: Path, problem_file: Path):
    data = tiny_overrides(Path("x"), problem_file)[1:4]
    done = mft(
        "plan", "model=llama2_7b", *data, "gpus=8", "peak_tflops=312", "rows=7473", "mean_tokens=200", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "16 B x 6,738,415,616 = 107.8 GB" in done.stdout
    assert "optimizer: 12 B x 6,738,415,616 / 8 = 10.1 GB" in done.stdout
    assert "the lowest that fits: zero1" in done.stdout
    assert not list(tmp_path.iterdir())


def test_unknown_tokens_are_said_and_the_rest_is_planned(tmp_path: Path, problem_file: Path):
    data = tiny_overrides(Path("x"), problem_file)[1:4]
    done = mft("plan", "model=llama2_7b", *data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "give mean_tokens=" in done.stdout
    assert "gradients: " in done.stdout


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"gpus": "0"}, "gpus=0"),
        ({"gpus": "2.5"}, "whole number"),
        ({"gpu_memory_gb": "-80"}, "gpu_memory_gb=-80"),
        ({"mfu": "40"}, "mfu=40"),
        ({"peak_tflops": "nan"}, "peak_tflops=nan"),
        ({"reserve": "1"}, "reserve=1"),
        ({"gpus": "2", "nodes": "4"}, "nodes=4"),
        ({"json": "perhaps"}, "json=perhaps"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(own: dict[str, str], word: str):
    with pytest.raises(UserError, match=word) as error:
        settings_of(build_from_texts(PlanOptions, own), make_config())
    assert "\n" not in str(error.value)


def test_a_model_that_cannot_be_read_needs_arch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="arch="):
        planned("someone/unknown-model")
    numbers = "{model_type: llama, vocab_size: 97, hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2}"
    settings = Settings(arch=numbers, rows=10, mean_tokens=5.0)
    found = make_plan(make_config("someone/unknown-model"), settings)
    # untied embeddings 2 x 97 x 64, 2 layers of 4 x 64 x 64 + 3 x 64 x 160 + 2 x 64, a last norm
    assert found.shape.parameters == 2 * 97 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 160 + 2 * 64) + 64
    with pytest.raises(UserError, match="model_type"):
        planned_arch("{hidden_size: 64}")


def planned_arch(arch: str) -> Plan:
    return make_plan(make_config("someone/unknown-model"), Settings(arch=arch))


def test_a_missing_adapter_target_is_named():
    with pytest.raises(UserError, match=r"q_prj.*q_proj"):
        planned(peft=schema.PeftConfig(name="lora", targets=["q_prj"]))
