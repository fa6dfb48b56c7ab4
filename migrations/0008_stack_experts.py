"""Stack the experts and keep their weights as [expert, input, output]."""

from ckmigrate import Checkpoint

revision = "e3bb49bea3"
revises = "805311312e"
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.stack(
        "encoder.blocks.{i}.moe.experts.{e:int}.{fc}.{p}", "encoder.blocks.{i}.moe.experts.{fc}.{p}"
    )
    ck.transpose("encoder.blocks.{i}.moe.experts.{fc}.weight", 1, 2)
