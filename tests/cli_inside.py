"""The command in the process of the test: for many runs that build a model, torch is imported once.

What only a real process can show (exit codes, streams, light imports) is tested with `Toy.run`.
"""

from __future__ import annotations

import io
import os
import pty
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ckmigrate.cli import main
from tests.cli_project import Ran, Toy

__all__ = ["Inside", "InsideToy", "Talk"]

_PROMPT = "[a/e/n]: "


@dataclass(frozen=True)
class Talk:
    """What a conversation showed on the terminal, what went to stdout, and the exit code."""

    code: int
    screen: str
    out: str


@dataclass(frozen=True)
class Inside:
    """A project, and the command run in its folder.

    package  top-level name of the module that holds the model, imported anew for each command
    """

    toy: Toy
    monkeypatch: pytest.MonkeyPatch
    package: str = "toy_model"

    @property
    def root(self) -> Path:
        return self.toy.root

    @property
    def scripts(self) -> list[str]:
        return sorted(path.name for path in (self.root / "migrations").glob("*.py"))

    @property
    def drafted(self) -> Path:
        (path,) = (self.root / "migrations").glob("0004_*.py")
        return path

    def model(self, text: str) -> None:
        (self.root / "toy_model.py").write_text(text)

    def run(self, *arguments: object) -> Ran:
        """The command; stdin is no terminal."""
        out, err = io.StringIO(), io.StringIO()
        with self._folder({}) as patch, redirect_stdout(out):
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setattr(sys, "stderr", err)
            code = main([str(argument) for argument in arguments])
        return Ran(code, out.getvalue(), err.getvalue())

    def draft(self, *arguments: object) -> Ran:
        return self.run("revision", "--autogenerate", "-m", "Refactor", *arguments)

    def talk(
        self, answers: Sequence[str], *arguments: str, env: Mapping[str, str] | None = None
    ) -> Talk:
        """Draft at a pseudo-terminal, which stdin and stderr are; an answer for each question."""
        terminal, side = pty.openpty()
        screen: list[str] = []
        person = threading.Thread(target=_answer, args=(terminal, list(answers), screen))
        person.start()
        out = io.StringIO()
        try:
            with (
                self._folder({"COLUMNS": "80", **(env or {})}) as patch,
                open(side, closefd=False) as keys,
                open(side, "w", closefd=False) as shown,
                redirect_stdout(out),
            ):
                patch.setattr(sys, "stdin", keys)
                patch.setattr(sys, "stderr", shown)
                code = main(["revision", "--autogenerate", "-m", "Refactor", *arguments])
        finally:
            os.close(side)
            person.join(30)
            os.close(terminal)
        return Talk(code, "".join(screen).replace("\r\n", "\n"), out.getvalue())

    @contextmanager
    def _folder(self, env: Mapping[str, str]) -> Iterator[pytest.MonkeyPatch]:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.root)
            for name in ("VISUAL", "EDITOR"):
                patch.delenv(name, raising=False)
            shown = {"TERM": "dumb", "XDG_RUNTIME_DIR": str(self.root / ".run"), **env}
            for name, value in shown.items():
                patch.setenv(name, value)
            # The model was another one a moment ago, perhaps of the same size.
            patch.setattr(sys, "dont_write_bytecode", True)
            for name in [n for n in sys.modules if n.partition(".")[0] == self.package]:
                patch.delitem(sys.modules, name)
            yield patch
            for name in [n for n in sys.modules if n.partition(".")[0] == self.package]:
                del sys.modules[name]


@dataclass(frozen=True)
class InsideToy(Toy):
    """A project whose commands run in the process of the test, unless they are to have an
    environment, a folder or streams of their own."""

    monkeypatch: pytest.MonkeyPatch

    def run(self, *arguments: object, env: Mapping[str, str] | None = None, **more: Any) -> Ran:
        if env or more:
            return super().run(*arguments, env=env, **more)
        return Inside(self, self.monkeypatch).run(*arguments)


def _answer(terminal: int, answers: list[str], screen: list[str]) -> None:
    """Read what is shown until the other side is closed; answer each question once it is asked."""
    asked = 0
    while True:
        try:
            part = os.read(terminal, 1 << 16).decode(errors="replace")
        except OSError:
            return
        screen.append(part)
        while "".join(screen).count(_PROMPT) > asked:
            # Whoever is asked more than was thought of has nothing to say: the end of the input.
            os.write(terminal, (answers[asked] if asked < len(answers) else "\x04").encode())
            asked += 1
