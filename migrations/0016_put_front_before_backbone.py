"""Put layers that prepare the image in front; everything older becomes the backbone."""

from ckmigrate import Checkpoint, init

revision = "32fb46c319"
revises = "e88c522fda"
release = "2.0"
api = 1

SIZE = 8


def upgrade(ck: Checkpoint) -> None:
    ck.rename("**", "backbone.**")
    ck.init("front.resize.matrix", shape=(SIZE, SIZE), value=init.eye())
    ck.init("front.conv.weight", shape=(1, 1, 3, 3))
    ck.init("front.conv.bias", shape=(1,))
    ck.init("front.linear.weight", shape=(SIZE, SIZE), value=init.eye())
    ck.init("front.linear.bias", shape=(SIZE,))
