"""Reading a script without running it, and running it."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from ckmigrate.errors import HistoryError, MigrationError
from ckmigrate.revisions.script import load, read_script

HEAD = 'revision = "7c1e9a04f2"\nrevises = "d1339abdd1"\napi = 1\n'
UP = "def upgrade(ck):\n    pass\n"


def write(folder: Path, text: str | bytes, name: str = "0004_split_qkv.py") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return path


def refusal(path: Path) -> HistoryError:
    with pytest.raises(HistoryError) as caught:
        read_script(path)
    assert str(path) in (caught.value.where or "")
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def test_every_literal_and_function_is_read(tmp_path: Path) -> None:
    script = read_script(
        write(
            tmp_path,
            '''\
            """Split the fused projection.

            More text.
            """
            import math
            revision = "7c1e9a04f2"
            revises = ("d1339abdd1", "aaaaaaaaaa")
            release: str = "1.2"
            api = 1

            def upgrade(ck):
                ck.rename("a", "b")

            def downgrade(ck, *, strict=True):
                ck.rename("b", "a")

            def verify(*tensors):
                return True
            ''',
        )
    )
    assert script.id == "7c1e9a04f2"
    assert script.revises == script.parents == ("d1339abdd1", "aaaaaaaaaa")
    assert (script.release, script.message) == ("1.2", "Split the fused projection.")
    assert (script.has_downgrade, script.has_verify) == (True, True)
    assert (script.number, script.slug) == (4, "split_qkv")
    assert (script.irreversible, script.has_todo, script.foreign_imports) == (None, False, ())
    assert script.label == "7c1e9a04f2 (0004_split_qkv.py)"


def test_nothing_of_the_script_is_run(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + UP + "raise SystemExit('ran')\n")
    assert read_script(path).id == "7c1e9a04f2"


@pytest.mark.parametrize(
    ("name", "number", "slug", "message"),
    [
        ("0012_add_head.py", 12, "add_head", "add head"),
        ("0012.py", 12, None, ""),
        ("add_head.py", None, "add_head", "add head"),
        ("0012_2_heads.py", 12, "2_heads", "2 heads"),
        ("4x.py", None, "4x", "4x"),
    ],
)
def test_number_and_slug_come_from_the_file_name(
    tmp_path: Path, name: str, number: int | None, slug: str | None, message: str
) -> None:
    script = read_script(write(tmp_path, HEAD + UP, name))
    assert (script.number, script.slug, script.message) == (number, slug, message)


@pytest.mark.parametrize(
    "text",
    [
        (HEAD + UP).replace("\n", "\r\n").encode(),
        (HEAD + UP).replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + (HEAD + UP).encode(),
        b"\xef\xbb\xbf# caf\xc3\xa9\r\n" + (HEAD + UP).replace("\n", "\r\n").encode(),
        b"# -*- coding: latin-1 -*-\n# caf\xe9\n" + (HEAD + UP).encode(),
    ],
)
def test_newlines_byte_order_marks_and_declared_encodings_are_understood(
    tmp_path: Path, text: bytes
) -> None:
    script = read_script(write(tmp_path, text))
    assert script.id == "7c1e9a04f2"
    assert callable(load(script).upgrade)


@pytest.mark.parametrize(
    ("text", "code", "line", "words"),
    [
        (b"# caf\xe9\n" + HEAD.encode(), "CKM301", None, "encoding"),
        (b"# coding: klingon\n" + HEAD.encode(), "CKM301", None, "encoding"),
        (HEAD + "def upgrade(ck:\n", "CKM302", 4, "not valid Python"),
        (HEAD + UP + "return 1\n", "CKM302", 6, "not valid Python"),
        (HEAD + UP + "x = '\0'\n", "CKM302", None, "not valid Python"),
        (HEAD + UP + "x = " + "(" * 500 + ")" * 500, "CKM302", None, "not valid Python"),
        ("", "CKM303", None, "no 'revision'"),
        (HEAD.replace("revises", "revise") + UP, "CKM303", 2, "no 'revises'"),
        (HEAD.replace("api = 1", "") + UP, "CKM303", None, "no 'api'"),
        (HEAD + 'revision = "7c1e9a04f3"\n' + UP, "CKM304", 4, "bound twice"),
        (HEAD + UP + UP, "CKM304", 6, "bound twice"),
        (HEAD + UP + "del api\n", "CKM304", 6, "bound twice"),
        (HEAD + UP + "if True:\n    api = 1\n", "CKM304", 7, "bound twice"),
        (HEAD.replace("api = 1", "api = int('1')") + UP, "CKM304", 3, "not a literal"),
        (HEAD.replace("api = 1", "if True:\n    api = 1") + UP, "CKM304", 4, "not a literal"),
        (HEAD.replace("api = 1", "from math import e as api") + UP, "CKM304", 3, "not a literal"),
        (HEAD.replace("api = 1", "for api in (1,): pass") + UP, "CKM304", 3, "not a literal"),
        (HEAD.replace("7c1e", "{1}").replace('"{', 'f"{') + UP, "CKM304", 1, "not a literal"),
        (HEAD.replace("7c1e9a04f2", "7C1E9A04F2") + UP, "CKM305", 1, "'revision'"),
        (HEAD.replace("7c1e9a04f2", "7c1e9a0") + UP, "CKM305", 1, "'revision'"),
        (HEAD.replace('"7c1e9a04f2"', "7") + UP, "CKM305", 1, "'revision'"),
        (HEAD.replace('"7c1e9a04f2"', "0x" + "f" * 5000) + UP, "CKM305", 1, "'revision'"),
        (HEAD.replace('"d1339abdd1"', '("d1339abdd1",)') + UP, "CKM305", 2, "'revises'"),
        (HEAD.replace('"d1339abdd1"', '["d1339abdd1"]') + UP, "CKM305", 2, "'revises'"),
        (HEAD.replace('"d1339abdd1"', '""') + UP, "CKM305", 2, "'revises'"),
        (HEAD.replace("api = 1", "api = True") + UP, "CKM305", 3, "'api'"),
        (HEAD.replace("api = 1", "api = 0") + UP, "CKM305", 3, "'api'"),
        (HEAD + 'release = "one"\n' + UP, "CKM305", 4, "'release'"),
        (HEAD + "release = 1.2\n" + UP, "CKM305", 4, "'release'"),
        (HEAD + 'irreversible = " "\n' + UP, "CKM305", 4, "'irreversible'"),
        (HEAD.replace("api = 1", "api = 2"), "CKM306", 3, "api 2"),
        ("api = 7\n", "CKM306", 1, "api 7"),
        (HEAD, "CKM307", None, "no upgrade"),
        (HEAD + "def upgrade():\n    pass\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + "def upgrade(ck, model):\n    pass\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + "def upgrade(ck, *, model):\n    pass\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + "async def upgrade(ck):\n    pass\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + "def upgrade(ck):\n    yield\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + "upgrade = print\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + "from os import abort as upgrade\n", "CKM307", 4, "upgrade(ck)"),
        (HEAD + UP + "def verify(new):\n    pass\n", "CKM307", 6, "verify(old, new)"),
        (HEAD + UP + "class downgrade:\n    pass\n", "CKM307", 6, "downgrade(ck)"),
        (
            HEAD + UP + 'irreversible = "lost"\ndef downgrade(ck):\n    pass\n',
            "CKM308",
            6,
            "irreversible",
        ),
    ],
)
def test_a_script_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, code: str, line: int | None, words: str
) -> None:
    path = write(tmp_path, text)
    error = refusal(path)
    assert (error.code, words in error.what) == (code, True), error
    if line is not None:
        assert error.where == f"{path}, line {line}"


def test_a_misspelt_literal_is_pointed_at(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, HEAD.replace("revises", "revise") + UP))
    assert "'revise' is near" in (error.why or "")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "0001_gone.py").code == "CKM301"


def test_a_reserved_word_inside_a_function_is_the_functions_own(tmp_path: Path) -> None:
    text = HEAD + "def upgrade(ck):\n    api = 2\n    list(verify for verify in ck)\n"
    script = read_script(write(tmp_path, text + "    def inner():\n        yield api\n"))
    assert not script.has_verify


def test_todo_calls_and_foreign_imports_are_found_anywhere(tmp_path: Path) -> None:
    text = """\
        import os.path, torch.nn as nn, numpy
        from __future__ import annotations
        from ckmigrate import init
        from mypkg.models import build
        """
    body = "def upgrade(ck):\n    import other\n    from . import near\n    ck.todo('x')\n"
    lines = textwrap.dedent(text).splitlines()
    ordered = "\n".join([lines[1], lines[0], *lines[2:]]) + "\n"
    script = read_script(write(tmp_path, ordered + HEAD + body + "    # ck.todo('no')\n"))
    assert script.foreign_imports == (".", "mypkg", "other")
    assert script.todo_lines == (11,)
    assert script.has_todo


def test_a_long_chain_of_operators_is_no_problem(tmp_path: Path) -> None:
    text = HEAD + UP + "if True:\n    x = " + " + ".join(["1"] * 1500) + "\n"
    assert read_script(write(tmp_path, text)).id == "7c1e9a04f2"


def test_load_returns_the_functions_and_leaves_no_module_behind(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    body = "@dataclass\nclass Size:\n    n: ClassVar[int] = 3\n"
    text += "from typing import ClassVar\n" + HEAD + body
    text += (
        "def upgrade(ck):\n    return ck, Size.n\ndef verify(old, new):\n    return old == new\n"
    )
    loaded = load(read_script(write(tmp_path, text)))
    assert loaded.upgrade("ck") == ("ck", 3)
    assert loaded.verify is not None
    assert loaded.verify(1, 1)
    assert loaded.downgrade is None
    assert not [name for name in sys.modules if "7c1e9a04f2" in name]


def test_two_loads_share_nothing(tmp_path: Path) -> None:
    text = HEAD + "seen = []\ndef upgrade(ck):\n    seen.append(ck)\n    return seen\n"
    script = read_script(write(tmp_path, text))
    assert script.load().upgrade(1) == [1]
    assert script.load().upgrade(2) == [2]


def test_load_runs_what_was_read_even_when_the_file_changed(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "def upgrade(ck):\n    return 'read'\n")
    script = read_script(path)
    path.write_text("raise SystemExit")
    assert load(script).upgrade(None) == "read"


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("raise ValueError('bad size')\n", "bad size"),
        ("import sys\nsys.exit('leaving')\n", "leaving"),
        ("raise SystemExit\n", "SystemExit without a text"),
        ("import surely_not_installed\n", "surely_not_installed"),
        ("def fail():\n    int('x')\nfail()\n", "invalid literal"),
        ("upgrade.__class__\nglobals()['upgrade'] = None\n", "replaced the function"),
        ("(lambda: 1 / 0)()\n", "division"),
    ],
)
def test_a_script_that_fails_while_imported_is_a_migration_error(
    tmp_path: Path, tail: str, words: str
) -> None:
    path = write(tmp_path, HEAD + UP + tail)
    with pytest.raises(MigrationError) as caught:
        load(read_script(path))
    error = caught.value
    assert (error.code, words in (error.why or "")) == ("CKM510", True)
    assert str(path) in (error.where or "")
    assert not [name for name in sys.modules if "7c1e9a04f2" in name]


def test_the_line_that_raised_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + UP + "def fail():\n    int('x')\nfail()\n")
    with pytest.raises(MigrationError) as caught:
        load(read_script(path))
    assert caught.value.where == f"{path}, line 7"


def test_an_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    script = read_script(write(tmp_path, HEAD + UP + "raise KeyboardInterrupt\n"))
    with pytest.raises(KeyboardInterrupt):
        load(script)
