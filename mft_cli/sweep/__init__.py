"""Sweeps: many runs from one command, a ledger of them on disk, and the report on them.

ledger (what is on disk) -> jobs (one job in this process) -> local (several at a time) -> launchers (Hydra's side) ->
start (`mft train -m`); results, draw (the report) -> command (`mft sweep`). A launcher for a cluster needs the ledger and
`mft sweep run FOLDER NUMBER`, which runs one job of the ledger.
"""
