"""Parameters whose new name everybody knows: what torch and others call one thing by two names.

Both names stand in the same module. Weight norm: `weight_g` and `weight_v` until torch 2.0,
`parametrizations.weight.original0` and `…1` since (torch.nn.utils.parametrizations). Norm layers
of TensorFlow and of old BERT files: `gamma` and `beta`. Pruning that is made permanent multiplies
`weight_orig` and `weight_mask` (torch.nn.utils.prune).
"""

from __future__ import annotations

from collections.abc import Sequence

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.rows import Reading, Row, propose_rows

__all__ = ["propose_masks", "propose_spelled"]

_SETS: tuple[dict[str, str], ...] = (
    {"gamma": "weight", "beta": "bias"},
    *(
        {
            f"{name}_g": f"parametrizations.{name}.original0",
            f"{name}_v": f"parametrizations.{name}.original1",
        }
        for name in ("weight", "bias")
    ),
)


def propose_spelled(board: Board) -> bool:
    """All of one vocabulary at once, in every module that has the whole of it."""
    return any(
        _propose(board, words)
        for known in _SETS
        for words in (known, {new: old for old, new in known.items()})
    )


def _propose(board: Board, words: dict[str, str]) -> bool:
    pairs: dict[str, str] = {}
    for old, new in words.items():
        for name, spec in board.vanished.items():
            module = name.removesuffix(f".{old}")
            if module != name and board.appeared.get(f"{module}.{new}") == spec:
                pairs[name] = f"{module}.{new}"
    modules = [{n.removesuffix(f".{old}") for n in pairs if n.endswith(f".{old}")} for old in words]
    both = set.intersection(*modules)
    whole = {f"{module}.{old}": f"{module}.{new}" for module in both for old, new in words.items()}
    ordered = {name: whole[name] for name in pairs if name in whole}
    names = ", ".join(f"{old} → {new}" for old, new in words.items())
    return board.rename(ordered, "certain", f"two names of one thing: {names}")


def propose_masks(board: Board) -> None:
    """A pruned parameter and its mask, become one."""
    rows = []
    for name, spec in board.vanished.items():
        stem = name.removesuffix("_orig")
        is_masked = stem != name and board.vanished.get(f"{stem}_mask") == spec
        if is_masked and board.appeared.get(stem) == spec:
            rows.append(Row((name, f"{stem}_mask"), (stem,)))

    def write(sources: tuple[str, ...], targets: tuple[str, ...], rows: Sequence[Row]) -> str:
        return (
            f"ck.compute(\n    [{', '.join(map(quoted, sources))}],\n    {quoted(targets[0])},\n"
            "    lambda weight, mask: weight * mask,\n"
            "    specs=lambda weight, mask: [(weight.dtype, weight.shape)],\n)"
        )

    if rows:
        reading = Reading("compute", write, "pruning made permanent: the mask is multiplied in")
        propose_rows(board, rows, reading, "guess")
