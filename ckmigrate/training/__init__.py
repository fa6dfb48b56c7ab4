"""Where weights and training state sit inside a checkpoint."""
