"""What generates: vLLM, transformers, endpoints, replicas, the refining decoder."""
