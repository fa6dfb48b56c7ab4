"""The body of `upgrade(ck)` as a colleague would write it.

Calls of one kind stand together and groups are apart by a blank line. What was a guess says so in a
comment. What is open is a `ck.todo("…")` with the calls that it could be as comments, in the place
where the call has to stand. Reading a rendered body back gives the same operations.
"""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ckmigrate.autogenerate.decide import Choice, can_run, todo_text
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.settle import Settled
from ckmigrate.autogenerate.words import names_text
from ckmigrate.report.escape import printable, shortened

__all__ = ["format_call", "render_body"]

WIDTH = 96
"""Of the body, which is indented by four in the script."""

_MOST_LEFT = 40
_SHORT = 64
_GROUPS = {
    "rename": "names",
    "init": "new",
    "drop": "gone",
    "tie": "ties",
    "untie": "ties",
    "merge_equal": "ties",
}


def render_body(settled: Settled) -> str:
    """The text of `upgrade(ck)`, not indented; "pass" where there is nothing to do."""
    blocks = list(_blocks(settled.choices))
    if settled.left:
        blocks.append(_leftover(settled.left))
    return "\n\n".join(blocks) or "pass"


def format_call(call: str, width: int = WIDTH) -> str:
    """The statements of a call within `width` columns, as a formatter would break them."""
    source = textwrap.dedent(call).strip()
    return "\n".join(_statement(node, source, width) for node in ast.parse(source).body)


def _blocks(choices: Sequence[Choice]) -> Iterator[str]:
    """Neighbours of one group in one block; an open choice with alternatives is its own."""
    lines: list[str] = []
    group: object = None
    for choice in choices:
        mine = _group(choice)
        if lines and mine != group:
            yield "\n".join(lines)
            lines = []
        lines += _lines(choice)
        group = mine
    if lines:
        yield "\n".join(lines)


def _group(choice: Choice) -> object:
    if choice.chosen is not None:
        return _GROUPS.get(choice.chosen.kind, "values")
    return choice if todo_text(choice.proposal) is None else "open"


def _lines(choice: Choice) -> Iterator[str]:
    chosen = choice.chosen
    if chosen is None:
        yield from _open(choice)
        return
    if choice.proposal.certainty != "certain" and chosen.why:
        is_guess = choice.proposal.certainty == "guess"
        word = "a guess that was accepted" if is_guess else "one of several readings"
        yield from _comment(f"{word}: {chosen.why}")
    yield format_call(chosen.call)


def _open(choice: Choice) -> Iterator[str]:
    """A todo, before it why, and after it every call that it could be."""
    proposal, text = choice.proposal, todo_text(choice.proposal)
    why = choice.obstacle or ("" if text is not None else proposal.why)
    if why:
        yield from _comment(why)
    yield _todo(f"{proposal.kind}: {_moved(proposal)}" if text is None else text)
    ways = [way for way in (proposal, *proposal.alternatives) if can_run(way)]
    for number, way in enumerate(ways):
        if number:
            yield from _comment(f"or: {way.why}")
        yield textwrap.indent(format_call(way.call, WIDTH - 2), "# ")


def _todo(text: str) -> str:
    room = WIDTH - len('ck.todo("")')
    for width in range(room, 0, -8):
        quoted = json.dumps(shortened(text, width), ensure_ascii=False)
        if len(quoted) <= WIDTH - len("ck.todo()"):
            break
    return f"ck.todo({quoted})"


def _moved(proposal: Proposal) -> str:
    for most in (2, 1):
        one, other = names_text(proposal.sources, most), names_text(proposal.targets, most)
        if len(one) + len(other) < _SHORT:
            break
    return f"{one} → {other}" if one and other else one or other or "?"


def _leftover(left: Sequence[str]) -> str:
    lines = [_todo("the model has differences that nothing above explains")]
    for text in left[:_MOST_LEFT]:
        lines += _comment(text)
    if len(left) > _MOST_LEFT:
        lines += _comment(f"… {len(left) - _MOST_LEFT} more")
    return "\n".join(lines)


def _comment(text: str) -> Iterable[str]:
    """Comment lines; names of strangers cannot end a comment, because every line is escaped."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _statement(node: ast.stmt, source: str, width: int) -> str:
    text = ast.get_source_segment(source, node) or ""
    lines = text.split("\n")
    whole = len(lines) == 1 and len(text) <= width
    if whole or not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return text
    call = node.value
    head = ast.get_source_segment(source, call.func)
    values: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    arguments = [ast.get_source_segment(source, value) or "" for value in values]
    if any("\n" in argument for argument in arguments):
        return text
    joined = ", ".join(arguments)
    if len(head or "") + len(joined) + 2 <= width:
        return f"{head}({joined})"
    inner = joined if len(joined) + 4 <= width else ",\n    ".join(arguments) + ","
    return f"{head}(\n    {inner}\n)"
