"""Separate query, key and value; keep each block's temperature in the block."""

from ckmigrate import Checkpoint

revision = "c1ef6a5d27"
revises = "c50d8bc879"
api = 1


def upgrade(ck: Checkpoint) -> None:
    # Two query heads share a key and value head, so the parts are not equal.
    rows, dim = ck["encoder.blocks.0.attn.qkv.weight"].shape
    shared = (rows - dim) // 2
    ck.split(
        "encoder.blocks.{i}.attn.qkv.{p}",
        "encoder.blocks.{i}.attn.{q,k,v}.{p}",
        dim=0,
        sizes=(dim, shared, shared),
    )
    ck.unstack("encoder.temperature", "encoder.blocks.{i}.attn.temperature")
    ck.meta.rename("config.heads", "config.num_heads", optional=True)
