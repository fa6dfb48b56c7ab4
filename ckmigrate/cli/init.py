"""`ckmigrate init`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.files import create, make_folder
from ckmigrate.cli.options import PATH
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import CkmigrateError, UsageError
from ckmigrate.locking import write_lock_and_snapshots
from ckmigrate.opened import replays
from ckmigrate.project import Project, find_project, write_config
from ckmigrate.report.escape import printable
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import read_history
from ckmigrate.snapshot import Snapshot, render_snapshot

__all__ = ["command"]

_DEFAULT = "default"
_REVISION = 'ckmigrate revision -m "what changed"'
_DRAFT = 'ckmigrate revision --autogenerate -m "what changed"'


@click.command("init", cls=Verb)
@click.option("--model", metavar="PKG.MOD:FUNC", help="The factory that builds today's model.")
@click.option("--from-checkpoint", metavar="PATH", type=PATH, help="The oldest checkpoint to keep.")
@click.option("--name", metavar="NAME", help="The project's name in the tag of its checkpoints.")
@click.option("--migrations", default="migrations", metavar="DIR", help="The folder of scripts.")
@click.option("--weights", metavar="KEYS", help="Where the state dict sits in the checkpoints.")
@click.option("--model-name", metavar="NAME", help="The model's name, where there are several.")
@pass_session
def command(session: Session, model_name: str | None, **options: Any) -> Answer:
    """Set up migrations for a project: a config section in pyproject.toml (or ckmigrate.toml), the
    folder of scripts, and the base snapshot, which is the schema that the first script starts from.
    It is read off --from-checkpoint if given, otherwise off the model.

    In a project that is set up, `--from-checkpoint` adds the base snapshot of a further size of the
    model, under `--model-name`; the checkpoint must be at the base. Before the first script, the
    name of a configured model is enough.

    \b
    Example:  ckmigrate init --model mypkg.model:build
              ckmigrate init --model mypkg.model:build --from-checkpoint released-1.0.ckpt
              ckmigrate init --from-checkpoint small.ckpt --model-name small
    """
    found = _configured(session)
    if found is not None:
        return _further_snapshot(session, found, model_name, **options)
    return _fresh(model_name, **options)


def _configured(session: Session) -> Project | None:
    """The project whose root is this folder."""
    try:
        project = session.project()
    except UsageError as error:
        if error.code == "CKM201" and session.config is None:
            return None
        raise
    return project if project.root == Path.cwd().resolve() or session.config else None


def _fresh(
    model_name: str | None,
    *,
    model: str | None,
    from_checkpoint: Path | None,
    name: str | None,
    migrations: str,
    weights: str | None,
) -> Answer:
    root = Path.cwd()
    # Everything that can be refused is read before the first file is written.
    snapshot = _snapshot(root, model, from_checkpoint, weights, model_name or _DEFAULT)
    config = write_config(
        root, model=model, model_name=model_name, name=name, migrations=migrations, weights=weights
    )
    project = find_project(root, config=config)
    lines = [f"wrote {printable(config.name)}: the configuration of project '{project.name}'"]
    make_folder(project.migrations)
    data: dict[str, object] = {
        "config": str(config),
        "project": project.name,
        "migrations": str(project.migrations),
        "snapshot": None,
    }
    if snapshot is None:
        lines.append("no base snapshot yet: `ckmigrate init --from-checkpoint PATH` adds it")
    else:
        lines.append(_write_snapshot(project, snapshot, data))
    lines += _write_lock(project)
    return Answer(data, "\n".join([*lines, "next:", *_next_steps(project, snapshot)]))


def _next_steps(project: Project, snapshot: Snapshot | None) -> list[str]:
    """What comes now; a draft needs a model, and a base to compare it with."""
    revision = _DRAFT if project.models and snapshot is not None else _REVISION
    return [
        f"  {revision}   after the next change of the model",
        f"  {'ckmigrate check':<{len(revision)}}   in CI: no change without its migration",
    ]


def _further_snapshot(
    session: Session,
    project: Project,
    model_name: str | None,
    *,
    from_checkpoint: Path | None,
    model: str | None,
    weights: str | None,
    **_: object,
) -> Answer:
    is_at_base = model_name in project.models and not len(session.history(project))
    chosen = model_name or (_only_name(project) if from_checkpoint else _DEFAULT)
    path = project.snapshot_path(chosen)
    if not (from_checkpoint or is_at_base) or model is not None or path.exists():
        raise UsageError(
            "CKM208",
            "the project is configured already",
            where=str(project.config_path),
            why=f"there is a snapshot '{chosen}' too" if path.exists() else None,
            fix="Edit the configuration. For the base snapshot of a further size of the model: "
            "ckmigrate init --from-checkpoint PATH --model-name NAME.",
        )
    if from_checkpoint is None:
        snapshot = _of_model(project.python_path, project.models[chosen], chosen)
    else:
        snapshot = _of_checkpoint(project, from_checkpoint, weights, chosen)
    data: dict[str, object] = {
        "config": None,
        "project": project.name,
        "migrations": str(project.migrations),
    }
    text = "\n".join([_write_snapshot(project, snapshot, data), *_write_lock(project)])
    if project.models and chosen not in project.models:
        text += f"\nno model '{chosen}' is configured, so `ckmigrate check` compares it with none"
    return Answer(data, text)


def _only_name(project: Project) -> str:
    """The name of the only model; UsageError CKM206 where there are several."""
    if len(project.models) > 1:
        names = list(project.models)
        raise UsageError(
            "CKM206",
            f"{len(names)} models are configured, and the checkpoint is of one of them",
            where=str(project.config_path),
            fix=f"Say which: {' or '.join(f'--model-name {name}' for name in names[:3])}.",
        )
    return next(iter(project.models), _DEFAULT)


def _write_snapshot(project: Project, snapshot: Snapshot, data: dict[str, object]) -> str:
    path = project.snapshot_path(snapshot.model)
    make_folder(path.parent)
    create(path, render_snapshot(snapshot))
    data["snapshot"] = str(path)
    entries = counted(len(snapshot.schema), "entry", "entries")
    return f"wrote {printable(path.relative_to(project.root))}: the base, {entries}; commit it"


def _write_lock(project: Project) -> list[str]:
    """The lock and the head snapshots, where the project has or begins to have them."""
    history = read_history(project.migrations)
    if len(history) and not project.lock_path.exists():
        return []
    try:
        written = write_lock_and_snapshots(project, history, replays(project, history, {}))
    except CkmigrateError as error:
        return [f"history.lock is as it was: {printable(error.what)}; see `ckmigrate lock`"]
    shown = ", ".join(printable(path.relative_to(project.root)) for path in written)
    return [f"wrote {shown}: what the scripts do and lead to; commit them"] if written else []


def _snapshot(
    root: Path,
    model: str | None,
    checkpoint: Path | None,
    weights: str | None,
    name: str,
) -> Snapshot | None:
    if checkpoint is not None:
        blank = Project(root=root, config_path=root, name="", migrations=root)
        return _of_checkpoint(blank, checkpoint, weights, name)
    return None if model is None else _of_model(_python_path(root), model, name, is_option=True)


def _of_checkpoint(project: Project, path: Path, weights: str | None, name: str) -> Snapshot:
    from ckmigrate.opened import Request, open_weights
    from ckmigrate.tagging import parse_tag
    from ckmigrate.training.carry_optimizer import order_in_file

    opened = open_weights(path, project, Request(weights=weights))
    text = opened.stored.tag
    revision = None if text is None else parse_tag(text, where=str(path)).revision
    if revision is not None:
        raise UsageError(
            "CKM237",
            f"{path.name} is at revision {revision}, not at the base",
            where=str(path),
            why="the base snapshot is what the first script starts from",
            fix="Give a checkpoint from before the first migration.",
        )
    return Snapshot(opened.schema, opened.layout.ties, name, order_in_file(opened))


def _of_model(
    python_path: Sequence[Path], factory: str, name: str, *, is_option: bool = False
) -> Snapshot:
    from ckmigrate.target import load_target

    target = load_target(factory, name, python_path=python_path, is_option=is_option)
    return Snapshot(target.schema, target.ties, name, tuple(target.schema))


def _python_path(root: Path) -> tuple[Path, ...]:
    """What the configuration will be read as."""
    return (root, root / "src") if (root / "src").is_dir() else (root,)
