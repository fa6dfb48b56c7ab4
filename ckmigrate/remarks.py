"""What somebody should know about a file before it is migrated, though it is no obstacle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ckmigrate.formats.base import Stored
from ckmigrate.identify import Identity
from ckmigrate.revisions.graph import History
from ckmigrate.training.layouts import Layout

__all__ = ["remarks_on", "remarks_on_order"]

_LONGEST = 200


def remarks_on(stored: Stored, identity: Identity, history: History) -> tuple[str, ...]:
    """On a tag that somebody overrules, and on parts of the file that no result will have."""
    return (*_overruled(identity, history), *_left_behind(stored))


def remarks_on_order(layout: Layout, model: Iterable[str]) -> tuple[str, ...]:
    """On an optimizer that counts parameters, where the model has them in another order."""
    paths = [".".join(map(str, o.path)) for o in layout.training_state if o.kind == "optimizer"]
    names = [name for name in model if name in layout.entries]
    kept = frozenset(names)
    if not paths or names == [name for name in layout.entries if name in kept]:
        return ()
    listed = ", ".join(paths)
    why = f"{listed} may give the state of one parameter to another"
    return (f"the model has its parameters in another order than the file: {why}",)


def _overruled(identity: Identity, history: History) -> Iterator[str]:
    tag = identity.tag
    if identity.is_tagged or tag is None or tag.revision == identity.revision:
        return
    known = tag.revision is None or tag.revision in history
    says = history.label(tag.revision) if known else f"{tag.name} ({tag.revision})"
    yield f"the tag of the file says {says}, and is overruled: scripts may run a second time"


def _left_behind(stored: Stored) -> Iterator[str]:
    others, unused = (stored.details.get(key) for key in ("other records", "unused storages"))
    if others:
        shown = others if len(others) <= _LONGEST else f"{others[:_LONGEST]}…"
        yield f"left behind: what the archive has beside the checkpoint ({shown})"
    if unused:
        yield f"left behind: storages that nothing in the checkpoint uses ({unused})"
