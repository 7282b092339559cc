"""Architecture numbers of the model presets whose hub folders need a network, and some a licence, to be read.

Source: each model's public config.json on the Hugging Face hub. tests/plan/test_plan.py holds the parameter counts that these
numbers give against the counts that the model pages state.
"""

from __future__ import annotations

from typing import Any


def numbers(
    kind: str, vocabulary: int, width: int, inner: int, layers: int, heads: int, kv_heads: int, tied: bool = False
) -> dict[str, Any]:
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
    }  # fmt: skip


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": numbers("llama", 32000, 4096, 11008, 32, 32, 32),
    "meta-llama/Llama-2-13b-hf": numbers("llama", 32000, 5120, 13824, 40, 40, 40),
    "meta-llama/Llama-2-70b-hf": numbers("llama", 32000, 8192, 28672, 80, 64, 8),
    "meta-llama/Llama-3.1-8B": numbers("llama", 128256, 4096, 14336, 32, 32, 8),
    "mistralai/Mistral-7B-v0.1": numbers("mistral", 32000, 4096, 14336, 32, 32, 8),
    "Qwen/Qwen2.5-0.5B": numbers("qwen2", 151936, 896, 4864, 24, 14, 2, tied=True),
    "Qwen/Qwen2.5-1.5B": numbers("qwen2", 151936, 1536, 8960, 28, 12, 2, tied=True),
    "Qwen/Qwen2.5-7B": numbers("qwen2", 152064, 3584, 18944, 28, 28, 4),
    "Qwen/Qwen2.5-Math-1.5B": numbers("qwen2", 151936, 1536, 8960, 28, 12, 2, tied=True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": numbers("qwen2", 151936, 1536, 8960, 28, 12, 2),
    "agentica-org/DeepScaleR-1.5B-Preview": numbers("qwen2", 151936, 1536, 8960, 28, 12, 2),
    "HuggingFaceTB/SmolLM2-135M-Instruct": numbers("llama", 49152, 576, 1536, 30, 9, 3, tied=True),
}
