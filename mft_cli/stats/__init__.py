"""Intervals, paired tests, hierarchies over seeds: numbers from numbers, with their sources."""
