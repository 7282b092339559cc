"""Attention, cross entropy and other modules that are swapped for exact and faster ones."""
