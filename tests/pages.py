"""What a page of the documentation promises, and following it.

The language of a block says what becomes of it:

* `console`: the commands behind `$ ` are run in the project of the page, their output is compared.
  A line `…` stands for lines that are left out; of a command that fails, the first lines suffice.
  Where a question is shown with an answer behind it, the command runs on a terminal and gets that.
* any language, where the first line is `# PATH`: the file is written into that project.
* `sh`: commands for the reader's own files. They are not run; each must be one that the command
  line understands.
* anything else is not run, and `tests/test_pages.py` says why.

What readers need not see stands in an HTML comment: blocks in it are followed like all others.

Ids of revisions are random: an id on the page stands for the one that was made at that place.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
INSTALLED = any(point.name == "ckmigrate" for point in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "ckmigrate.pytest_plugin")
BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
REVISION = re.compile(r"\b[0-9a-f]{10}\b")
ANSWER = re.compile(r"\[a/e/n\]: (\w+)$", re.MULTILINE)
FILE = re.compile(r"# (\S+\.(?:py|toml|yml|yaml|cfg|txt))\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, its text, and the file that it is, if it is one."""

    kind: str
    text: str

    @property
    def file(self) -> str | None:
        named = FILE.match(self.text)
        return named[1] if named else None

    @property
    def runs(self) -> bool:
        return self.kind == "console" or self.file is not None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, those that are instructions to the site's generator excepted."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m[2], dedent(m[3])) for m in found if not m[2].startswith("{")]


def session(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that the page shows."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            command, output = found[-1]
            found[-1] = (command, output + line + "\n")
    return found


def commands(block: str) -> Iterator[list[str]]:
    """The arguments of every `ckmigrate` that a block of commands names."""
    for line in block.splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if word.strip("();<>|&"):
                words.append(word)
            elif words:
                if words[0] == "ckmigrate":
                    yield words[1:]
                words = []


def tools(folder: Path) -> Path:
    """A folder whose `ckmigrate`, `python` and `pytest` are this interpreter's."""
    folder.mkdir()
    for name, arguments in {
        "ckmigrate": "-m ckmigrate",
        "python": "",
        "pytest": " ".join(["-m pytest -p no:cacheprovider", *PLUGIN]),
    }.items():
        script = folder / name
        script.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8"
        )
        script.chmod(0o755)
    return folder


@dataclass(slots=True)
class Reader:
    """Somebody who follows a page in a new project. `ids` are the page's, with the real ones."""

    project: Path
    tools: Path
    ids: dict[str, str] = field(default_factory=dict)
    compared: int = 0

    def follow(self, page: Path) -> int:
        """Write every file and run every command of the page; how many outputs were compared."""
        for block in blocks(page):
            if block.kind == "console":
                for command, shown in session(block.text):
                    self.run(command, shown)
            elif block.file is not None:
                self.write(block.file, block.text.split("\n", 1)[1])
        return self.compared

    def write(self, name: str, text: str) -> None:
        path = self.project / self.real(name)
        assert path.parent.is_dir(), f"{path.parent} does not exist at this point of the page"
        path.write_text(self.real(text), encoding="utf-8")

    def run(self, command: str, shown: str) -> None:
        typed = ANSWER.findall(shown)
        code, printed = self.typed(command, typed) if typed else self.printed(command)
        self.learn(printed, shown)
        expected = as_pattern(self.real(shown)) + ("(.|\n)*" if code else "")
        same = re.fullmatch(expected, printed)
        assert not code or shown.strip(" …\n"), f"$ {command}\n--- failed\n{printed}"
        assert same, f"$ {command}\n--- the page\n{self.real(shown)}--- printed\n{printed}"
        self.compared += 1

    def printed(self, command: str) -> tuple[int, str]:
        """The exit code of a command, and what it prints on both streams."""
        result = subprocess.run(
            self.real(command),
            shell=True,
            cwd=self.project,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout

    def typed(self, command: str, answers: Sequence[str]) -> tuple[int, str]:
        """The same on a terminal, on which somebody has typed the answers."""
        terminal, side = pty.openpty()
        environment = {**self.environment(), "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"}
        with subprocess.Popen(
            self.real(command),
            shell=True,
            cwd=self.project,
            env=environment,
            stdin=side,
            stdout=side,
            stderr=side,
        ) as process:
            os.close(side)
            screen = _until_end(terminal, list(answers))
        os.close(terminal)
        return process.returncode, screen.replace("\r\n", "\n")

    def learn(self, printed: str, shown: str) -> None:
        """Take ids of the page that are new for the new ones that were printed, in their order."""
        new = [i for i in dict.fromkeys(REVISION.findall(shown)) if i not in self.ids]
        real = [i for i in dict.fromkeys(REVISION.findall(printed)) if i not in self.ids.values()]
        self.ids.update(zip(new, real, strict=False))

    def real(self, text: str) -> str:
        return REVISION.sub(lambda m: self.ids.get(m[0], m[0]), text)

    def environment(self) -> dict[str, str]:
        someone = {"NAME": "Reader", "EMAIL": "reader@example.org", "DATE": "2026-01-01T00:00:00Z"}
        git = {f"GIT_{who}_{k}": v for who in ("AUTHOR", "COMMITTER") for k, v in someone.items()}
        return {
            **os.environ,
            **git,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _until_end(terminal: int, answers: list[str]) -> str:
    """What comes to the terminal until its last program ends; each question gets an answer."""
    screen = b""
    while True:
        try:
            screen += os.read(terminal, 1 << 16)
        except OSError:  # Linux says so where nobody holds the other side any more.
            return screen.decode()
        if answers and screen.endswith(b"]: "):
            os.write(terminal, f"{answers.pop(0)}\n".encode())


def as_pattern(shown: str) -> str:
    """What is shown as a regular expression, `…` alone on a line standing for any lines."""
    lines = shown.splitlines(keepends=True)
    return "".join("(.*\n)*?" if line.strip() == "…" else re.escape(line) for line in lines)
