"""Fuse query, key and value again, under the names of `nn.MultiheadAttention`."""

from ckmigrate import Checkpoint

revision = "b35da9e952"
revises = "dc9df98ac6"
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.concat("encoder.blocks.{i}.attn.{q,k,v}.weight", "encoder.blocks.{i}.attn.in_proj_weight")
    ck.concat("encoder.blocks.{i}.attn.{q,k,v}.bias", "encoder.blocks.{i}.attn.in_proj_bias")
