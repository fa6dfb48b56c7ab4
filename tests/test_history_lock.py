"""history.lock as text: what is written is read back, and nothing else is read."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import HistoryError
from ckmigrate.revisions.lock import (
    Lock,
    LockLine,
    parse_conflicted,
    parse_lock,
    read_lock,
    render_lock,
)

HEX = "0123456789abcdef"
A = LockLine("42ac254d33", "2:9f8a6c01d2e47b10", "1:0c1d2e3f4a5b6c7d", "rename_it")
B = LockLine("7c1e9a04f2", "-", "-", "draft")
C = LockLine("d1339abdd1", "2:1111222233334444,2:5555666677778888", "1:0c1d2e3f4a5b6c7d,-", "c")

value = st.one_of(
    st.just("-"),
    st.builds("{}:{}".format, st.integers(1, 99), st.text(HEX, min_size=16, max_size=16)),
)
values = st.lists(value, min_size=1, max_size=3).map(",".join)
lines = st.builds(
    LockLine,
    st.text(HEX, min_size=8, max_size=32),
    values,
    values,
    st.text(string.ascii_letters + string.digits + "_-#<é", min_size=1, max_size=40),
)
locks = st.lists(lines, max_size=5, unique_by=lambda line: line.revision).map(
    lambda found: Lock(tuple(found))
)


def conflicted(base: Lock, ours: Lock, theirs: Lock, *, style: str = "merge") -> str:
    """What git leaves of two locks that both go on after the same base."""

    def added(lock: Lock) -> str:
        return render_lock(lock).removeprefix(render_lock(base))

    middle = "||||||| 1a2b3c4\n" if style == "diff3" else ""
    return (
        f"{render_lock(base)}<<<<<<< HEAD\n{added(ours)}{middle}=======\n{added(theirs)}"
        ">>>>>>> feature/x\n"
    )


@given(locks)
def test_what_is_written_is_read_back(lock: Lock) -> None:
    text = render_lock(lock)
    assert parse_lock(text, "x") == lock
    assert render_lock(parse_lock(text, "x")) == text
    assert parse_lock(text.replace("\n", "\r\n"), "x") == lock
    assert parse_conflicted(text, "x").ours == lock


@given(locks, lines, lines)
def test_both_sides_of_a_conflict_are_read(base: Lock, left: LockLine, right: LockLine) -> None:
    ids = {*base.revisions, left.revision, right.revision}
    if len(ids) < len(base.lines) + 2:
        return
    ours, theirs = (Lock((*base.lines, line)) for line in (left, right))
    for style in ("merge", "diff3"):
        text = conflicted(base, ours, theirs, style=style)
        found = parse_conflicted(text, "x")
        assert (found.ours, found.theirs) == (ours, theirs)
        assert found.base == (base if style == "diff3" else None)
        assert found.names == ("HEAD", "feature/x")
        with pytest.raises(HistoryError) as caught:
            parse_lock(text, "x")
        assert caught.value.code == "CKM322"
        assert "ckmigrate rebase" in str(caught.value)


def test_a_line_tells_its_models_apart() -> None:
    assert C.digests == ("2:1111222233334444", "2:5555666677778888")
    assert C.signatures == ("1:0c1d2e3f4a5b6c7d", "-")
    lock = Lock((A, B))
    assert (lock.line(B.revision), lock.line(C.revision)) == (B, None)


def test_comments_and_empty_lines_are_left_out() -> None:
    text = render_lock(Lock((A, B))).replace("7c1e", "# a note\n\n7c1e")
    assert parse_lock(text, "x") == Lock((A, B))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("format 1", "format 2", "CKM323"),
        ("# ckmigrate history lock, format 1", "# something else", "CKM321"),
        ("42ac254d33", "42AC254D33", "CKM321"),
        ("42ac254d33", "7c1e9a04f2", "CKM324"),
        ("2:9f8a6c01d2e47b10", "9f8a6c01d2e47b10", "CKM321"),
        ("  rename_it", "", "CKM321"),
        ("rename_it", "rename it", "CKM321"),
        ("rename_it", "rename\x1b[31m", "CKM321"),
    ],
)
def test_what_cannot_be_read_is_named(old: str, new: str, code: str) -> None:
    text = render_lock(Lock((A, B)))
    with pytest.raises(HistoryError) as caught:
        parse_lock(text.replace(old, new, 1), "here/history.lock")
    assert caught.value.code == code
    assert "here/history.lock" in str(caught.value.where)
    assert caught.value.fix


@pytest.mark.parametrize("cut", ["<<<<<<< HEAD\n", "=======\n", ">>>>>>> feature/x\n"])
def test_half_a_conflict_is_an_error(cut: str) -> None:
    text = conflicted(Lock((A,)), Lock((A, B)), Lock((A, C)))
    with pytest.raises(HistoryError):
        parse_conflicted(text.replace(cut, ""), "x")


def broken(seed: random.Random, whole: bytes) -> bytes:
    """The bytes with one to three of them changed, cut out, or repeated."""
    data = bytearray(whole)
    for _ in range(seed.randrange(1, 4)):
        place = seed.randrange(len(data))
        match seed.randrange(4):
            case 0:
                data[place] = seed.randrange(256)
            case 1:
                del data[place : place + seed.randrange(1, 40)]
            case 2:
                data[place:place] = data[place : place + seed.randrange(1, 60)]
            case _:
                data[place:place] = bytes(seed.choices(b"<>=|#,:- \n\r\t\0\xff\x85", k=2))
    return bytes(data)


def test_a_broken_file_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    """A few hundred mutations of a plain and of a conflicted lock."""
    seed = random.Random(7)
    path = tmp_path / "history.lock"
    whole = [
        render_lock(Lock((A, B, C))).encode(),
        conflicted(Lock((A,)), Lock((A, B)), Lock((A, C)), style="diff3").encode(),
    ]
    codes: list[str] = []
    for _ in range(600):
        data = broken(seed, seed.choice(whole))
        path.write_bytes(data)
        try:
            lock = read_lock(path)
            assert lock is not None
            assert parse_lock(render_lock(lock), "x") == lock
            parse_conflicted(data.decode("utf-8", "replace"), "x")
        except HistoryError as error:
            codes.append(error.code)
    assert set(codes) <= {"CKM320", "CKM321", "CKM322", "CKM323", "CKM324"}
    assert 100 < len(codes) < 600


def test_a_broken_conflict_is_read_or_refused_and_nothing_else() -> None:
    seed = random.Random(8)
    whole = conflicted(Lock((A,)), Lock((A, B)), Lock((A, C)), style="diff3").encode()
    codes: list[str] = []
    for _ in range(600):
        text = broken(seed, whole).decode("utf-8", "replace")
        try:
            parse_conflicted(text, "x")
        except HistoryError as error:
            codes.append(error.code)
    assert set(codes) <= {"CKM321", "CKM322", "CKM323", "CKM324"}
    assert 100 < len(codes) < 600


def test_no_file_is_no_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "history.lock") is None
    with pytest.raises(HistoryError, match="cannot be read"):
        read_lock(tmp_path)
