"""`ckmigrate inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.collect import collect
from ckmigrate.cli.options import make_request, path_argument, reading_options
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import IdentifyError, UsageError
from ckmigrate.formats.tree_paths import entries_of
from ckmigrate.migrate import Opened, open_weights
from ckmigrate.project import Project
from ckmigrate.report.escape import printable, shortened
from ckmigrate.report.json import entry_data, plain_data, tag_data
from ckmigrate.report.schema import schema_lines, ties_lines
from ckmigrate.report.units import bytes_text, counted
from ckmigrate.tagging import Tag, parse_tag
from ckmigrate.training.known_layouts import known_layout

__all__ = ["command"]


@click.command("inspect", cls=Verb)
@path_argument
@reading_options
@click.option("--unfold", is_flag=True, help="One line per tensor.")
@pass_session
def command(session: Session, path: Path, unfold: bool, **reading: Any) -> Answer:
    """List the tensors of a checkpoint, its tag, and what else is in it. Only headers are read, no
    class is imported, and no project is needed.

    \b
    Example:  ckmigrate inspect old.ckpt
    """
    request = make_request(**reading)
    opened = open_weights(_only(path), _project(session), request)
    tag, problem = _tag(opened)
    return Answer(_data(opened, tag, problem), _text(opened, tag, problem, unfold=unfold))


def _only(path: Path) -> Path:
    """The checkpoint that a path means; UsageError CKM243 where it means several."""
    found = collect([path]).found
    if len(found) == 1:
        return found[0].path
    raise UsageError(
        "CKM243",
        f"{path} means {len(found)} checkpoints, and one is listed at a time",
        details=tuple(str(one.path) for one in found[:20]),
        fix=f"Name one, such as {found[0].path}.",
    )


def _project(session: Session) -> Project:
    try:
        return session.project()
    except UsageError as error:
        if error.code != "CKM201" or session.config is not None:
            raise
        root = Path.cwd()
        return Project(root=root, config_path=root, name="", migrations=root / "migrations")


def _tag(opened: Opened) -> tuple[Tag | None, str | None]:
    """The tag, or why it cannot be read."""
    if opened.stored.tag is None:
        return None, opened.stored.tag_fault
    try:
        return parse_tag(opened.stored.tag), None
    except IdentifyError as error:
        return None, f"{error.what}: {error.why}"


def _data(opened: Opened, tag: Tag | None, problem: str | None) -> dict[str, object]:
    stored, layout = opened.stored, opened.layout
    return {
        "path": str(stored.path),
        "format": stored.format,
        "size": stored.size,
        "reader": dict(stored.details),
        "layout": layout.saved_as,
        "weights": ".".join(map(str, layout.path)),
        "prefix": layout.prefix,
        "tag": tag_data(tag),
        "tag_problem": problem,
        "entries": [entry_data(name, spec) for name, spec in opened.schema.items()],
        "tied": [list(group) for group in layout.ties],
        "extras": list(layout.extras),
        "training_state": [
            {"path": ".".join(map(str, o.path)), "kind": o.kind, "description": o.description}
            for o in layout.training_state
        ],
        "settings": list(_settings(opened)),
        "metadata": plain_data(stored.metadata),
        "files": [
            {"name": str(file.path.relative_to(stored.path)), "size": file.identity.size}
            for file in (stored.files if stored.folder else ())
        ],
    }


def _text(opened: Opened, tag: Tag | None, problem: str | None, *, unfold: bool) -> str:
    stored, layout, schema = opened.stored, opened.layout, opened.schema
    kinds = Counter(str(spec.dtype) for spec in schema.values())
    remarks = "".join(f", {k} {v}" for k, v in stored.details.items())
    elements = counted(sum(spec.numel for spec in schema.values()), "element")
    by_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    size = bytes_text(stored.size)
    lines = [
        printable(stored.path),
        f"  format:   {stored.format}, {size}{printable(remarks)}",
        f"  tensors:  {len(schema)}, {elements}, {bytes_text(schema.nbytes)} ({by_kind})",
        f"  tag:      {_tag_text(tag, problem)}",
    ]
    if layout.path:
        lines.append(f"  layout:   {printable(layout.saved_as)}")
        lines.append(f"  weights:  at {printable('.'.join(map(str, layout.path)))}")
    if layout.prefix:
        lines.append(f"  wrapper:  '{printable(layout.prefix)}' before every name")
    lines += [f"  tied:     {line}" for line in ties_lines(layout.ties)]
    lines += [f"  extra:    {printable(name)} (no tensor)" for name in layout.extras]
    lines += [
        f"  beside:   {printable('.'.join(map(str, o.path)))}: {printable(o.description)}"
        for o in layout.training_state
    ]
    lines += [f"  settings: {printable(key)}, for ck.meta" for key in _settings(opened)]
    if stored.folder is not None:
        lines += [f"  shard:    {printable(name)}" for name in stored.folder.shards[:20]]
        lines.append(f"  files:    {counted(len(stored.folder.others), 'other file')} beside them")
    lines += [f"  metadata: {shortened(f'{k} = {v}', 66)}" for k, v in stored.metadata.items()]
    return "\n".join([*lines, "", *(f"  {x}" for x in schema_lines(schema, folded=not unfold))])


def _settings(opened: Opened) -> tuple[str, ...]:
    """Keys of the configuration and the hyper-parameters of a training checkpoint."""
    top = entries_of(opened.stored.tree) or {}
    known = known_layout(top).settings if opened.layout.path else ()
    return tuple(key for key in known if key in top)


def _tag_text(tag: Tag | None, problem: str | None) -> str:
    if problem is not None:
        return f"unreadable: {printable(problem)}"
    if tag is None:
        return "none"
    revision = f"{tag.revision} ({tag.name})" if tag.revision else "base"
    release = f" [{tag.release}]" if tag.release else ""
    return printable(f"{revision}{release} of project '{tag.project}', written by {tag.writer}")
