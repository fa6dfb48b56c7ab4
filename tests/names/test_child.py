"""Regular expressions run where they can be stopped."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.names import child, pair, select
from tests.names.asking import captured, code_of, renamed


def test_regular_expression_matches_the_full_name_and_captures_groups() -> None:
    names = ["conv_10a.w", "conv_9b.w", "xconv_9b.w", "conv_9b.weight"]
    expression = re.compile(r"conv_(?P<i>\d+)(?P<side>[ab])\.w")
    assert renamed(expression, "conv.{i-1}.{side}.w", names) == {
        "conv_10a.w": "conv.9.a.w",
        "conv_9b.w": "conv.8.b.w",
    }
    assert [found.name for found in select(expression, names)] == ["conv_9b.w", "conv_10a.w"]


def test_regular_expression_keeps_its_flags_and_odd_names() -> None:
    expression = re.compile(r"FC.(?P<x>.)", re.IGNORECASE | re.DOTALL)
    assert captured(expression, "fc.\n") == {"x": "\n"}
    assert captured(expression, "fc.\ud800") == {"x": "\ud800"}
    assert select(expression, []) == ()


def test_catastrophic_regular_expression_is_given_up_within_two_seconds() -> None:
    name = "a" * 38 + "b"
    start = time.perf_counter()
    with pytest.raises(MigrationError) as raised:
        select(re.compile(r"(a+)+"), ["ok", name])
    assert time.perf_counter() - start < 4  # half a second of processor time on a free machine
    assert code_of(raised) == "CKM502"
    assert name in raised.value.what


def test_catastrophic_regular_expression_does_not_hold_up_the_exit() -> None:
    script = (
        "import re\n"
        "from ckmigrate.errors import MigrationError\n"
        "from ckmigrate.names import select\n"
        "try:\n"
        "    select(re.compile('(a+)+'), ['a' * 38 + 'b'])\n"
        "except MigrationError as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == "CKM502"


def test_regular_expression_that_cannot_be_run_safely_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MigrationError) as raised:
        select(re.compile("a"), ["a"])
    assert code_of(raised) == "CKM502"


def test_regular_expression_stops_without_a_processor_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "_REGEX_SECONDS", 1000.0)
    monkeypatch.setattr(child, "_REGEX_WALL_SECONDS", 1.0)
    with pytest.raises(MigrationError) as raised:
        select(re.compile(r"(a+)+"), ["a" * 38 + "b"])
    assert code_of(raised) == "CKM502"


def test_regular_expression_cannot_be_a_target() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("a", re.compile("b"), ["a"])
    assert code_of(raised) == "CKM504"


def test_importing_names_starts_nothing_that_only_expressions_need() -> None:
    script = (
        "import sys, ckmigrate.names\n"
        "heavy = {'subprocess', 'signal', 'multiprocessing', 'difflib', 'torch', 'numpy'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == ""
