"""Arguments that stand in each other's places."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ckmigrate.cli.collect import SUFFIXES
from ckmigrate.cli.session import Session
from ckmigrate.errors import CkmigrateError, UsageError

__all__ = ["require_paths"]

_WITH_TO = ("upgrade", "downgrade", "plan")


def require_paths(session: Session, paths: Sequence[Path], *, last: str | None = None) -> None:
    """UsageError CKM242 where a path is no file and is a revision of this history.

    last  the argument of `stamp` that should be a revision
    """
    for path in paths:
        if not os.path.lexists(path) and _is_revision(session, path):
            raise _misplaced(session.verb or "", paths, path, last)


def _is_revision(session: Session, path: Path) -> bool:
    from ckmigrate.revisions.targets import resolve

    text = str(path)
    if "/" in text or text.endswith(SUFFIXES):
        return False
    try:
        resolve(session.history(session.project()), text)
    except CkmigrateError:
        return False
    return True


def _misplaced(verb: str, paths: Sequence[Path], path: Path, last: str | None) -> UsageError:
    others = [str(other) for other in paths if other != path]
    if verb in _WITH_TO:
        fix = f"Did you mean: ckmigrate {verb} {' '.join([*others, '--to', str(path)])}"
    elif last is not None:
        fix = f"The revision comes last: ckmigrate {verb} {' '.join([*others, last, str(path)])}"
    else:
        fix = f"`ckmigrate show {path}` shows the revision; give the path of a checkpoint here."
    what = f"there is no file '{path}', and a revision of this history is called so"
    return UsageError("CKM242", what, fix=fix)
