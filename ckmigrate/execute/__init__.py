"""Carrying a plan out: copying, computing, committing."""
