"""Escaping, units, errors, folded lines: what is printed, piece by piece."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import MigrationError, UsageError
from ckmigrate.report.errors import error_data, error_text
from ckmigrate.report.escape import printable, printable_text, shortened
from ckmigrate.report.schema import ellipsis_list, schema_lines, ties_lines
from ckmigrate.report.units import bytes_text, counted, parse_size
from ckmigrate.spec import DType, TensorSpec


@given(st.text())
def test_printable_text_has_no_control_or_invisible_character(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn"}


@given(st.text())
def test_printable_is_idempotent_and_keeps_what_is_visible(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    assert text == printable(text) or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("encoder.{0…3}.weight", "encoder.{0…3}.weight"),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202eevil", "\\u202eevil"),
        ("\U000e0041", "\\U000e0041"),
        ("\udc80", "\\udc80"),
        ("größe", "größe"),
    ],
)
def test_printable_shows_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_text_keeps_line_breaks() -> None:
    assert printable_text("a\n\x07b") == "a\n\\x07b"


@given(st.text(min_size=1), st.integers(3, 40))
def test_shortened_fits(text: str, width: int) -> None:
    shown = shortened(text, width)
    assert len(shown) <= width
    assert shown == printable(text) or "…" in shown


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (195_432, "195 KB"),
        (999_600, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_bytes_in_three_digits(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("2GiB", 2 << 30),
        ("1.5 GB", 1_500_000_000),
        ("512m", 512_000_000),
        ("1k", 1000),
    ],
)
def test_parse_size_reads_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e9", "GB", "1 2", "٣", "1.", "NaN"])
def test_parse_size_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.code == "CKM231"


def test_counted_agrees_in_number() -> None:
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(2, "entry", "entries") == "2 entries"
    assert counted(0, "migration") == "0 migrations"


def test_an_error_has_every_field_and_indents_long_ones() -> None:
    error = MigrationError(
        "CKM512",
        "it failed\x1b",
        where="0004_x.py, line 3",
        why="first\nsecond",
        fix="do this",
        details=("one", "two"),
    )
    assert error_text(error) == (
        "error[CKM512]: it failed\\x1b\n"
        "  at: 0004_x.py, line 3\n"
        "  - one\n"
        "  - two\n"
        "  why: first\n"
        "       second\n"
        "  fix: do this"
    )
    assert error_data(error)["details"] == ["one", "two"]


def test_schema_lines_fold_and_align() -> None:
    spec, other = TensorSpec(DType.F32, (64, 64)), TensorSpec(DType.I64, ())
    schema = {"h.0.w": spec, "h.1.w": spec, "steps": other}
    assert schema_lines(schema) == ["h.{0,1}.w  [64,64]  float32  ×2", "steps      []       int64"]
    assert len(schema_lines(schema, folded=False)) == 3
    assert ties_lines([("a.0.w", "b")]) == ["a.0.w = b"]


def test_a_long_list_says_how_much_is_left_out() -> None:
    assert ellipsis_list(["a", "b", "c"], 2) == ["a", "b", "… 1 more"]
    assert ellipsis_list(["a", "b"], 2) == ["a", "b"]
