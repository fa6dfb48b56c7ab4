"""Drafting a migration from two schemas: what became of every entry, how sure that is, and the
calls that say so."""
