"""Widen the neck's hidden layer to 40; nothing reads the new units yet."""

from ckmigrate import Checkpoint, init

revision = "f7c6fc93d3"
revises = "6560a7946f"
api = 1

HIDDEN = 40


def upgrade(ck: Checkpoint) -> None:
    old, dim = ck["neck.fc1.weight"].shape
    # The new rows are random, so that they can learn, and the columns that read them are zero.
    ck.init("neck.new.weight", shape=(HIDDEN - old, dim), value=init.kaiming_uniform())
    ck.concat(["neck.fc1.weight", "neck.new.weight"], "neck.fc1.weight")
    ck.resize("neck.fc1.bias", (HIDDEN,))
    ck.resize("neck.fc2.weight", (dim, HIDDEN))
