"""Insert a layer into the neck; it starts as the identity."""

from ckmigrate import Checkpoint, init

revision = "801a7fbff4"
revises = "f7c6fc93d3"
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("neck.fc2.{p}", "neck.fc3.{p}")
    width = ck["neck.fc1.bias"].shape[0]
    ck.init("neck.fc2.weight", shape=(width, width), value=init.eye())
    ck.init("neck.fc2.bias", shape=(width,))
