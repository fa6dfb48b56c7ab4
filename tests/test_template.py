"""A new script: its text, id and file name."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckmigrate.errors import UsageError
from ckmigrate.revisions.graph import build_history
from ckmigrate.revisions.script import Script, first_line, load, read_script
from ckmigrate.revisions.template import new_revision_id, next_file_name, render

IDS = st.text("0123456789abcdef", min_size=8, max_size=32)
REVISES = st.none() | IDS | st.lists(IDS, min_size=2, max_size=4).map(tuple)
RELEASES = st.none() | st.sampled_from(["1", "1.2", "v2.0rc1", " 1!3.0.post1+local "])
MESSAGES = st.text(min_size=1) | st.text("\"'\\\n\r\t\x00 a{}\u2028\x85", min_size=1)


def reread(text: str) -> Script:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0001_x.py"
        path.write_bytes(text.encode())
        return read_script(path)


@settings(deadline=None)
@given(MESSAGES.filter(first_line), IDS, REVISES, RELEASES)
@example('"', "0123456789", None, None)
@example('a"""b', "0123456789", None, None)
@example("ends in \\", "0123456789", None, None)
@example('ends in a quote"', "0123456789", None, None)
@example('\\"""', "0123456789", None, None)
@example("two\n\nparts", "0123456789", None, None)
@example("lone surrogate \udc80", "0123456789", None, None)
def test_reading_a_rendered_script_gives_what_went_in(
    message: str, revision: str, revises: str | tuple[str, ...] | None, release: str | None
) -> None:
    script = reread(render(message, revision=revision, revises=revises, release=release))
    assert (script.id, script.revises, script.release) == (revision, revises, release)
    assert script.message == first_line(message)
    assert script.has_todo
    assert (script.has_downgrade, script.has_verify) == (False, False)


@settings(deadline=None)
@given(MESSAGES.filter(first_line))
def test_every_line_of_the_message_is_kept(message: str) -> None:
    tree = ast.parse(render(message, revision="0123456789", revises=None))
    text = ast.get_docstring(tree, clean=False) or ""
    assert [line.strip() for line in text.strip().splitlines()] == [
        line.strip() for line in message.strip().splitlines()
    ]


def test_an_empty_script_refuses_to_run() -> None:
    text = render("Add a head.", revision="7c1e9a04f2", revises="d1339abdd1", release="1.2")
    lines = text.splitlines()
    assert lines[:10] == [
        '"""Add a head."""',
        "",
        'revision = "7c1e9a04f2"',
        'revises = "d1339abdd1"',
        'release = "1.2"',
        "api = 1",
        "",
        "",
        "def upgrade(ck):",
        '    ck.todo("describe what changed")',
    ]
    assert all(line.startswith("    # ck.") for line in lines[10:])
    assert text.endswith(")\n")


@pytest.mark.parametrize("body", ["", " \n\t\n"])
def test_a_blank_body_is_no_silent_migration(body: str) -> None:
    assert reread(render("x", revision="7c1e9a04f2", revises=None, body=body)).has_todo


def test_a_body_is_indented_and_its_public_names_are_imported() -> None:
    body = 'if "a" in ck:\n    ck.init("b", like="a", value=init.ones())\nreturn concat\n'
    text = render("x", revision="7c1e9a04f2", revises=("aaaaaaaa", "bbbbbbbb"), body=body)
    assert "from ckmigrate import concat, init\n\nrevision" in text
    assert 'revises = ("aaaaaaaa", "bbbbbbbb")\n' in text
    assert text.endswith("def upgrade(ck):\n" + "".join(f"    {x}\n" for x in body.splitlines()))
    assert not reread(text).has_todo


def test_a_body_that_imports_for_itself_is_left_alone() -> None:
    body = "from ckmigrate import init\ninit.ones()\n"
    text = render("x", revision="7c1e9a04f2", revises=None, body=body)
    assert text.count("import") == 1


def test_names_that_calls_in_comments_use_are_imported_too() -> None:
    body = 'ck.todo("b")\n# ck.init("b", shape=(1,), value=init.ones())\n'
    offered = 'ck.init("b", shape=(1,), value=init.ones())'
    text = render("x", revision="7c1e9a04f2", revises=None, body=body, offered=offered)
    assert "from ckmigrate import init\n\nrevision" in text


def test_a_rendered_script_loads() -> None:
    body = "return ck"
    script = reread(render("x", revision="7c1e9a04f2", revises=None, body=body))
    assert load(script).upgrade(3) == 3


@pytest.mark.parametrize("message", ["", "  ", "\n\n"])
def test_a_message_is_needed(message: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(message, revision="7c1e9a04f2", revises=None)
    assert caught.value.code == "CKM209"


def test_a_release_is_a_version_number() -> None:
    with pytest.raises(UsageError) as caught:
        render("x", revision="7c1e9a04f2", revises=None, release="newest")
    assert caught.value.code == "CKM209"


def test_ids_are_ten_hexadecimal_digits_and_never_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["0123456789", "12e4567890", "00000e0000", "12a4e67890"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(drawn))
    assert new_revision_id() == "12a4e67890"


def test_ids_differ() -> None:
    ids = {new_revision_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 10 and set(one) <= set("0123456789abcdef") for one in ids)


@pytest.mark.parametrize(
    ("message", "file"),
    [
        ("Split the fused projection.", "0008_split_the_fused_projection.py"),
        ("Café: größe → 2×", "0008_cafe_große_2.py".replace("ß", "")),
        ("添加", "0008_revision.py"),
        ("../../etc/passwd", "0008_etc_passwd.py"),
        ("a" * 60, f"0008_{'a' * 40}.py"),
        (f"{'a' * 30} {'b' * 9} c", f"0008_{'a' * 30}_{'b' * 9}.py"),
        (f"{'a' * 30} {'b' * 10} c", f"0008_{'a' * 30}.py"),
        ("first\nsecond", "0008_first.py"),
    ],
)
def test_a_file_name_is_the_next_number_and_plain_words(message: str, file: str) -> None:
    folder = Path("migrations")
    first = Script(folder / "0007_a.py", "aaaaaaaaaa", number=7)
    unnumbered = Script(folder / "b.py", "bbbbbbbbbb", "aaaaaaaaaa")
    assert next_file_name(build_history((first, unnumbered), folder=folder), message) == file


def test_the_first_file_has_number_one() -> None:
    assert next_file_name(build_history((), folder=Path("m")), "Start") == "0001_start.py"
