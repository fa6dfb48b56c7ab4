"""Literals are exchanged in the bytes of a script; everything else stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.errors import HistoryError
from ckmigrate.revisions.rewrite import with_literals
from ckmigrate.revisions.script import parse_script

PATH = Path("migrations/0004_x.py")
NEW = {"revision": "bb" * 5, "revises": "cc" * 5, "formerly": {"aa" * 5: "00" * 5}}
PLAIN = '''"""Move."""
revision = "aaaaaaaaaa"  # ours
revises = "0000000000"
api = 1


def upgrade(ck):
    ck.rename("ä", "revises = 1")
'''
MANY_LINES = """revision: str = ("aaaaa"
    "aaaaa")
revises = (
    # of the fork
    '0000000000'
)
api = 1
def upgrade(ck): pass
"""
FORMERLY = PLAIN.replace("api", 'formerly = {"dddddddddd": None}\napi')


def changed(text: str, encoding: str = "utf-8") -> str:
    data = with_literals(text.encode(encoding), PATH, NEW)
    script = parse_script(data, PATH)
    assert (script.id, script.revises) == (NEW["revision"], NEW["revises"])
    assert script.formerly == (("aa" * 5, "00" * 5),)
    return data.decode(encoding)


def test_only_the_literals_change_and_new_ones_come_below_revises() -> None:
    wanted = PLAIN.replace("a" * 10, "b" * 10).replace('"0000000000"\n', '"cccccccccc"\n' + LINE)
    assert changed(PLAIN) == wanted


LINE = 'formerly = {"aaaaaaaaaa": "0000000000"}\n'


@pytest.mark.parametrize("text", [PLAIN, MANY_LINES])
def test_line_ends_stay(text: str) -> None:
    assert changed(text.replace("\n", "\r\n")) == changed(text).replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("head", "encoding"), [("# coding: latin-1\n", "latin-1"), ("", "utf-8-sig"), ("\f\n", "utf-8")]
)
def test_encodings_stay(head: str, encoding: str) -> None:
    assert changed(f"{head}{PLAIN}", encoding) == head + changed(PLAIN)


def test_values_of_several_lines_keep_what_is_around_them() -> None:
    text = changed(MANY_LINES)
    assert 'revision: str = ("bbbbbbbbbb")\n' in text
    assert '(\n    # of the fork\n    "cccccccccc"\n)\nformerly' in text


def test_formerly_is_exchanged_where_it_is() -> None:
    assert changed(FORMERLY) == changed(PLAIN)


def test_many_former_ids_are_one_line_each() -> None:
    former = {f"{number:010x}": None for number in range(6)}
    text = with_literals(PLAIN.encode(), PATH, {"formerly": former}).decode()
    assert '\n    "0000000005": None,\n}\napi = 1\n' in text
    assert parse_script(text.encode(), PATH).formerly == tuple(former.items())


def test_a_file_that_ends_without_a_line_end() -> None:
    text = 'def upgrade(ck): pass\napi = 1\nrevision = "aaaaaaaaaa"\nrevises = None'
    assert changed(text).endswith(f'revises = "cccccccccc"\n{LINE.replace("{}", "")}')


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace('revises = "0000000000"', 'revises = parent = "0000000000"; x = (\n1)'),
        PLAIN.replace('revision = "aaaaaaaaaa"', 'revision = irreversible = "aaaaaaaaaa"'),
    ],
)
def test_what_cannot_be_followed_is_refused(text: str) -> None:
    with pytest.raises(HistoryError) as caught:
        with_literals(text.encode(), PATH, NEW)
    assert caught.value.code in ("CKM331", "CKM302")
    assert caught.value.fix
