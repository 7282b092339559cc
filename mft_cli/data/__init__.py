"""Rows from sources, prompts, tokenized examples, and packed batches."""
