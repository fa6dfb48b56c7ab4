"""`ckmigrate downgrade`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import (
    batch_options,
    output_options,
    paths_argument,
    reading_options,
    result_options,
)
from ckmigrate.cli.session import Answer, Session
from ckmigrate.cli.upgrade import migrate_all

__all__ = ["command"]


@click.command("downgrade", cls=Verb)
@paths_argument
@click.option("--to", required=True, metavar="REV", help="Where to: a revision, -1 or base.")
@output_options
@batch_options
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan and write nothing.")
@reading_options
@result_options
@click.option("--no-model", is_flag=True, help="Build no model, even at the head.")
@pass_session
def command(
    session: Session,
    paths: tuple[Path, ...],
    to: str,
    dry_run: bool,
    no_model: bool,
    **options: Any,
) -> Answer:
    """Migrate checkpoints back to an older revision, by the derived inverse of each operation or
    the downgrade(ck) of a script. Every obstacle on the whole way is reported before anything is
    read or written; what was dropped cannot come back. Written as safely as by `upgrade`, and of
    many checkpoints in the same way.

    \b
    Example:  ckmigrate downgrade new.ckpt --to -1 -o old.ckpt
              ckmigrate downgrade new.ckpt --to 4 --dry-run
    """
    options["to"], options["use_model"] = to, not no_model
    return migrate_all(session, paths, options, direction="down", dry_run=dry_run)
