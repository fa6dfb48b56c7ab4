"""The table of verbs, each imported when it is used, and the global options."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import UsageError
from ckmigrate.uncollected import uncollected

__all__ = ["VERBS", "Verb", "app", "pass_session"]

VERBS = {
    "init": "Set up migrations for a project.",
    "revision": "Add a migration script.",
    "check": "Test that the migrations lead to today's model (for CI).",
    "lock": "Record what the migrations do, in files to commit.",
    "merge": "Join the heads of branches by a revision.",
    "rebase": "Put one branch behind another.",
    "heads": "Show the newest revision.",
    "history": "List the revisions, newest first.",
    "show": "Show one revision.",
    "blame": "Show where a tensor comes from, or what became of it.",
    "squash": "Replace a stretch of scripts by one that does the same.",
    "prune": "Remove the scripts that a squashed one replaces.",
    "export": "Write a program that converts checkpoints without ckmigrate.",
    "current": "Show which revision checkpoints are at.",
    "identify": "Explain which revision checkpoints are at.",
    "inspect": "List the tensors of a checkpoint.",
    "diff": "Compare checkpoints, revisions and the model.",
    "plan": "Show what an upgrade would do.",
    "upgrade": "Migrate checkpoints to a newer revision.",
    "downgrade": "Migrate checkpoints back to an older revision.",
    "verify": "Prove that checkpoints are intact and fit.",
    "stamp": "Record a revision in checkpoints without migrating them.",
    "undo": "Take the newest change of --in-place --fast back.",
}

_ELSEWHERE = {
    "autogenerate": "revision",
    "create": "revision",
    "list": "history",
    "log": "history",
    "ls": "inspect",
    "makemigrations": "revision",
    "migrate": "upgrade",
    "new": "revision",
    "recover": "undo",
    "restore": "undo",
    "revert": "undo",
    "rollback": "downgrade",
    "status": "current",
    "test": "check",
    "version": "--version",
}
"""What the verbs of other tools are called here."""

_EXIT_CODES = """\b
Exit codes:
  0    done, or nothing to do
  1    the answer is no: something differs or is pending
  2    the command line or the configuration cannot be used
  3    the migration scripts do not form a valid history
  4    the revision is unknown, ambiguous, or newer than this history
  5    a migration was refused or failed
  6    the result failed verification; nothing was written
  7    a file cannot be read, is unsafe, or cannot be written
  130  interrupted
"""


_CONFIG = "Configuration file, or its folder."
_JSON_LINES = "One JSON object per checkpoint, as each is done, and a last one."


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store a global option that was given; later ones win, counts add up."""
    session = context.ensure_object(Session)
    name = str(parameter.name)
    if name == "verbose":
        session.verbose += value
    elif value not in (None, False):
        setattr(session, name, value)


def _global_options() -> list[click.Parameter]:
    common: dict[str, Any] = {"expose_value": False, "callback": _keep}
    path = click.Path(path_type=Path)
    colours = click.Choice(["auto", "always", "never"])
    return [
        click.Option(["--config"], type=path, metavar="FILE", help=_CONFIG, **common),
        click.Option(["--json"], is_flag=True, help="Answer with one JSON document.", **common),
        click.Option(["--json-lines"], is_flag=True, help=_JSON_LINES, **common),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress and remarks.", **common),
        click.Option(["-v", "--verbose"], count=True, help="More details.", **common),
        click.Option(["--no-input"], is_flag=True, help="Never ask anything.", **common),
        click.Option(["--color"], type=colours, help="When to use colours.", **common),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of errors.", **common),
    ]


class Verb(click.Command):
    """A command that takes the global options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.short_help = VERBS[str(self.name)]
        self.params += _global_options()

    def invoke(self, ctx: click.Context) -> Any:
        """What scripts and models print is no part of the answer."""
        with contextlib.redirect_stdout(sys.stderr):
            return super().invoke(ctx)


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        with uncollected():
            command: click.Command = import_module(f"ckmigrate.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "help":
            args = self._helped(ctx, args[1:])
        if args[0] not in VERBS:
            raise UsageError("CKM200", f"there is no command '{args[0]}'", fix=_meant(args[0]))
        ctx.ensure_object(Session).verb = args[0]
        return super().resolve_command(ctx, args)

    def _helped(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`help VERB` as `VERB --help`; `help` alone answers at once."""
        verbs = [argument for argument in args if not argument.startswith("-")]
        if not verbs:
            click.echo(ctx.get_help())
            ctx.exit()
        return [verbs[0], "--help"]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself: listing the verbs must not import them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _meant(word: str) -> str:
    near = [_ELSEWHERE[word]] if word in _ELSEWHERE else []
    if not near:
        from difflib import get_close_matches

        near = get_close_matches(word, VERBS, 2, 0.5)
    return f"Did you mean {' or '.join(near)}?" if near else "`ckmigrate --help` lists them."


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from ckmigrate import __version__

        click.echo(f"ckmigrate {__version__}")
        context.exit()


@click.pass_context
def _no_verb(context: click.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    raise UsageError(
        "CKM200",
        "no command was given",
        details=tuple(f"{name:<10} {text}" for name, text in VERBS.items()),
        fix="Begin with `ckmigrate init`, or see `ckmigrate --help`.",
    )


app = _Verbs(
    "ckmigrate",
    help="Versioned migrations for PyTorch checkpoints.\n\n"
    "Scripts in a folder beside the model's code say how its checkpoints changed with it; "
    "`upgrade` applies the missing ones to a file and proves that today's model loads the result.\n"
    "\n\b\n"
    "  ckmigrate current old.ckpt\n"
    "  ckmigrate plan old.ckpt\n"
    "  ckmigrate upgrade old.ckpt -o new.ckpt\n",
    epilog=_EXIT_CODES,
    callback=_no_verb,
    invoke_without_command=True,
    params=[
        *_global_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def pass_session(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Give the session to a verb as its first argument."""
    return click.make_pass_decorator(Session)(function)
