"""The table of verbs, their help, and the progress bar."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import click
import pytest

from ckmigrate.cli.app import VERBS, app
from tests.cli_project import ROOT, Toy, command, slowed


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_description_and_an_example(verb: str) -> None:
    found = app.get_command(click.Context(app), verb)
    assert found is not None
    assert found.name == verb
    assert found.help is not None
    assert f"Example:  ckmigrate {verb}" in found.help
    assert all(p.help for p in found.params if isinstance(p, click.Option))
    options = [option for parameter in found.params for option in parameter.opts]
    assert len(options) == len(set(options))


def test_every_verb_is_a_file_of_its_own() -> None:
    files = {path.stem for path in (ROOT / "ckmigrate" / "cli").glob("*.py")}
    assert set(VERBS) <= files


def test_help_lists_verbs_and_exit_codes(toy: Toy) -> None:
    ran = toy.run("--help")
    assert (ran.code, ran.err) == (0, "")
    for verb, summary in VERBS.items():
        assert verb in ran.out
        assert summary[:40] in ran.out
    for number in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "130"):
        assert f"\n    {number}" in ran.out


def test_help_is_also_a_word(toy: Toy) -> None:
    assert toy.run("help").out == toy.run("--help").out
    assert toy.run("help", "plan") == toy.run("plan", "--help")
    ran = toy.run("help", "frobnicate")
    assert (ran.code, "no command 'frobnicate'" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("status", "current"), ("log", "history"), ("create", "revision"), ("upgrde", "upgrade")],
)
def test_a_word_of_another_tool_leads_to_ours(toy: Toy, word: str, meant: str) -> None:
    assert f"Did you mean {meant}" in toy.run(word).err


def test_upgrade_promises_in_its_help(toy: Toy) -> None:
    words = " ".join(toy.run("upgrade", "--help").out.split())
    assert "either the complete old checkpoint or the complete new one" in words
    assert "With -o the source is only read" in words
    assert "the next run removes it" in words


def test_the_version_is_that_of_the_package(toy: Toy) -> None:
    from ckmigrate import __version__

    assert toy.run("--version").out == f"ckmigrate {__version__}\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_long_work_shows_a_bar_on_a_terminal(toy: Toy, tmp_path: Path, quiet: bool) -> None:
    env = slowed(tmp_path / "site", "from ckmigrate.cli import progress\nprogress.LONG = 1")
    shown, out = _on_terminal(toy, {**env, "TERM": "xterm"}, *(["-q"] if quiet else []))
    assert ("writing new.safetensors" in shown) is not quiet
    assert out.startswith("wrote new.safetensors")
    assert toy.run("upgrade", "old.safetensors", "-o", "b.pt", "--no-model", env=env).err == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(toy: Toy, tmp_path: Path) -> None:
    env = slowed(tmp_path / "site", "from ckmigrate.cli import progress\nprogress.LONG = 1")
    shown, out = _on_terminal(toy, {**env, "TERM": "dumb"})
    assert (shown, out.startswith("wrote new.safetensors")) == ("", True)


def _on_terminal(toy: Toy, env: dict[str, str], *options: str) -> tuple[str, str]:
    """What an upgrade shows on a terminal, and its stdout."""
    main, side = pty.openpty()
    arguments = ["upgrade", toy.checkpoint(), "-o", "new.safetensors", "--no-model", *options]
    with subprocess.Popen(
        command(*arguments),
        cwd=toy.root,
        env=toy.environment(env),
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
    ) as process:
        os.close(side)
        out, _ = process.communicate(timeout=60)
    os.set_blocking(main, False)
    try:
        shown = os.read(main, 1 << 16).decode()
    except OSError:
        shown = ""
    os.close(main)
    return shown, out
