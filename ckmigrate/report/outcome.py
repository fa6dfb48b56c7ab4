"""What was written, as a line and as data."""

from __future__ import annotations

import shlex

from ckmigrate.execute.commit import Committed
from ckmigrate.migrate import Outcome, Prepared
from ckmigrate.report.escape import printable
from ckmigrate.report.json import identity_data, revision_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.training import training_data, training_words
from ckmigrate.report.units import bytes_text, counted

__all__ = ["outcome_data", "outcome_text", "untouched_data", "untouched_text"]


def outcome_text(outcome: Outcome) -> str:
    """ "wrote new.pt: base → 32fb… (0016_…), 16 migrations, 70 entries, 247 KB; verified …"."""
    prepared, committed = outcome.prepared, outcome.committed
    scripts = len(prepared.plan.trace.scripts)
    undone = " undone" if prepared.direction == "down" else ""
    training = training_words(prepared.plan.carried.nodes)
    facts = [
        _way(prepared),
        *([counted(scripts, "migration") + undone] if scripts else []),
        counted(len(prepared.plan.entries), "entry", "entries"),
        *([training] if training else []),
        bytes_text(outcome.written),
    ]
    verb = "changed in place" if outcome.fast else "wrote"
    line = f"{verb} {printable(committed.path)}: {', '.join(facts)}; {_proof(prepared)}"
    if outcome.spare:
        line += f"\n  {bytes_text(outcome.spare)} of dropped tensors stay in it until it is copied"
    if outcome.fast:
        return line + _way_back(committed)
    if committed.backup is not None:
        line += f"\n  the old version is {printable(committed.backup)}"
    return line


def outcome_data(outcome: Outcome) -> dict[str, object]:
    """The fields of a file that was written."""
    prepared, committed = outcome.prepared, outcome.committed
    return {
        "written": True,
        "output": str(committed.path),
        "backup": None if committed.backup is None else str(committed.backup),
        "bytes": outcome.written,
        "fast": outcome.fast,
        "spare_bytes": outcome.spare,
        **_common(prepared),
        "verified_by": "strict load" if prepared.target else "reading it back",
    }


def untouched_data(prepared: Prepared) -> dict[str, object]:
    """The fields of a file that needed nothing."""
    return {"written": False, "output": None, "backup": None, "bytes": 0, **_common(prepared)}


def untouched_text(prepared: Prepared, *, end: str = "not touched") -> str:
    """ "old.pt: already at head, 7c1e9a04f2 (0001_…); not touched"."""
    history, revision = prepared.history, prepared.to_revision
    head = "head, " if (revision,) == history.heads or not len(history) else ""
    path = printable(prepared.opened.stored.path)
    return f"{path}: already at {head}{revision_text(history, revision)}; {end}"


def _way_back(committed: Committed) -> str:
    if committed.backup is None:
        return ""
    record = printable(committed.backup.name)
    path = printable(shlex.quote(str(committed.path)))
    return f"\n  `ckmigrate undo {path}` takes it back, by {record}"


def _common(prepared: Prepared) -> dict[str, object]:
    history = prepared.history
    return {
        "from": identity_data(history, prepared.identity),
        "to": revision_data(history, prepared.to_revision),
        "migrations": [traced.script.id for traced in prepared.plan.trace.scripts],
        "entries": len(prepared.plan.entries),
        "training": [training_data(node) for node in prepared.plan.carried.nodes],
        "compared_with": prepared.compared,
        "notes": list(prepared.notes),
    }


def _way(prepared: Prepared) -> str:
    to = _short(prepared, prepared.to_revision)
    if prepared.identity.revision == prepared.to_revision:
        return f"at {to}"
    return f"{_short(prepared, prepared.identity.revision)} → {to}"


def _short(prepared: Prepared, revision: str | None) -> str:
    if revision is None:
        return "base"
    return f"{revision} ({printable(prepared.history.script(revision).path.stem)})"


def _proof(prepared: Prepared) -> str:
    if prepared.target is not None:
        return f"verified by a strict load into {printable(prepared.target.factory)}"
    if prepared.compared is not None:
        return f"read back and compared with {printable(prepared.compared)}"
    return "read back as planned; compared with no model"
