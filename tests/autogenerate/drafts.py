"""Drafts made by hand, and the sides that they are between."""

from __future__ import annotations

from collections.abc import Mapping

from ckmigrate.autogenerate.proposal import Certainty, Draft, Proposal
from ckmigrate.autogenerate.settle import Side
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType, Schema, TensorSpec

__all__ = ["ALT", "DRAFT", "SIDE", "proposal", "side", "snapshot"]

Shapes = Mapping[str, tuple[int, ...]]

_LAYERS = {f"body.layers.{i}.qkv.weight": (12, 4) for i in range(3)}
_PARTS = {f"encoder.layers.{i}.{p}.weight": (4, 4) for i in range(3) for p in "qkv"}


def snapshot(shapes: Shapes, model: str = "default", *ties: tuple[str, ...]) -> Snapshot:
    schema = Schema({name: TensorSpec(DType.F32, shape) for name, shape in shapes.items()})
    return Snapshot(schema, ties, model)


def side(old: Shapes, new: Shapes, model: str = "default") -> Side:
    return Side(snapshot(old, model), snapshot(new, model))


def proposal(
    kind: str,
    call: str,
    certainty: Certainty = "certain",
    *alternatives: Proposal,
    sources: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    why: str = "names kept",
) -> Proposal:
    return Proposal(kind, call, sources, targets, certainty, why, alternatives)


ALT = proposal(
    "rename",
    'ck.rename("head.b", "fc.a")\nck.rename("head.a", "fc.b")',
    "guess",
    sources=("head.a", "head.b"),
    targets=("fc.b", "fc.a"),
    why="2 entries, crosswise",
)
DRAFT = Draft(
    (
        proposal(
            "rename",
            'ck.rename("body.**", "encoder.**")',
            sources=tuple(_LAYERS),
            targets=tuple(name.replace("body", "encoder") for name in _LAYERS),
            why="3 entries, all names kept but body → encoder",
        ),
        proposal(
            "split",
            'ck.split("encoder.layers.{i}.qkv.weight", "encoder.layers.{i}.{q,k,v}.weight", dim=0)',
            "guess",
            sources=tuple(name.replace("body", "encoder") for name in _LAYERS),
            targets=tuple(_PARTS),
            why="sizes add up along dim 0; the order is read off the name",
        ),
        proposal(
            "rename",
            'ck.rename("head.{p}", "fc.{p}")',
            "ambiguous",
            ALT,
            sources=("head.a", "head.b"),
            targets=("fc.a", "fc.b"),
            why="2 entries of equal shape, as others",
        ),
        proposal("init", 'ck.init("scale", shape=(3,), value=init.ones())', targets=("scale",)),
        proposal("drop", 'ck.drop("aux", reason="gone")', sources=("aux",), why="nothing like it"),
    )
)
SIDE = side(
    {**_LAYERS, "head.a": (2,), "head.b": (2,), "aux": (1,)},
    {**_PARTS, "fc.a": (2,), "fc.b": (2,), "scale": (3,)},
)
