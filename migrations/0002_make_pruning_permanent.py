"""Multiply the pruning masks into the weights that they prune."""

from operator import mul

from ckmigrate import Checkpoint

revision = "33b2329900"
revises = "42ac254d33"
api = 1
irreversible = "the values of the pruned weights are gone"


def upgrade(ck: Checkpoint) -> None:
    ck.compute(
        ["encoder.blocks.{i}.attn.proj.weight_orig", "encoder.blocks.{i}.attn.proj.weight_mask"],
        ["encoder.blocks.{i}.attn.proj.weight"],
        mul,
        # Declared, so that planning does not need torch.
        specs=lambda weight, mask: [(weight.dtype, weight.shape)],
        # The pruned weights had no gradient since they were pruned; all others had the same one.
        moments=lambda name, weight, mask: weight,
    )
