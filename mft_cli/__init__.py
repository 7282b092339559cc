"""mft: masking in language-model fine-tuning, from configuration to a score. The names of docs/python.md, each imported
when it is asked for; `__init__.pyi` types them."""

from importlib import import_module

__version__ = "0.2.0"

# name -> the module that holds it; "" for a room that is itself public
_PUBLIC = {
    "load_config": "mft_cli.api.configuration",
    "train": "",  # the room, which can be called (mft_cli/train/__init__.py)
    "evaluate": "mft_cli.api.verbs",
    "score": "mft_cli.api.verbs",
    "scores": "mft_cli.api.verbs",
    "compare": "mft_cli.api.verbs",
    "answers": "",
    "methods": "",
    "load_examples": "mft_cli.api.examples",
    "TrainingOrder": "mft_cli.data.ordered",
    "ValidationOrder": "mft_cli.data.ordered",
    "MaskedThoughtCollator": "mft_cli.methods.masked_thought",
    "MaskedCritiqueCollator": "mft_cli.methods.masked_critique",
    "SftCollator": "mft_cli.methods.sft",
    "MaskFinetuneCallback": "mft_cli.methods.mask_finetune",
    "Draw": "mft_cli.rng",
    "EvalRunConfig": "mft_cli.config.schema.runs",
    "TrainConfig": "mft_cli.config.schema.runs",
    "Stopped": "mft_cli.errors",
    "UserError": "mft_cli.errors",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mft_cli' has no attribute {name!r}; public are {', '.join(__all__)}")
    if not _PUBLIC[name]:
        return import_module(f"mft_cli.{name}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
