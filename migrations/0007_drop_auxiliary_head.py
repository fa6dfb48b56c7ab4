"""Drop the auxiliary head and the pixel scale, which is a constant of the code now."""

from ckmigrate import Checkpoint

revision = "805311312e"
revises = "b56b9652f6"
api = 1
irreversible = "the auxiliary head is gone"


def upgrade(ck: Checkpoint) -> None:
    ck.drop("aux_head.**", reason="the auxiliary loss no longer helps")
    ck.drop("stem.pixel_scale", reason="the model divides by 16 itself", expect=16.0)
