"""Plain fine-tuning on response tokens: the baseline of all the papers."""

from mft_cli.methods.base import Method


class Sft(Method):
    """Exactly the defaults of the interface."""
