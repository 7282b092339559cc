"""mft: masking in language-model fine-tuning, from configuration to a score."""

__version__ = "0.2.0"
