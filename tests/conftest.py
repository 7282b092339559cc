"""A tokenizer and a two-layer model made on the spot, and a cache of the tests' own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.tiny import problems

# Read when huggingface_hub is imported: set later, a name that is no folder is asked for again and again for a minute.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "Tom has 3 apples and buys 4 more. How many apples does he have?",
    "He has 3 + 4 = 7 apples.\nSo the answer is 7.\n#### 7",
    "system user assistant question answer total number each more left in all Below is an instruction",
    "First we add the numbers.\nThen we take 5 away.\nThat leaves 12 - 5 = 7.\n#### 7",
]


# Files whose tests start processes, train or compile: seconds to minutes each. scripts/test.sh --fast leaves them out.
SLOW = {
    "analysis", "critique", "distributed", "export", "scripts", "slurm", "eval/engines", "eval/grading/test_sandbox.py",
    "eval/test_run.py", "eval/test_generate.py", "eval/test_second_pass.py", "eval/test_structure.py", "methods/test_contract.py",
    "answers/test_values.py", "models/test_adapters.py", "plan/test_plan.py", "sweep/test_sweep.py", "train/test_train.py",
    "train/test_nvme.py", "train/test_fp16_deepspeed.py", "test_signals.py",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.path.relative_to(Path(__file__).parent)
        if SLOW & {file.as_posix(), *(folder.as_posix() for folder in file.parents)}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and a small byte-level tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def tokenizer(tiny_model: Path):
    from mft_cli.config.schema.inputs import ModelConfig
    from mft_cli.models.loading import load_tokenizer

    return load_tokenizer(str(tiny_model), ModelConfig(path=str(tiny_model)))


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in problems(40)))
    return file


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the user's cache."""
    if "MFT_TEST_CACHE" not in os.environ:
        os.environ["MFT_TEST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("MFT_CACHE_DIR", os.environ["MFT_TEST_CACHE"])
