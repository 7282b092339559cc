"""Plain fine-tuning on response tokens: the baseline of all the papers."""

from mft_cli.config.schema.methods import SftConfig
from mft_cli.methods.base import Method
from mft_cli.methods.collator import MethodCollator


class Sft(Method):
    """Exactly the defaults of the interface."""


class SftCollator(MethodCollator[SftConfig]):
    """The inputs and labels of method=sft for transformers' Trainer and TRL's SFTTrainer (docs/python.md)."""

    config_class = SftConfig
