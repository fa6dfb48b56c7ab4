"""What the user may write where a revision is wanted.

`head`, `base`, a full id, the beginning of an id (four digits or more), a file number (`4`,
`0004`), a slug, a file name, the beginning of either, a release (`1.2`), and a number of steps:
`+1` and `-2` from the current revision, `REV+1` and `REV-1` from any other. An exact match always
wins over a beginning, and both over a release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ckmigrate.errors import IdentifyError
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script, is_release

__all__ = ["resolve"]

_STEPS = re.compile(r"(?P<start>.*?)(?P<sign>[+-])(?P<count>[0-9]{1,9})", re.DOTALL)
_DIGITS = re.compile("[0-9]+")
_WORDS = ("head", "base")
_SHORTEST_PREFIX = 4
_LONGEST_RELEASE = 100


def resolve(history: History, text: str, *, current: str | None = None) -> str | None:
    """The revision id that a text means in this history; None is the base.

    `current` is where `+1` and `-1` start; None is the base. Raises IdentifyError: CKM401 (nothing
    fits), CKM402 (several fit), CKM403 (more steps than there are revisions), CKM404 (a rebase
    gave it another id); HistoryError CKM316
    for `head` and `heads` of a history that forks.
    """
    text = text.strip()
    if text in ("head", "heads"):
        return history.require_single_head()
    if text == "base":
        return None
    exact = _exact(history, text)
    if exact:
        return _only(exact, text)
    steps = _STEPS.fullmatch(text)
    if steps:
        start = resolve(history, steps["start"], current=current) if steps["start"] else current
        return _walk(history, start, text, count=int(steps["count"]), up=steps["sign"] == "+")
    fitting = _similar(history, text) or _released(history, text)
    return _only(fitting or _unknown(history, text), text)


def _exact(history: History, text: str) -> list[Script]:
    """Scripts with this id; or else with this slug or file name."""
    if text.lower() in history or text.lower() in history.pruned:
        return [history.script(text.lower())]
    if (now := history.rebased(text.lower())) is not None:
        raise IdentifyError(
            "CKM404",
            f"revision {text.lower()} was rebased: it is {now.label} now",
            where=str(now.path),
            why="it comes after other scripts than before, and another order is another revision",
            fix=f"Name {now.id} if that is what you mean.",
        )
    return [script for script in history.order if text in _names(script)]


def _similar(history: History, text: str) -> list[Script]:
    """Scripts with this number, or whose id, slug or file name begins so."""
    return [script for script in history.order if text and _is_similar(script, text)]


def _is_similar(script: Script, text: str) -> bool:
    is_number = _DIGITS.fullmatch(text) and (text.lstrip("0") or "0") == str(script.number)
    is_prefix = len(text) >= _SHORTEST_PREFIX and script.id.startswith(text.lower())
    return bool(is_number) or is_prefix or any(name.startswith(text) for name in _names(script))


def _released(history: History, text: str) -> list[Script]:
    """Scripts of this release, "1.2" or "v1.2.0"; none where the text is no version."""
    if len(text) > _LONGEST_RELEASE or not is_release(text):
        return []
    from packaging.version import Version

    wanted = Version(text)
    return [s for s in history.order if s.release is not None and Version(s.release) == wanted]


def _names(script: Script) -> tuple[str, ...]:
    slug = (script.slug,) if script.slug else ()
    return (*slug, script.path.stem, script.path.name)


def _only(scripts: list[Script], text: str) -> str:
    if len(scripts) == 1:
        return scripts[0].id
    raise IdentifyError(
        "CKM402",
        f"'{text}' fits {len(scripts)} revisions",
        details=_listed(scripts),
        why="a revision has to be named so that only one fits",
        fix=f"Write the id, such as {scripts[0].id}.",
    )


def _unknown(history: History, text: str) -> list[Script]:
    known = {name: script for script in history.order for name in (script.id, *_names(script))}
    from difflib import get_close_matches

    words = get_close_matches(text, _WORDS, 1)
    near = dict.fromkeys(known[name].id for name in get_close_matches(text, known, 6, 0.5))
    why = "no id, slug, number or file name begins so, and no release is called so"
    if text and len(text) < _SHORTEST_PREFIX:
        why += f", and an id needs its first {_SHORTEST_PREFIX} digits"
    raise IdentifyError(
        "CKM401",
        f"this history has no revision '{text}'",
        where=str(history.folder),
        details=(
            *(f"near: {word}" for word in words),
            *_listed([history.script(one) for one in list(near)[:3]], before="near: "),
        ),
        why=why if len(history) else "the history is empty",
        fix="`ckmigrate history` lists the revisions; head, base, +1 and -1 are understood too.",
    )


def _walk(history: History, start: str | None, text: str, *, count: int, up: bool) -> str | None:
    """From `start`, `count` single steps along the graph; every step must be unique."""
    here = start
    for done in range(count):
        if not up and here is None:
            raise _end(history, start, text, f"the base is {done} step(s) before it")
        ways = history.children[here] if up else history.parents(here or "")
        if up and not ways:
            raise _end(history, start, text, f"the head is {done} step(s) after it")
        if len(ways) > 1:
            raise _fork(history, here, text, ways)
        here = ways[0] if ways else None
    return here


def _end(history: History, start: str | None, text: str, why: str) -> IdentifyError:
    return IdentifyError(
        "CKM403",
        f"'{text}' goes past the end of the history from {history.label(start)}",
        where=str(history.folder),
        why=why,
        fix="Take fewer steps, or write head or base.",
    )


def _fork(history: History, here: str | None, text: str, ways: Iterable[str]) -> IdentifyError:
    return IdentifyError(
        "CKM402",
        f"'{text}' can go several ways from {history.label(here)}",
        where=str(history.folder),
        details=_listed([history.script(way) for way in ways]),
        why="the history forks there",
        fix="Name the revision instead of a number of steps.",
    )


def _listed(scripts: Iterable[Script], *, before: str = "") -> tuple[str, ...]:
    return tuple(f"{before}{script.label} {script.message}".rstrip() for script in scripts)
