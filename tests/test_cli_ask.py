"""The question of a draft, at a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tests.cli_inside import Inside
from tests.cli_project import MODEL, Toy, command
from tests.test_cli_autogenerate import CERTAIN, UNSURE

TWO_NEW = MODEL.replace(
    "self.scale = nn.Parameter(torch.ones(3))",
    "self.gain, self.shift = (nn.Parameter(torch.full((3,), i)) for i in (0.5, 2.0))",
)


@pytest.fixture
def inside(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(toy, monkeypatch)


def editor(inside: Inside, body: str) -> dict[str, str]:
    """An editor that is a program: `body` changes `text`."""
    path = inside.root / "editor.py"
    path.write_text(
        "import pathlib, re, sys\npath = pathlib.Path(sys.argv[-1])\ntext = path.read_text()\n"
        f"{body}\npath.write_text(text)\n"
    )
    return {"EDITOR": f"{sys.executable} -I {path}"}


def test_a_real_process_asks_on_its_terminal(toy: Toy) -> None:
    (toy.root / "toy_model.py").write_text(CERTAIN)
    terminal, side = pty.openpty()
    with subprocess.Popen(
        command("revision", "--autogenerate", "-m", "Refactor"),
        cwd=toy.root,
        env={**toy.environment(), "TERM": "dumb"},
        stdin=side,
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
    ) as process:
        os.close(side)
        # The terminal keeps what is typed until somebody reads it.
        os.write(terminal, b"a\n")
        try:
            out, _ = process.communicate(timeout=50)
        finally:
            process.kill()
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert process.returncode == 0, shown
    assert "accept, edit, none [a/e/n]: " in shown
    assert out.startswith("wrote migrations/0004_refactor.py")


def test_control_c_at_the_question_writes_nothing(toy: Toy) -> None:
    (toy.root / "toy_model.py").write_text(CERTAIN)
    terminal, side = pty.openpty()
    with subprocess.Popen(
        command("revision", "--autogenerate", "-m", "Refactor"),
        cwd=toy.root,
        env={**toy.environment(), "TERM": "dumb"},
        stdin=side,
        stdout=subprocess.PIPE,
        stderr=side,
    ) as process:
        os.close(side)
        shown = b""
        while b"[a/e/n]" not in shown:
            shown += os.read(terminal, 1 << 16)
        process.send_signal(signal.SIGINT)
        assert process.wait(50) == 130
    os.close(terminal)
    assert not list((toy.root / "migrations").glob("0004*"))


def test_accepting(inside: Inside) -> None:
    inside.model(CERTAIN)
    told = inside.talk(["maybe\n", "a\n"])
    assert told.code == 0, told.screen
    assert told.screen.count("Write this migration? accept, edit, none [a/e/n]: ") == 2
    assert "certain\n  1  rename(" in told.screen
    assert told.out.startswith("wrote migrations/0004_refactor.py")
    assert inside.run("check").code == 0


@pytest.mark.parametrize("answer", ["n\n", "none\n", "\x04"])
def test_declining_writes_nothing(inside: Inside, answer: str) -> None:
    inside.model(CERTAIN)
    before = inside.scripts
    told = inside.talk([answer])
    assert (told.code, told.out.startswith("nothing was written")) == (1, True)
    assert inside.scripts == before


@pytest.mark.parametrize("flags", [["--no-input"], ["--accept", "certain"], ["--json"]])
def test_a_terminal_is_not_asked_where_the_flags_answer(inside: Inside, flags: list[str]) -> None:
    inside.model(CERTAIN)
    told = inside.talk([], *flags)
    assert told.code == 0
    assert "[a/e/n]" not in told.screen


def test_accepting_leaves_what_is_ambiguous_open(inside: Inside) -> None:
    inside.model(UNSURE)
    told = inside.talk(["a\n"])
    ambiguous = "ambiguous: a todo each" in told.screen
    assert told.code == int(ambiguous)
    assert ("ck.todo" in inside.drafted.read_text()) is ambiguous


def test_editing_keeps_all(inside: Inside) -> None:
    inside.model(UNSURE)
    told = inside.talk(["edit\n"], env=editor(inside, "text = re.sub('(?m)^todo ', 'keep ', text)"))
    assert told.code == 0, told.screen + told.out
    assert inside.run("check").code == 0


def test_editing_to_nothing_declines(inside: Inside) -> None:
    inside.model(CERTAIN)
    before = inside.scripts
    assert inside.talk(["e\n"], env=editor(inside, "text = ''")).code == 1
    assert inside.scripts == before


def test_an_edit_that_cannot_be_read_is_asked_again_with_its_text(inside: Inside) -> None:
    inside.model(CERTAIN)
    body = (
        "flag = pathlib.Path(sys.argv[0]).with_suffix('.flag')\n"
        "text = text.replace('hold 1', 'keep 1') if flag.exists() else "
        "text.replace('keep 1', 'hold 1')\nflag.write_text('')"
    )
    told = inside.talk(["e\n", "e\n"], env=editor(inside, body))
    assert told.code == 0, told.screen
    assert "error[CKM254]" in told.screen
    assert "the draft, line 1" in told.screen


def test_a_call_that_is_rewritten_is_drafted_anew(inside: Inside) -> None:
    inside.model(CERTAIN)
    old, new = '"encoder.**", "backbone.**"', '"encoder.{x:**}", "backbone.{x:**}"'
    body = f"text = text.replace({old!r}, {new!r})"
    told = inside.talk(["e\n"], env=editor(inside, body))
    assert told.code == 0, told.screen
    assert 'ck.rename("encoder.{x:**}", "backbone.{x:**}")' in inside.drafted.read_text()


def rewritten(new: str) -> str:
    """An edit that keeps everything, and makes the drop of `scale` a rename."""
    return (
        f"""text = re.sub(r'ck.drop\\("scale".*', 'ck.rename("scale", "{new}")', text)\n"""
        "text = re.sub('(?m)^todo ', 'keep ', text)"
    )


def test_accepting_says_nothing_about_old_values_that_would_go(inside: Inside) -> None:
    inside.model(TWO_NEW)
    told = inside.talk(["a\n"])
    assert told.code == 1
    text = inside.drafted.read_text()
    assert re.search(r'    ck.todo\(".*"\)\n    # ck.drop\("scale"', text)
    assert "\n    ck.drop(" not in text


def test_what_follows_from_an_edit_is_drafted_anew(inside: Inside) -> None:
    """`scale` went and two entries came: said that one of them is it, the other is new."""
    inside.model(TWO_NEW)
    body = rewritten("gain")
    told = inside.talk(["e\n"], env=editor(inside, body))
    assert told.code == 0, told.screen + told.out
    text = inside.drafted.read_text()
    assert 'ck.rename("scale", "gain")' in text
    assert 'ck.init("gain"' not in text
    assert 'ck.init("shift"' in text
    assert inside.run("check").code == 0


def test_proposals_that_nobody_has_seen_are_asked_about(inside: Inside) -> None:
    inside.model(TWO_NEW)
    body = rewritten("other")
    told = inside.talk(["e\n", "n\n"], env=editor(inside, body))
    assert told.code == 1
    assert told.screen.count("[a/e/n]") == 2
    assert "unexpected other" in told.screen


@pytest.mark.parametrize("call", ["ck.rename('nobody', 'x')", "ck.rename()", "ck.unknown(1)"])
def test_a_call_that_cannot_be_made_is_asked_about_again(inside: Inside, call: str) -> None:
    inside.model(CERTAIN)
    before = inside.scripts
    body = f"text = 'keep 1 ' + {call!r}"
    told = inside.talk(["e\n", "n\n"], env=editor(inside, body))
    assert told.code == 1
    assert "error[CKM254]: the edited draft cannot be followed" in told.screen
    assert inside.scripts == before


def test_a_line_that_is_left_out_becomes_a_todo(inside: Inside) -> None:
    inside.model(CERTAIN)
    told = inside.talk(["e\n"], env=editor(inside, "text = text.replace('keep 1', 'todo 1')"))
    assert told.code == 1
    assert re.search(r'ck\.todo\(".*"\)\n    # ck\.rename\("encoder', inside.drafted.read_text())


@pytest.mark.parametrize("env", [{}, {"EDITOR": "no-such-editor"}, {"VISUAL": "false"}])
def test_without_an_editor_editing_is_an_error(inside: Inside, env: dict[str, str]) -> None:
    inside.model(CERTAIN)
    before = inside.scripts
    told = inside.talk(["e\n", "n\n"], env=env)
    assert "error[CKM253]" in told.screen
    assert inside.scripts == before
