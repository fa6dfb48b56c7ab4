"""What somebody should know about a file before it is migrated, though it is no obstacle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ckmigrate.compile import Trace
from ckmigrate.expr import Source, View, sources, walk
from ckmigrate.fold import fold_names
from ckmigrate.formats.base import Stored
from ckmigrate.identify import Identity, Replay
from ckmigrate.revisions.graph import History
from ckmigrate.training.layouts import Layout

__all__ = ["remarks_on", "remarks_on_conditions", "remarks_on_losses", "remarks_on_order"]

_LONGEST = 200


def remarks_on(
    stored: Stored, identity: Identity, history: History, known: Mapping[str, Replay]
) -> tuple[str, ...]:
    """On a tag that somebody overrules, on scripts that were changed since they ran on the file,
    and on parts of the file that no result will have."""
    return (
        *_overruled(identity, history),
        *_edited(identity, history, known),
        *_left_behind(stored),
    )


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


def remarks_on_conditions(trace: Trace) -> Iterator[str]:
    """On names that a script asked for and did not find: a condition, or a slip of the pen."""
    for traced in trace.scripts:
        for name, line in traced.absent.items():
            place = f"{traced.script.path.name}, line {line}" if line else traced.script.path.name
            from ckmigrate.names import nearest

            near = nearest(name, traced.before.entries, 1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            yield f"{place} asks for '{name}', which is not in this checkpoint{hint}"


def remarks_on_losses(trace: Trace) -> Iterator[str]:
    """On values of the file that have no place in the result of a downgrade, and no equal in it:
    what a script added, trained meanwhile or not."""
    kept: dict[str, int] = {}
    for expr in trace.end.entries.values():
        seen = {id(node.base) for node in walk(expr) if isinstance(node, View)}
        for node in walk(expr):
            base = node.base if isinstance(node, View) else node
            if isinstance(base, Source) and id(node) not in seen:
                kept[base.name] = kept.get(base.name, 0) + node.spec.numel
    equal = {name for check in trace.checks for name in sources(check.right)}
    equal |= {name for check in trace.checks for name in sources(check.left)}
    own = {n: e.spec for n, e in trace.start.entries.items() if e == Source(n, e.spec)}
    gone = [name for name in own if name not in kept and name not in equal]
    cut = [name for name in kept if name in own and kept[name] < own[name].numel]
    if gone:
        yield f"values that the result has no place for: {_folded(gone)}"
    if cut:
        yield f"only a part is kept of: {_folded(cut)}"


def _folded(names: list[str]) -> str:
    lines = fold_names(names)
    more = f", … {len(lines) - 8} more" if len(lines) > 8 else ""
    return ", ".join(lines[:8]) + more


def _edited(identity: Identity, history: History, known: Mapping[str, Replay]) -> Iterator[str]:
    """Scripts whose operations are others now than when they ran on the file.

    Digests can be compared where a snapshot is the very schema that the file began with: a script
    may do other things for another size.
    """
    tag = identity.tag
    began = tag.origin_schema() if tag and tag.history else None
    if tag is None or began is None or tag.origin_revision is not None:
        return
    replay = next((replay for replay in known.values() if replay.base.schema == began), None)
    if replay is None:
        return
    from ckmigrate.digest import comparable_digest

    for applied in tag.history:
        if applied.revision in history.squashed or _is_squashed(history, applied.revision):
            continue  # two ways to one revision have two digests
        traced = replay.traced(applied.revision)
        if traced is None:
            continue
        now = comparable_digest(traced, replay.params, applied.digest)
        if now is not None and now != applied.digest:
            label = history.label(applied.revision)
            yield f"{label} was edited after it ran on this file: its operations are others now"


def _is_squashed(history: History, revision: str) -> bool:
    return revision in history and bool(history.script(revision).replaces)


def _left_behind(stored: Stored) -> Iterator[str]:
    others, unused = (stored.details.get(key) for key in ("other records", "unused storages"))
    if others:
        shown = others if len(others) <= _LONGEST else f"{others[:_LONGEST]}…"
        yield f"left behind: what the archive has beside the checkpoint ({shown})"
    if unused:
        yield f"left behind: storages that nothing in the checkpoint uses ({unused})"
