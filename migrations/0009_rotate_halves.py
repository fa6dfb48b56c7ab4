"""Rotate the halves of a head instead of neighbours; keep the frequencies once."""

from ckmigrate import Checkpoint

revision = "6560a7946f"
revises = "e3bb49bea3"
release = "1.3"
api = 1


def upgrade(ck: Checkpoint) -> None:
    copies = [match.name for match in ck.match("encoder.blocks.{i}.attn.rope.inv_freq")]
    ck.merge_equal(copies, "encoder.rope.inv_freq")
    pairs = ck["encoder.rope.inv_freq"].shape[0]
    # Every head's rows go from (pair, member) to (member, pair), so that the rotation finds them.
    ck.rearrange(
        "encoder.blocks.{i}.attn.{q,k}.weight",
        "(head pair two) dim -> (head two pair) dim",
        pair=pairs,
        two=2,
    )
    ck.rearrange(
        "encoder.blocks.{i}.attn.{q,k}.bias",
        "(head pair two) -> (head two pair)",
        pair=pairs,
        two=2,
    )
