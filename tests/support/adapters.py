"""A LoRA adapter with random weights, as peft saves it."""

from pathlib import Path

import torch


def make_adapter(base: Path, folder: Path, rank: int = 4, new_tokens: int = 0) -> Path:
    """An adapter of all linear layers that changes the model's completions. The base is named by its path."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + new_tokens, mean_resizing=False)
    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM",
        trainable_token_indices=list(range(rows, rows + new_tokens)) or None,
    )  # fmt: skip
    model = get_peft_model(model, settings)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder
