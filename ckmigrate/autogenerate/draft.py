"""What turns one schema into another, as the calls of a migration script.

    given and proven renames → moved subtrees → modules → what changed in place → parts, stacks
    → ties → new, dropped

Each step looks at what the steps before it left, so a fused projection is found below the prefix
that was moved first. Every call is run on the symbolic checkpoint when it is proposed. What no step
explains stands in the draft as a `ck.todo`: a rename that was not understood never becomes a drop
and an init in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.displaced import propose_displaced
from ckmigrate.autogenerate.doubt import spread_doubt
from ckmigrate.autogenerate.fresh import propose_drops, propose_new
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.layers import propose_layers
from ckmigrate.autogenerate.left_over import propose_todos
from ckmigrate.autogenerate.parts import propose_concats, propose_splits
from ckmigrate.autogenerate.proposal import Draft, Hints
from ckmigrate.autogenerate.proven import propose_proven
from ckmigrate.autogenerate.renaming import (
    propose_given,
    propose_modules,
    propose_subtrees,
)
from ckmigrate.autogenerate.resized import propose_resized
from ckmigrate.autogenerate.shapes import propose_casts, propose_shapes
from ckmigrate.autogenerate.spelled import propose_masks
from ckmigrate.autogenerate.stacks import propose_merges, propose_stacks, propose_unstacks
from ckmigrate.autogenerate.ties import propose_second_names, propose_ties
from ckmigrate.snapshot import Snapshot

__all__ = ["draft"]


def draft(
    old: Snapshot,
    new: Snapshot,
    *,
    hints: Hints | None = None,
    initialisers: Mapping[str, str] = MappingProxyType({}),
    unsure: Mapping[str, str] = MappingProxyType({}),
) -> Draft:
    """The calls that make `new` of `old`; equal schemas give an empty draft.

    initialisers  name of a new entry → the text of its initialiser: "init.ones()"
    unsure        name of a new entry → why its initialiser is in doubt, or why it has none

    MigrationError where a given rename or a chosen call cannot be made.
    """
    known = hints or Hints()
    fresh = Fresh(initialisers, unsure)
    board = Board(old, new, known.choices)
    propose_given(board, known.renames)
    propose_proven(board, known.equal)
    propose_subtrees(board)
    propose_layers(board, fresh)
    propose_stacks(board)
    propose_unstacks(board)
    propose_merges(board)
    propose_masks(board)
    propose_splits(board, only_spelled=True)
    propose_concats(board, only_spelled=True)
    propose_modules(board)
    propose_second_names(board)
    propose_splits(board)
    propose_concats(board)
    propose_resized(board, fresh)
    propose_displaced(board)
    gone = set(board.vanished.values())
    propose_casts(board, fresh)
    propose_shapes(board, fresh)
    propose_layers(board, fresh)
    propose_drops(board)
    propose_new(board, fresh, gone)
    propose_ties(board)
    propose_todos(board, fresh)
    return Draft(tuple(spread_doubt(board.proposals, old.schema, new.schema)))
