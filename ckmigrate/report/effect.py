"""What one revision does to the schemas of a project's models, as text and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ckmigrate.compile import TracedScript, obstacles
from ckmigrate.errors import CkmigrateError
from ckmigrate.identify import Replay
from ckmigrate.report.escape import printable
from ckmigrate.report.plan_lines import changes
from ckmigrate.report.plan_text import change_lines
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script

__all__ = ["Effect", "effect_data", "effect_lines", "effects", "way_back"]


@dataclass(frozen=True, slots=True)
class Effect:
    """A revision on the snapshot of one model; `traced` is None where `missing` says why."""

    model: str
    traced: TracedScript | None
    missing: str | None = None


def effects(history: History, script: Script, known: Mapping[str, Replay]) -> tuple[Effect, ...]:
    """The revision on every snapshot."""
    return tuple(_effect(history, script, name, replay) for name, replay in known.items())


def effect_lines(found: tuple[Effect, ...], *, width: int, full: bool) -> list[str]:
    """A block for each model; models on which the same happens share one."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for effect in found:
        lines = tuple(_lines(effect, width, full=full))
        blocks.setdefault(lines, []).append(f"'{printable(effect.model)}'")
    return [
        line
        for lines, models in blocks.items()
        for line in (f"on snapshot {', '.join(models)}: {lines[0]}", *lines[1:])
    ]


def effect_data(effect: Effect) -> dict[str, object]:
    """The same for JSON; without a replay, only why there is none."""
    traced = effect.traced
    if traced is None:
        return {"model": effect.model, "operations": None, "missing": effect.missing}
    return {
        "model": effect.model,
        "entries_before": len(traced.before.entries),
        "entries_after": len(traced.after.entries),
        "operations": [
            {
                "operation": record.operation,
                "arguments": record.arguments,
                "line": record.line,
                "steps": len(record.steps),
            }
            for record in traced.records
        ],
        "changes": [
            {
                "operation": change.operation,
                "before": change.before,
                "after": change.after,
                "detail": change.detail,
                "steps": change.count,
            }
            for change in changes(traced, full=True)
        ],
        "checks": [check.claim for check in traced.checks],
        "missing": None,
    }


def way_back(script: Script, found: tuple[Effect, ...]) -> tuple[bool | None, tuple[str, ...]]:
    """Whether the revision can be undone, and how or why not; None where nothing can tell."""
    if script.has_downgrade:
        return True, ("downgrade(ck)",)
    if script.irreversible is not None:
        return False, (f"declared irreversible: {script.irreversible}",)
    traced = [effect.traced for effect in found if effect.traced is not None]
    if not traced:
        return None, ("not known: its operations could not be replayed",)
    reasons = dict.fromkeys(reason for each in traced for reason in _reasons(script, each))
    if reasons:
        return False, tuple(reasons)
    edits = any(record.edit for each in traced for record in each.records)
    rest = ", with the old metadata from the tag of an upgraded file" if edits else ""
    return True, (f"derived from its operations{rest}",)


def _reasons(script: Script, traced: TracedScript) -> list[str]:
    # Old metadata is known of a real file only, and its tag remembers it.
    records = tuple(record for record in traced.records if record.edit is None)
    known = {script.id: replace(traced, records=records)}
    return obstacles(script, script.load(), known)


def _effect(history: History, script: Script, model: str, replay: Replay) -> Effect:
    traced = replay.traced(script.id)
    if traced is not None:
        return Effect(model, traced)
    error = replay.failures.get(script.id)
    if error is not None:
        return Effect(model, None, _told(error))
    before = [rev for rev in replay.failures if rev in history.ancestors(script.id)]
    why = f"{history.label(before[0])} comes before it" if before else "a script before it"
    return Effect(model, None, f"{why}, and cannot be replayed")


def _told(error: CkmigrateError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what


def _lines(effect: Effect, width: int, *, full: bool) -> Iterator[str]:
    """The first one goes behind the name of the snapshot."""
    traced = effect.traced
    if traced is None:
        yield f"not known: {printable(effect.missing)}"
        return
    before, after = len(traced.before.entries), len(traced.after.entries)
    yield f"{before} → {counted(after, 'entry', 'entries')}"
    done = changes(traced, full=full)
    for change in done:
        *above, last = change_lines(change, width - 6, full=full)
        yield from above
        yield f"{last}  ×{change.count}" if change.count > 1 else last
    if not done:
        yield "    (no operations)"
    for check in traced.checks[:8]:
        yield f"    checks      {printable(check.claim)}"
    if len(traced.checks) > 8:
        yield f"    checks      … {len(traced.checks) - 8} more"
