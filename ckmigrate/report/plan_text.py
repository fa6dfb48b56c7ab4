"""A plan for a person: 80 columns, no tensor per line."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from ckmigrate.migrate import Prepared
from ckmigrate.patch import obstacles
from ckmigrate.planning import Plan
from ckmigrate.report.escape import printable, shortened
from ckmigrate.report.plan_counts import counts
from ckmigrate.report.plan_lines import Change, changes
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.training import training_lines
from ckmigrate.report.units import bytes_text, counted

__all__ = ["change_lines", "plan_text"]

_OPERATION = 12
_ARROW = "→ "


def plan_text(prepared: Prepared, *, width: int = 80, full: bool = False) -> str:
    """Where it comes from and goes to, every operation, the totals and the remarks.

    full  one line for every group of tensors that an operation treats alike, and no shortening
    """
    lines = [*_heading(prepared)]
    for traced in prepared.plan.trace.scripts:
        back = "undo " if traced.direction == "down" else ""
        lines += ["", f"  {back}{printable(traced.script.path.stem)}  {traced.script.id}"]
        done = changes(traced, full=full)
        lines += [line for change in done for line in change_lines(change, width, full=full)]
        lines += [] if done else ["    (no operations)"]
    return "\n".join([*lines, "", *_totals(prepared, width, full=full)])


def _heading(prepared: Prepared) -> Iterator[str]:
    history, identity = prepared.history, prepared.identity
    yield printable(prepared.opened.stored.path)
    yield f"  from  {revision_text(history, identity.revision)} — by {printable(identity.evidence)}"
    yield f"  to    {revision_text(history, prepared.to_revision)}"
    count = len(prepared.plan.trace.scripts)
    if count == 0:
        yield "  nothing to migrate: the checkpoint is there already"
    if not prepared.identity.is_tagged:
        yield "  it has no tag; the result gets one"


def change_lines(change: Change, width: int, *, full: bool) -> Iterator[str]:
    """What an operation did, on one line where it fits; otherwise broken between its parts."""
    margin = " " * (4 + _OPERATION)
    head = f"    {change.operation:<{_OPERATION - 1}} "
    line = head
    for part in _parts(change):
        shown = part if full else shortened(part, width - len(margin))
        if line not in (head, margin) and len(line) + 1 + len(shown) > width:
            yield line
            line = margin
        line += ("" if line in (head, margin) else " ") + shown
    yield line.rstrip()


def _parts(change: Change) -> Iterator[str]:
    """What may stand on a line of its own: each operand, each result, the detail."""
    before, after = printable(change.before), printable(change.after)
    yield from _operands(before)
    yield from _operands((_ARROW if before else "") + after) if after else ()
    detail = printable(change.detail).removeprefix(f"{change.operation} ")
    if detail:
        yield f"({detail})"


def _operands(text: str) -> Iterator[str]:
    first, *others = text.split(" + ")
    yield first
    yield from (f"+ {other}" for other in others)


def _totals(prepared: Prepared, width: int, *, full: bool) -> Iterator[str]:
    plan = prepared.plan
    numbers = {kind: count for kind, count in counts(plan).items() if count}
    listed = ", ".join(f"{count} {kind}" for kind, count in numbers.items())
    scripts = len(plan.trace.scripts)
    yield f"  migrations  {scripts}" + ("" if scripts else ", nothing to do")
    yield f"  entries     {len(plan.entries)}: {listed}" if listed else "  entries     0"
    yield from training_lines(plan.carried.nodes, width, full=full)
    yield f"  bytes       {_bytes(plan)}"
    yield f"  memory      {_memory(plan)}"
    torch = "needed: an operation computes new numbers" if plan.needs_torch else "not needed"
    yield f"  torch       {torch}" + (" (the strict load needs it)" if _loads(prepared) else "")
    if plan.checks:
        claims = counted(len(plan.checks), "claim")
        yield f"  checks      {claims} about values, before anything is written"
    yield from _broken("  fast        ", _fast(prepared), width)
    compared = prepared.compared
    yield f"  compared    {printable(compared) if compared else 'with nothing: no schema is known'}"
    for note in prepared.notes:
        yield f"  note        {printable(note)}"


def _broken(head: str, text: str, width: int) -> Iterator[str]:
    """A sentence on as many lines as it needs: a name is never cut."""
    room = max(1, width - len(head))
    lines = wrap(text, room, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield (" " * len(head) if number else head) + line


def _fast(prepared: Prepared) -> str:
    reasons = obstacles(prepared)
    if not reasons:
        return "yes: --in-place --fast moves no tensor"
    more = f" (and {counted(len(reasons) - 1, 'other reason')})" if len(reasons) > 1 else ""
    return f"no: {printable(reasons[0])}{more}"


def _loads(prepared: Prepared) -> bool:
    return prepared.target is not None and not prepared.plan.needs_torch


def _bytes(plan: Plan) -> str:
    totals = plan.totals
    parts = {
        "copied": totals.copied,
        "filled": totals.filled,
        "gathered": totals.gathered,
        "computed": totals.computed,
    }
    listed = ", ".join(f"{bytes_text(size)} {kind}" for kind, size in parts.items() if size)
    return f"{bytes_text(totals.written)}: {listed}" if listed else "none"


def _memory(plan: Plan) -> str:
    if not plan.peak_memory:
        return "no tensor is held in memory"
    return f"{bytes_text(plan.peak_memory)} at once, for the largest step"
