"""Write docs/commands.md from the help texts of the command itself.

python docs/make_commands.py
"""

from __future__ import annotations

from pathlib import Path

import click

from ckmigrate.cli.app import app

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).with_name("commands.md")
HEAD = """\
# Commands

Every option of the first section may stand before or after the verb. stdout holds the answer only,
one JSON document with `--json`, on failure too; progress, remarks and errors go to stderr. An error
reads `error[CKM501]: …` with where, why and what to do; the code is stable, and its first digit is
the exit code.
"""


def render() -> str:
    """The page: the help of the command, then of each verb."""
    root = click.Context(app, info_name="ckmigrate", max_content_width=80, terminal_width=80)
    parts = [HEAD, _block("ckmigrate", root.get_help())]
    for name in app.list_commands(root):
        command = app.get_command(root, name)
        if command is None:
            raise SystemExit(f"the command {name} is listed and not there")
        context = click.Context(
            command, info_name=name, parent=root, max_content_width=80, terminal_width=80
        )
        parts.append(_block(f"ckmigrate {name}", command.get_help(context)))
    return "\n".join(parts)


def _block(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
