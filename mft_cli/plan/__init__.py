"""`mft plan`: memory, time and disk of a run, on paper. `run.plan` is the entry."""
