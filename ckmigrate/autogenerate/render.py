"""The body of `upgrade(ck)` as a colleague would write it.

Calls of one kind stand together and groups are apart by a blank line. What was a guess says so in a
comment. What is open is a `ck.todo("…")` with the calls that it could be as comments, in the place
where the call has to stand. Reading a rendered body back gives the same operations.
"""

from __future__ import annotations

import ast
import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ckmigrate.autogenerate.decide import Choice, can_run, todo_text
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.settle import Settled
from ckmigrate.autogenerate.words import moved_text
from ckmigrate.report.escape import printable, shortened

__all__ = ["count_todos", "format_call", "offered_calls", "render_body"]

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
    blocks = ["\n".join(_block(choices)) for choices in _grouped(settled.choices)]
    if settled.left:
        blocks.append(_leftover(settled.left))
    return "\n\n".join(blocks) or "pass"


def count_todos(settled: Settled) -> int:
    """How many todos the body holds."""
    groups = [choices for choices in _grouped(settled.choices) if choices[0].chosen is None]
    bare = [choices for choices in groups if todo_text(choices[0].proposal) is not None]
    return len(groups) - len(bare) + sum(map(len, bare)) + bool(settled.left)


def offered_calls(settled: Settled) -> str:
    """The calls that stand in the body as comments; what they use must be there to use."""
    ways = [way for c in settled.open for way in (c.proposal, *c.proposal.alternatives)]
    return "\n".join(format_call(way.call) for way in ways if can_run(way))


def format_call(call: str, width: int = WIDTH) -> str:
    """The statements of a call within `width` columns, as a formatter would break them."""
    source = textwrap.dedent(call).strip()
    return "\n".join(_statement(node, source, width) for node in ast.parse(source).body)


def _grouped(choices: Sequence[Choice]) -> list[tuple[Choice, ...]]:
    """Neighbours that stand in one block."""
    return [tuple(group) for _, group in itertools.groupby(choices, _group)]


def _group(choice: Choice) -> object:
    """Calls that do alike; open ones of one kind for one reason, which share a todo."""
    proposal = choice.proposal
    if choice.chosen is not None:
        return _GROUPS.get(choice.chosen.kind, "values")
    if todo_text(proposal) is not None:
        return "open"
    return choice if proposal.alternatives else (proposal.kind, proposal.why, choice.obstacle)


def _block(choices: Sequence[Choice]) -> Iterator[str]:
    texts = [todo_text(choice.proposal) for choice in choices]
    if choices[0].chosen is not None:
        yield from _written(choices)
    elif texts[0] is not None:
        yield from (_todo(text or "?") for text in texts)
    else:
        yield from _open(choices)


def _written(choices: Sequence[Choice]) -> Iterator[str]:
    """Calls, each after what made it a guess; the same reason is given once."""
    last = ""
    for choice in choices:
        reason = _reason(choice)
        if reason and reason != last:
            yield from _comment(reason)
        last = reason
        if choice.chosen is not None:
            yield format_call(choice.chosen.call)


def _reason(choice: Choice) -> str:
    certainty, why = choice.proposal.certainty, choice.chosen.why if choice.chosen else ""
    word = "a guess that was accepted" if certainty == "guess" else "one of several readings"
    return f"{word}: {why}" if why and certainty != "certain" else ""


def _open(choices: Sequence[Choice]) -> Iterator[str]:
    """A todo, before it why, and after it the calls that it could be."""
    first = choices[0].proposal
    yield from _comment(choices[0].obstacle or first.why)
    yield _todo(f"{first.kind}: {_moved([choice.proposal for choice in choices])}")
    for choice in choices:
        yield from _commented(choice.proposal)
        for other in choice.proposal.alternatives:
            yield from _comment(f"or: {other.why}")
            yield from _commented(other)


def _commented(proposal: Proposal) -> Iterator[str]:
    if can_run(proposal):
        yield textwrap.indent(format_call(proposal.call, WIDTH - 2), "# ")


def _todo(text: str) -> str:
    room = WIDTH - len('ck.todo("")')
    for width in range(room, 0, -8):
        quoted = json.dumps(shortened(text, width), ensure_ascii=False)
        if len(quoted) <= WIDTH - len("ck.todo()"):
            break
    return f"ck.todo({quoted})"


def _moved(proposals: Sequence[Proposal]) -> str:
    sources = [name for proposal in proposals for name in proposal.sources]
    targets = [name for proposal in proposals for name in proposal.targets]
    whole = moved_text(sources, targets, 2)
    return (whole if len(whole) < _SHORT else moved_text(sources, targets, 1)) or "?"


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
