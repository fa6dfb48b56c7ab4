"""Share the head with an early exit and calibrate its logits."""

from ckmigrate import Checkpoint, init

revision = "e88c522fda"
revises = "b35da9e952"
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("final_conv.1.{p}", "head.{p}")
    ck.tie("head.{p}", "early_exit.{p}")
    classes = ck["head.bias"].shape[0]
    ck.init("calibration.weight", shape=(classes, classes), value=init.eye())
    ck.init("calibration.bias", shape=(classes,))
