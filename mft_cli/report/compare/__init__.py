"""Runs against runs: pairs, seeds, flips, domains."""
