"""Pad the second convolution to 5x5 and give every stem the third."""

from ckmigrate import Checkpoint

revision = "677219f236"
revises = "801a7fbff4"
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.resize("stem.conv2.weight", lambda t: (*t.shape[:2], 5, 5), anchor="center")
    # Some checkpoints of 1.3 were trained with it; it is residual, so zeros change nothing.
    width = ck["stem.conv2.bias"].shape[0]
    ck.init("stem.conv3.weight", shape=(width, width, 3, 3), if_missing=True)
    ck.init("stem.conv3.bias", shape=(width,), if_missing=True)
