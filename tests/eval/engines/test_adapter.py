"""LoRA adapters beside their base: the merged model's completions, digests of both, one sentence for what is broken."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.eval import evaluate
from mft_cli.eval.engines.hf import load_model
from mft_cli.eval.engines.vllm import lora_settings
from mft_cli.models.folder import open_model
from tests.support.adapters import make_adapter
from tests.support.sums import lines, on_model, sums
from tests.support.tiny import problems


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory) -> Path:
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


def completions(model: Path, out: Path, data: Path) -> tuple[list[str], dict]:
    config = on_model(model, sums(data, max_new_tokens=12))
    metrics = evaluate.evaluate(config, out)["sums"]
    return [line["completion"] for line in lines(out / "sums/generations.jsonl")], metrics


def test_unmerged_is_merged_and_not_the_base(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in problems(6)))
    merged = shutil.copytree(tiny_model, tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(merged)
    beside, metrics = completions(adapter, tmp_path / "a", data)
    together, expected = completions(merged, tmp_path / "b", data)
    plain, _ = completions(tiny_model, tmp_path / "c", data)
    assert beside == together
    assert beside != plain
    assert metrics["gold_logprob"]["mean"] == pytest.approx(expected["gold_logprob"]["mean"], abs=1e-5)
    assert "not merged" in metrics["engine"]["adapter"]


def test_the_digest_covers_adapter_and_base(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    def opened(folder: Path):
        return open_model(ModelConfig(path=str(folder)))

    def on_base(folder: Path, base: str) -> Path:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        shutil.copytree(adapter, folder)
        (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))
        return folder

    found = opened(adapter)
    assert (found.path, found.adapter, found.tokenizer) == (tiny_model, adapter, tiny_model)
    moved = shutil.copytree(tiny_model, tmp_path / "elsewhere/base")
    same = opened(on_base(tmp_path / "same", str(moved)))
    assert (same.weights_digest, same.tokenizer_digest) == (found.weights_digest, found.tokenizer_digest)
    shutil.copytree(tiny_model, tmp_path / "beside/base")
    assert opened(on_base(tmp_path / "beside/adapter", "../base")).weights_digest == found.weights_digest
    said = on_base(tmp_path / "said", "/moved/away")
    (said / "mft.json").write_text(json.dumps({"adapter_of": {"path": str(tiny_model), "revision": None}}))
    assert opened(said).weights_digest == found.weights_digest
    other = make_adapter(tiny_model, tmp_path / "other", rank=2)
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    digests = {found.weights_digest, opened(other).weights_digest, opened(tmp_path / "same").weights_digest}
    assert len(digests) == 3
    assert opened(tiny_model).weights_digest not in digests


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_model_name_or_path": "/nowhere/at_all"}, "its base model"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
    ],
)
def test_broken_adapters_are_one_sentence(adapter: Path, tmp_path: Path, change: dict, says: str) -> None:
    folder = shutil.copytree(adapter, tmp_path / "broken")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(UserError, match=says) as error:
        open_model(ModelConfig(path=str(folder)))
    assert "\n" not in str(error.value)


def test_half_an_adapter(adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter, tmp_path / "half")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="cut off or damaged"):
        open_model(ModelConfig(path=str(folder)))


def test_rows_of_new_tokens(tiny_model: Path, tmp_path: Path) -> None:
    folder = make_adapter(tiny_model, tmp_path / "new", new_tokens=2)
    model = load_model(tiny_model, "float32", "cpu", trust=False, adapter=folder)
    rows = load_model(tiny_model, "float32", "cpu", trust=False).get_input_embeddings().weight.shape[0]
    assert model(torch.tensor([[1, rows, rows + 1]])).logits.shape[-1] == rows + 2
    with pytest.raises(UserError, match="rows of new tokens"):
        lora_settings(str(folder))
    assert lora_settings(str(make_adapter(tiny_model, tmp_path / "old", rank=5)))["max_lora_rank"] == 8


def test_an_adapter_of_another_model_is_refused(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = LlamaConfig.from_pretrained(tiny_model, hidden_size=16)
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit its base model"):
        load_model(tmp_path, "float32", "cpu", trust=False, adapter=adapter)
