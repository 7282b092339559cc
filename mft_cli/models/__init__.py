"""Loading models and tokenizers, their vocabulary, adapters, folders and devices."""
