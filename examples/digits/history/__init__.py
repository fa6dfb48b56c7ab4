"""One self-contained file per old release: the architecture that its checkpoints load into."""
