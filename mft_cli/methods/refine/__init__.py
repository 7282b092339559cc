"""Chunk refinement: where chunks lie, the recurrent head that refines masked ones, its files, and decoding with it."""
