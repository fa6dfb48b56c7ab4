"""A plan as JSON.

{
  "direction": "up" | "down" | "none",
  "from": {"revision", "name", "release", "is_head", "evidence"},
  "to": {"revision", "name", "release", "is_head"},
  "migrations": [
    {"revision", "name", "direction", "digest",
     "operations": [{"operation", "arguments", "line", "steps"}]}
  ],
  "entries": [
    {"name", "dtype", "shape", "bytes", "kind", "work": "copy" | "gather" | "compute",
     "sources": [old names]}
  ],
  "dropped": [old names],
  "training": [
    {"path", "kind": "optimizer" | "copy", "summary", "details": [texts], "counts": {word: number}}
  ],
  "totals": {"entries": {kind: count}, "bytes": {"written", "copied", "filled", "gathered",
             "computed"}, "peak_memory"},
  "needs_torch": bool,
  "fast": {"possible": bool, "obstacles": [texts]},
  "checks": [claims],
  "compared_with": text or null,
  "notes": [texts]
}

A kind is one of `ckmigrate.report.plan_counts.KINDS`. Fields are only ever added.
"""

from __future__ import annotations

from ckmigrate.compile import TracedScript
from ckmigrate.expr import sources
from ckmigrate.migrate import Prepared
from ckmigrate.patch import obstacles
from ckmigrate.planning import Entry, Plan
from ckmigrate.report.json import entry_data, identity_data, revision_data
from ckmigrate.report.plan_counts import counts, dropped, kind_of
from ckmigrate.report.training import training_data

__all__ = ["plan_data"]


def plan_data(prepared: Prepared) -> dict[str, object]:
    """The fields of a plan, as the module says."""
    plan, reasons = prepared.plan, obstacles(prepared)
    return {
        "direction": prepared.direction,
        "from": identity_data(prepared.history, prepared.identity),
        "to": revision_data(prepared.history, prepared.to_revision),
        "migrations": [_migration(traced) for traced in plan.trace.scripts],
        "entries": [_entry(plan, entry) for entry in plan.entries],
        "dropped": list(dropped(plan)),
        "training": [training_data(node) for node in plan.carried.nodes],
        "totals": _totals(plan),
        "needs_torch": plan.needs_torch,
        "fast": {"possible": not reasons, "obstacles": list(reasons)},
        "checks": [check.claim for check in plan.checks],
        "compared_with": prepared.compared,
        "notes": list(prepared.notes),
    }


def _migration(traced: TracedScript) -> dict[str, object]:
    return {
        "revision": traced.script.id,
        "name": traced.script.path.stem,
        "direction": traced.direction,
        "digest": traced.digest,
        "operations": [
            {
                "operation": record.operation,
                "arguments": record.arguments,
                "line": record.line,
                "steps": len(record.steps),
            }
            for record in traced.records
        ],
    }


def _entry(plan: Plan, entry: Entry) -> dict[str, object]:
    return {
        **entry_data(entry.name, entry.spec),
        "kind": kind_of(plan, entry),
        "work": type(entry.lowered).__name__.lower(),
        "sources": list(sources(entry.expr)),
    }


def _totals(plan: Plan) -> dict[str, object]:
    totals = plan.totals
    return {
        "entries": counts(plan),
        "bytes": {
            "written": totals.written,
            "copied": totals.copied,
            "filled": totals.filled,
            "gathered": totals.gathered,
            "computed": totals.computed,
        },
        "peak_memory": plan.peak_memory,
    }
