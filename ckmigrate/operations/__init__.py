"""The operations of a migration script: one file, one effect.

Each module has a function that resolves patterns against the names and specs of the checkpoint into
steps, and the kernel that those steps apply.
"""
