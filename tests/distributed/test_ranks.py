"""Ranks and ZeRO stages change the speed, never the numbers: every method against one plain process.

One process group for each (engine, ranks) runs all methods, then goes on from checkpoints that another engine wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mft_cli.config import compose as config
from mft_cli.distributed.ranks import Ranks
from tests.methods.test_contract import CASES, DISCONTINUOUS, REQUIRED
from tests.support import rank_program
from tests.support.tiny import ROOT, data_of, mft, tiny_overrides

ENGINES = [
    ("none", 2),
    ("zero1", 2),
    ("zero2", 2),
    ("zero3", 2),
    ("zero3", 4),
    ("zero2", 4),
    ("zero1", 4),
    ("zero3_offload", 2),
]
EVERY_VARIANT = [("none", 2), ("zero3", 2)]  # the other engines run one variant of every method
MIXED = ("zero3", 4)  # norms stay whole on every rank, as in large models; elsewhere stage 3 partitions everything
SPLITS = [{"micro_batch_size": 1}, {"micro_batch_size": 3}, {"micro_batch_size": 2, "packing": False}]


def preset(group: str, name: str) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((config.CONF / group / f"{name}.yaml").read_text()))


def engine_keys(engine: str, whole_below: int = 0) -> dict[str, Any]:
    """A preset. Stage 3 keeps parameters of fewer elements than `whole_below` on every rank: 100,000 would be all here."""
    keys = preset("deepspeed", engine)
    if engine.startswith("zero3"):
        keys["config"]["zero_optimization"]["stage3_param_persistence_threshold"] = whole_below
    return keys


def values(model: Path, data: Path, method: str, variant: dict, run_dir: Path, engine: str, **train: Any) -> dict:
    return {
        "seed": 3, "run_dir": str(run_dir), "model": {"path": str(model)},
        "method": {**preset("method", method), **REQUIRED.get(method, {}), **variant},
        "data": {"name": "tiny", "sources": {"tiny": data_of(method, data)}, "max_length": 256},
        "train": {
            "global_batch_size": 8, "max_steps": 6, "learning_rate": 0.01, "precision": "fp32", "row_length": 256,
            "warmup_fraction": 0.0, "max_grad_norm": 0.5, **train,
        },
        "deepspeed": engine_keys(engine), "launch": {"threads": 1, "device": "cpu"},
    }  # fmt: skip


def run_ranks(cases: dict[str, Any], world: int, folder: Path, timeout: float = 500) -> dict[str, Any]:
    """The rank program on `world` processes; what rank 0 found. `timeout` in seconds."""
    file, out = folder / "cases.json", folder / "found.json"
    file.write_text(json.dumps(cases))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {
        **os.environ, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    logs = [open(folder / f"rank{r}.log", "w") for r in range(world)]  # noqa: SIM115
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.rank_program", str(file), str(out)],
            env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=logs[r], stderr=subprocess.STDOUT,
        )
        for r in range(world)
    ]  # fmt: skip
    try:
        for child in children:
            child.wait(timeout=timeout)
    finally:
        for child in children:
            child.kill()
    assert out.exists(), "\n".join(f"rank {r}:\n{(folder / f'rank{r}.log').read_text()[-3000:]}" for r in range(world))
    return dict(json.loads(out.read_text()))


def cases_of(model: Path, data: Path, root: Path, engine: str, states: Path, variants: bool = True) -> dict[str, Any]:
    """`states`: root of the plain runs. Methods that select discontinuously take every step from the plain run's state.

    Without `variants` a method's first one stands for all. Presets of a method add nothing here.
    """
    cases: dict[str, Any] = {}
    for i, (method, variant) in enumerate(CASES):
        if preset("method", method)["name"] != method or (
            not variants and any(n.startswith(f"{method}-") for n in cases)
        ):
            continue
        name = f"{method}-{i}"
        cases[name] = values(model, data, method, variant, root / name, engine, **SPLITS[i % len(SPLITS)])
        if method in DISCONTINUOUS:
            cases[name] |= {"checkpoint": {"keep_last": 9}, "states": str(states / name / "checkpoints")}
    checkpointed = {"gradient_checkpointing": True, "micro_batch_size": 2}
    cases["checkpointing"] = values(model, data, "masked_thought", {}, root / "checkpointing", engine, **checkpointed)
    cases["bf16"] = values(model, data, "masked_thought", {}, root / "bf16", engine, precision="bf16")
    # The first step makes the weights so large that no later loss is finite: those steps are skipped.
    cases["overflow"] = values(model, data, "sft", {}, root / "overflow", engine, learning_rate=1000, weight_decay=1e12)
    cases["broken"] = values(model, data, "sft", {}, root / "broken", engine)  # as rank_program does to its first step
    lora = {"peft": {"name": "lora", "rank": 4, "dropout": 0.1}}  # with a new token's row, and frozen parameters
    cases["lora"] = values(model, data, "masked_thought", {}, root / "lora", engine, **SPLITS[1]) | lora
    again = values(model, data, "sft", {}, root / "lora-checkpointing", engine, **checkpointed)
    cases["lora-checkpointing"] = again | lora
    scored = values(model, data, "mask_finetune", {}, root / "scored", engine, **checkpointed)
    cases["scored"] = scored | {"checkpoint": {"keep_last": 9}, "states": str(states / "scored" / "checkpoints")}
    return cases


@pytest.fixture(scope="module")
def plain(tiny_model, problem_file, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """One plain process: the reference, and its checkpoints after three steps."""
    root = tmp_path_factory.mktemp("plain")
    cases = cases_of(tiny_model, problem_file, root, "none", root)
    found = run_ranks(cases, 1, root)
    again = {f"{n}-resume": {**v, "run_dir": f"{root / n}-resume"} for n, v in cases.items() if "states" not in v}
    for name in list(again):
        os.symlink(root / name.removesuffix("-resume"), root / name)
    folder = tmp_path_factory.mktemp("plain-again")
    return root, {**found, **run_ranks(again, 1, folder)}


def agree(found: list[dict], expected: list[dict], name: str) -> None:
    close = 1e-3 if name.endswith("bf16") else 1e-5
    for a, b in zip(found, expected, strict=True):
        for exact in ("examples", "counts", "shares", "applied"):
            assert a[exact] == b[exact], (name, exact)
        if a["applied"]:
            assert a["terms"] == pytest.approx(b["terms"], rel=close), name
            assert a["loss"] == pytest.approx(b["loss"], rel=close), name
            # in 16 bits DeepSpeed sums its ranks' gradients in another order, and rounds before it sums
            assert a["norm"] == pytest.approx(b["norm"], rel=1e-2 if name.endswith("bf16") else close), name


def needs_compiler(engine: str) -> None:
    if engine != "none" and shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles its collectives for processors: no g++ here (apt-get install g++)")


@pytest.mark.parametrize(("engine", "world"), ENGINES)
def test_ranks_change_the_speed_never_the_number(engine, world, plain, tiny_model, problem_file, tmp_path):
    """Trajectories of every method, and going on from the plain run's checkpoint under other ranks and stages."""
    needs_compiler(engine)
    root, expected = plain
    cases = cases_of(tiny_model, problem_file, tmp_path, engine, root, variants=(engine, world) in EVERY_VARIANT)
    if (engine, world) == MIXED:
        for case in cases.values():
            case["deepspeed"] = engine_keys(engine, whole_below=100)
    # all weights trained; adapters; a part of the module tree
    resumed = [next(n for n in cases if n.startswith(m)) for m in ("masked_thought", "lora", "chunk_refine")]
    for name in resumed:
        folder = tmp_path / f"{name}-resume"
        (folder / "checkpoints").mkdir(parents=True)
        os.symlink(root / name / "checkpoints" / "step-00000003", folder / "checkpoints" / "step-00000003")
        cases[f"{name}-resume"] = {**cases[name], "run_dir": str(folder)}
    found = run_ranks(cases, world, tmp_path)
    for name in cases:
        agree(found[name], expected[name], f"{engine} on {world}: {name}")
        if engine.startswith("zero3"):
            assert (found[name][0]["whole_parameters"] > 0) == ((engine, world) == MIXED), name
    # and back: one plain process goes on from what these ranks wrote
    again = {}
    for name in resumed:
        back = tmp_path / f"{name}-back-resume"
        back.mkdir()
        os.symlink(tmp_path / name / "checkpoints", back / "checkpoints")
        again[name] = {**cases[name], "run_dir": str(back), "deepspeed": preset("deepspeed", "none")}
    small = tmp_path / "small"
    small.mkdir()
    found = run_ranks(again, 1, small)
    for name in resumed:
        agree(found[name], expected[f"{name}-resume"], f"one process from {engine} on {world}: {name}")


def model_of(kind: str, tokenizer_folder: Path, folder: Path, **settings: Any) -> Path:
    """A random two-layer model of another architecture, with its head apart from its embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    made = AutoConfig.for_model(kind, tie_word_embeddings=False, **shape, **settings)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_unequal_label_counts_of_ranks(tiny_model, problem_file, tmp_path):
    """Ranks whose logits are made in unequal numbers of chunks, one of them without any label in a micro-batch.

    A soft cap on the logits takes the model's own way from hidden states to logits, chunk by chunk.
    """
    needs_compiler("zero3")
    capped = model_of("gemma2", tiny_model, tmp_path / "capped", final_logit_softcapping=5.0)
    plain = model_of("llama", tiny_model, tmp_path / "plain")
    # 4 + 3 examples: the fourth has no partner
    unequal = {"global_batch_size": 7, "micro_batch_size": 3, "packing": False, "logits_chunk": 7}
    more = {"capped": {}, "plain": {}, "capped-lora": {"peft": {"name": "lora", "rank": 4}}}
    cases, expected = {}, {}
    for name, keys in more.items():
        model = plain if name == "plain" else capped
        one = values(model, problem_file, "sft", {}, tmp_path / f"{name}-one", "none", **unequal) | keys
        expected[name] = rank_program.facts(rank_program.make_trainer(one, Ranks()))
        cases[name] = values(model, problem_file, "sft", {}, tmp_path / name, "zero3", **unequal) | keys
    found = run_ranks(cases, 2, tmp_path, timeout=150)
    for name in cases:
        agree(found[name], expected[name], name)


def test_the_command_on_two_zero3_ranks_exports_what_one_process_does(tiny_model, problem_file, tmp_path):
    """Launch, streamed export and its verification, by the command line. The mask token takes a spare row of the model."""
    needs_compiler("zero3")
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    padded = tmp_path / "padded"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(model.config.vocab_size + 5, mean_resizing=False)
    model.save_pretrained(padded)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(padded)
    common = tiny_overrides(padded, problem_file, method="masked_thought")
    one = mft("train", *common, f"run_dir={tmp_path / 'one'}", cwd=tmp_path)
    partitioned = "deepspeed.config.zero_optimization.stage3_param_persistence_threshold=0"
    ranks = ["launch.processes=2", "deepspeed=zero3", partitioned]
    two = mft("train", *common, f"run_dir={tmp_path / 'two'}", *ranks, cwd=tmp_path)
    assert one.returncode == two.returncode == 0, two.stdout + two.stderr
    alone = mft("train", *common, f"run_dir={tmp_path / 'alone'}", "deepspeed=zero3_offload", cwd=tmp_path)
    assert alone.returncode == 0, alone.stdout + alone.stderr  # one process, which offloads
    a, *others = (load_file(tmp_path / n / "export" / "model.safetensors") for n in ("one", "two", "alone"))
    for b in others:
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].shape == b[name].shape
            assert float((a[name] - b[name]).abs().max()) < 1e-6
    assert (tmp_path / "two" / "logs" / "rank1.log").exists()
    assert json.loads((tmp_path / "two" / "state.json").read_text())["state"] == "done"


def test_two_nodes_started_by_hand(tiny_model, problem_file, tmp_path):
    """The same command on two nodes (here: twice on this machine) is one run; the first node keeps its folder."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = tiny_overrides(tiny_model, problem_file)
    nodes = ["launch.nodes=2", "launch.processes=1", "launch.host=127.0.0.1", f"launch.port={port}", "run_dir=two"]
    with ThreadPoolExecutor() as pool:
        second = pool.submit(mft, "train", *common, *nodes, "launch.node_rank=1", cwd=tmp_path)
        first = mft("train", *common, *nodes, "launch.node_rank=0", cwd=tmp_path)
    assert first.returncode == second.result().returncode == 0, first.stderr + second.result().stderr
    assert "2 ranks" in first.stdout
    one = mft("train", *common, "run_dir=one", cwd=tmp_path)
    assert one.returncode == 0
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / d / "metrics.jsonl").read_text().splitlines()]
        for d in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    again = mft("train", *common, *nodes, "launch.node_rank=1", cwd=tmp_path)
    assert again.returncode == 0  # done: it waits for nobody


def test_without_a_compiler_the_reason_is_told(tiny_model, problem_file, tmp_path):
    """DeepSpeed builds its collectives for processors with ninja and g++; neither is on this PATH, nothing is cached."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    env = {"PATH": str(programs), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    run = [
        *tiny_overrides(tiny_model, problem_file),
        f"run_dir={tmp_path / 'run'}",
        "deepspeed=zero3",
        "launch.processes=2",
    ]
    done = mft("train", *run, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert said.count("install a compiler and ninja") == 1
    assert "stopped for the reason above" in done.stderr
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("deepspeed.config.train_batch_size=7", "contradicts train.global_batch_size"),
        ("deepspeed.config.gradient_clipping=3", "contradicts train.max_grad_norm"),
        ("deepspeed.config.optimizer.type=Lamb", "contradicts train.learning_rate"),
        ("deepspeed.config.zero_optimization.stage=0", "expected 1, 2 or 3"),
        ("deepspeed.config.bf16.enabled=true", "contradicts train.precision=fp32"),
        ("+deepspeed.config.zero_optimization.offload_param.device=nvme", "device=nvme is not supported"),
        ("launch.compile=true", "does not go with ZeRO stage 3"),
        ("deepspeed.config_file=missing.json", "not a readable JSON file"),
    ],
)
def test_contradictions_are_told_before_anything_starts(override, said, tiny_model, problem_file, tmp_path):
    done = mft("train", *tiny_overrides(tiny_model, problem_file), "deepspeed=zero3", override, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
