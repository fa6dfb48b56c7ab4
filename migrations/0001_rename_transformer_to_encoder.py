"""Call the transformer the encoder."""

from ckmigrate import Checkpoint

revision = "42ac254d33"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("transformer.**", "encoder.**")
