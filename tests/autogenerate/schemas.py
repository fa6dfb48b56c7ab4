"""Snapshots in one line, and what a draft does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckmigrate.autogenerate.proposal import Draft
from ckmigrate.autogenerate.replay import Remainder, remainder, replay
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.ties import Ties

Shapes = Mapping[str, Sequence[int] | TensorSpec]


def snapshot(shapes: Shapes, ties: Ties = ()) -> Snapshot:
    """Float32 entries of these shapes."""
    specs = {
        name: shape if isinstance(shape, TensorSpec) else TensorSpec(DType.F32, tuple(shape))
        for name, shape in shapes.items()
    }
    return Snapshot(Schema(specs), ties, "default")


def linear(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def transformer(
    prefix: str = "", *, depth: int = 3, attn: str = "attn", blocks: str = "blocks"
) -> dict[str, tuple[int, ...]]:
    """Blocks of attention and a feed-forward network, a width of eight."""
    found: dict[str, tuple[int, ...]] = {}
    for index in range(depth):
        block = f"{prefix}{blocks}.{index}"
        for part in "qkv":
            found |= linear(f"{block}.{attn}.{part}", 8, 8)
        found |= linear(f"{block}.mlp.fc1", 16, 8) | linear(f"{block}.mlp.fc2", 8, 16)
        found |= {f"{block}.norm.weight": (8,), f"{block}.norm.bias": (8,)}
    return found


def calls(draft: Draft, *certainties: str) -> list[str]:
    return [p.call for p in draft.proposals if not certainties or p.certainty in certainties]


def left(draft: Draft, old: Snapshot, new: Snapshot) -> Remainder:
    """What accepting all of a draft leaves."""
    return remainder(replay(calls(draft), old), new)
