"""The command line: one file a verb, with its help. Imports nothing heavy."""
