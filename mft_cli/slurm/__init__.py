"""SLURM: where a task stands, submitting, requeueing."""
