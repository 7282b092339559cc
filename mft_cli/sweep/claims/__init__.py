"""Claims of papers: a design that is written down before it runs, a sweep underneath, a verdict by a rule."""
