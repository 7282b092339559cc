"""mft: masking in language-model fine-tuning, from configuration to a score."""

__version__ = "0.1.0"
