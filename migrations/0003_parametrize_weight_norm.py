"""Move to the parametrized weight norm of torch 2."""

from ckmigrate import Checkpoint

revision = "c50d8bc879"
revises = "33b2329900"
release = "1.1"
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("stem.conv1.weight_g", "stem.conv1.parametrizations.weight.original0")
    ck.rename("stem.conv1.weight_v", "stem.conv1.parametrizations.weight.original1")
