"""Scale the branches of each block, and end it with an adapter."""

from ckmigrate import Checkpoint, init

revision = "dc9df98ac6"
revises = "677219f236"
release = "1.4"
api = 1

RANK = 8


def upgrade(ck: Checkpoint) -> None:
    for n in (1, 2):
        ck.init(
            f"encoder.blocks.{{i}}.ls{n}.gamma",
            like=f"encoder.blocks.{{i}}.norm{n}.weight",
            value=init.ones(),
        )
    dim = ck["encoder.norm.weight"].shape[0]
    for match in ck.match("encoder.blocks.{i}.norm1.weight"):
        adapter = f"encoder.blocks.{match.captures['i']}.adapter"
        ck.init(f"{adapter}.down.weight", shape=(RANK, dim), value=init.kaiming_uniform(a=5**0.5))
        ck.init(f"{adapter}.up.weight", shape=(dim, RANK))
