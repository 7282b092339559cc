"""From completions to verdicts: one grader an answer type."""
