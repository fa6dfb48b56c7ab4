"""Widen the neck's hidden layer to 40; nothing reads the new units yet."""

from ckmigrate import Checkpoint, concat, init

revision = "f7c6fc93d3"
revises = "6560a7946f"
api = 1

HIDDEN = 40


def upgrade(ck: Checkpoint) -> None:
    new = HIDDEN - ck["neck.fc1.bias"].shape[0]
    ck.init(
        "neck.new.weight", shape=(new, ck["neck.fc1.weight"].shape[1]), value=init.kaiming_uniform()
    )
    ck["neck.fc1.weight"] = concat([ck.take("neck.fc1.weight"), ck.take("neck.new.weight")], dim=0)
    ck.resize("neck.fc1.bias", (HIDDEN,))
    ck.resize("neck.fc2.weight", lambda t: (t.shape[0], HIDDEN))
