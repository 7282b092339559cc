"""Evaluation: prompts to completions (generations.jsonl), completions to scores, scores to numbers with intervals."""
