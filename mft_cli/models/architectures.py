"""The architectures that were tried, and what is reported about the others."""

from __future__ import annotations

# scripts/architectures.py finds them
WORKING = (
    "llama, mistral, mixtral, qwen2, qwen3, qwen2_moe, qwen3_moe, gemma, gemma2, gemma3, phi3, gpt2, gpt_neox, olmo2, "
    "olmo3, granite, starcoder2, smollm3, cohere, cohere2, glm4, stablelm, nemotron, falcon, opt, gpt_oss, mpt, gptj, "
    "codegen, gpt_neo, gpt_bigcode, persimmon, phi, xglm, biogpt, bloom, qwen3_next, qwen3_5, lfm2, mamba"
)


def unsupported(name: str, reason: str) -> str:
    """One sentence on an architecture that cannot be trained here."""
    return f"{name} cannot be trained here: {reason}. These work (docs/architectures.md): {WORKING}"
