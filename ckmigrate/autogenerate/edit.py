"""A draft as a small text to edit, as `git rebase --interactive` shows its commits.

    keep 1  ck.rename("transformer.**", "encoder.**")
    todo 2  ck.resize("head.weight", (10, 64))

`keep N` writes the call, which may be changed in place; `keep N.M` writes an alternative; `todo N`,
or a line that is deleted, leaves it open. An alternative's line without its `#` is enough.
`parse_edited` of an unchanged text gives the choices that it was made of.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence

from ckmigrate.autogenerate.decide import Choice, can_run
from ckmigrate.autogenerate.proposal import Draft, Proposal
from ckmigrate.autogenerate.words import moved_text, one_line, spelled
from ckmigrate.errors import UsageError

__all__ = ["parse_edited", "render_edit"]

_LINE = re.compile(r"\s*(?:([a-z]+)\s+)?(\d+)(?:\.(\d+))?(?:\s+(.*?))?\s*", re.IGNORECASE)
_KEEP, _LEAVE = ("keep", "k", "pick", "p"), ("todo", "t", "drop", "d")
_HELP = """
What is to be written; the order stays the one of the table.

  keep N    write this call; you may change its text
  keep N.M  write the alternative N.M instead
  todo N    leave it open: a ck.todo() for you to replace; so does deleting the line

Lines that begin with # are ignored. Without any line nothing is written."""


def render_edit(choices: Sequence[Choice]) -> str:
    """The text to edit: a line for each choice, what could be meant instead, and how to say it."""
    blocks = ["\n".join(_block(number, choice)) for number, choice in enumerate(choices, 1)]
    notes = "\n".join(f"# {line}".rstrip() for line in _HELP.strip().splitlines())
    return "\n".join(blocks) + f"\n\n{notes}\n"


def parse_edited(text: str, draft: Draft) -> tuple[Choice, ...] | None:
    """The choices that an edited text makes; None where no line is left.

    UsageError CKM254, with the line: an unknown word or number, a number that is given twice, a
    call that is no call on `ck`.
    """
    chosen: dict[int, Proposal | None] = {}
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip() and not content.lstrip().startswith("#"):
            number, proposal = _read(content, line, draft)
            if number in chosen:
                raise _bad(line, f"proposal {number} stands in it twice")
            chosen[number] = proposal
    if not chosen:
        return None
    return tuple(Choice(p, chosen.get(number)) for number, p in enumerate(draft.proposals, 1))


def _block(number: int, choice: Choice) -> Iterator[str]:
    proposal, word = choice.proposal, "todo" if choice.chosen is None else "keep"
    if proposal.certainty != "certain":
        yield f"# {proposal.certainty}: {one_line(proposal.why)}"
        if not spelled(proposal):
            yield f"#   {moved_text(proposal.sources, proposal.targets, 3)}"
    yield f"{word} {number}  {one_line(proposal.call)}"
    for rank, other in enumerate(proposal.alternatives, 1):
        yield f"#    {number}.{rank}  {one_line(other.call)}  # {one_line(other.why)}"


def _read(content: str, line: int, draft: Draft) -> tuple[int, Proposal | None]:
    found = _LINE.fullmatch(content)
    word = (found[1] or "keep").lower() if found else ""
    if found is None or word not in (*_KEEP, *_LEAVE):
        raise _bad(line, f"{content.strip()[:60]!r} is neither `keep N` nor `todo N`")
    number = int(found[2])
    if not 1 <= number <= len(draft.proposals):
        raise _bad(line, f"there is no proposal {number}; they are 1 to {len(draft.proposals)}")
    if word in _LEAVE:
        return number, None
    return number, _kept(draft.proposals[number - 1], found[3], found[4] or "", line)


def _kept(proposal: Proposal, rank: str | None, text: str, line: int) -> Proposal:
    ways = (proposal, *proposal.alternatives)
    if rank is not None and not 1 <= int(rank) < len(ways):
        known = f"there are {len(ways) - 1}" if len(ways) > 1 else "there is none"
        raise _bad(line, f"no alternative has the number {rank}; {known}")
    chosen = ways[int(rank or 0)]
    if _is_of(text, ways, line):
        # The text beside `keep 3.1` may still be that of 3: the number says which one is meant.
        if not can_run(chosen):
            raise _bad(line, "there is no call to keep; write one, or choose an alternative")
        return chosen
    return _written(proposal, text, line)


def _is_of(text: str, ways: Sequence[Proposal], line: int) -> bool:
    """Whether the text was left as it is, but for blanks, quotes and comments."""
    if not text or any(text == one_line(way.call) for way in ways):
        return True
    given = _parsed(text, line)
    return not given or any(given == _parsed(way.call, line) for way in ways if way.call)


def _parsed(text: str, line: int) -> str:
    """What a text says, whatever its spaces, quotes and comments are; "" where it says nothing."""
    try:
        nodes = ast.parse(textwrap.dedent(text).strip()).body
    except SyntaxError as error:
        raise _bad(line, f"{text[:60]!r} is not Python: {error.msg}") from None
    return "\n".join(map(ast.unparse, nodes))


def _written(proposal: Proposal, text: str, line: int) -> Proposal:
    """What a person wrote in place of a call."""
    nodes = ast.parse(text).body
    methods = [_method(node) for node in nodes]
    if None in methods:
        raise _bad(line, f"{text[:60]!r} is not a call such as ck.rename(…)")
    parts = [ast.get_source_segment(text, node) or "" for node in nodes]
    call = "\n".join(parts)
    return Proposal(str(methods[0]), call, proposal.sources, proposal.targets, "certain", "")


def _method(node: ast.stmt) -> str | None:
    """`rename` of `ck.rename(…)`; None for anything else."""
    call = node.value if isinstance(node, ast.Expr) else None
    name = call.func if isinstance(call, ast.Call) else None
    if not isinstance(name, ast.Attribute) or not isinstance(name.value, ast.Name):
        return None
    return name.attr if name.value.id == "ck" else None


def _bad(line: int, why: str) -> UsageError:
    return UsageError(
        "CKM254",
        "the edited draft cannot be read",
        where=f"the draft, line {line}",
        why=why,
        fix="Edit it once more, or answer none; nothing was written.",
    )
