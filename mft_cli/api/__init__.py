"""What the command line does, as functions: `import mft_cli` shows them (docs/python.md)."""
