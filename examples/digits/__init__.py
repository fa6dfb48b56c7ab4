"""A small classifier of handwritten digits, and the history of its architecture."""
