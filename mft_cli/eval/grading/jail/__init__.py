"""What runs inside the sandbox: the candidate's side and the examiner's side. Standard library only, relative imports only.

The folder is mounted alone, as /mft/jail, so that neither side sees the rest of the package.
"""
