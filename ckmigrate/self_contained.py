"""Whether scripts run without the code of the project: they must still do so when it moved on.

A fresh process loads every script, traces the history on every base snapshot, and carries out what
functions compute on synthetic values, while modules that lie in the project's folders cannot be
imported. `examine` starts it and reads its answer; `main` is what it does.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import SkipTest

from ckmigrate.errors import CkmigrateError, HistoryError, MigrationError

if TYPE_CHECKING:
    from types import ModuleType

    from ckmigrate.identify import Replay
    from ckmigrate.revisions.script import Script
    from ckmigrate.trial import Subject

__all__ = ["Finding", "examine", "require_self_contained"]

_NEEDED = sys.stdlib_module_names | {"ckmigrate", "numpy", "torch"}
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_PROGRAM = """
import json, sys
told = json.load(sys.stdin)
sys.path += [path for path in told["path"] if path not in sys.path]
from ckmigrate.self_contained import main
main(told)
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one script.

    refused  modules of the project that it asked for
    failure  why it did not run, as the error that a user would see; None where it did
    """

    refused: tuple[str, ...] = ()
    failure: str | None = None


def examine(tried: Subject, *, max_bytes: int) -> Mapping[str, Finding]:
    """Run every script in a fresh process without the project's code; findings by revision.

    MigrationError CKM590 where the process ends without an answer.
    """
    told = {
        "config": str(tried.project.config_path),
        "path": [path for path in sys.path if path],
        "max_bytes": max_bytes,
    }
    # -I: neither PYTHONPATH nor the working directory may bring the project's code in.
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PROGRAM],
        input=json.dumps(told),
        cwd=tried.project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MigrationError(
            "CKM590",
            "the process that runs the scripts without the project's code broke off",
            where=str(tried.history.folder),
            details=tuple(done.stderr.strip().splitlines()[-8:]),
            why=f"It ended with status {done.returncode}.",
            fix="Look for a script that ends the process, such as os._exit.",
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    return {
        revision: Finding(tuple(found["refused"]), found["failure"])
        for revision, found in answer.items()
    }


def require_self_contained(script: Script, finding: Finding) -> None:
    """HistoryError CKM330 where a script fails for want of the project's code; SkipTest where it
    fails for another reason."""
    if finding.failure is None:
        return
    if not finding.refused:
        raise SkipTest(f"it fails, though not for want of the project's code: {finding.failure}")
    raise HistoryError(
        "CKM330",
        f"{script.path.name} does not run without {', '.join(finding.refused)}",
        where=str(script.path),
        details=(finding.failure,),
        why="That is code of this project. When it changes, old checkpoints could not be upgraded "
        "any more, or would be upgraded to something else.",
        fix="Copy what the script needs into the script.",
    )


class _Refusing(importlib.abc.MetaPathFinder):
    """Comes before all other finders, and lets nothing be found in the project's folders."""

    def __init__(self, folders: Sequence[Path], names: frozenset[str], scripts: set[str]) -> None:
        self._folders = folders
        self._names = names
        self._scripts = scripts
        self.refused: dict[str, list[str]] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if "." in fullname or fullname in _NEEDED:
            return None
        if fullname not in self._names and not self._is_own(fullname):
            return None
        asking = self._asking()
        if asking is not None and fullname not in self.refused.setdefault(asking, []):
            self.refused[asking].append(fullname)
        raise ModuleNotFoundError(
            f"'{fullname}' is code of the project, which a script must do without", name=fullname
        )

    def _is_own(self, name: str) -> bool:
        for finder in sys.meta_path:
            if isinstance(finder, _Refusing) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, None)
            if spec is not None:
                places = [spec.origin, *(spec.submodule_search_locations or ())]
                return any(self._is_inside(Path(place)) for place in places if place)
        # The project's folders need not be on the path of this process.
        inside = [str(folder) for folder in self._folders]
        return importlib.machinery.PathFinder.find_spec(name, inside) is not None

    def _is_inside(self, place: Path) -> bool:
        real = place.resolve()
        inside = any(real.is_relative_to(folder) for folder in self._folders)
        return inside and not _INSTALLED & set(real.parts)

    def _asking(self) -> str | None:
        """The script that asks, however many modules lie between."""
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename in self._scripts:
                return frame.f_code.co_filename
            frame = frame.f_back  # type: ignore[assignment]
        return None


def main(told: Mapping[str, object]) -> None:
    """The fresh process: one line of JSON on stdout, whatever scripts print."""
    from ckmigrate.project import find_project
    from ckmigrate.trial import subject

    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            tried = subject(find_project(Path.cwd(), config=Path(str(told["config"]))))
            found = _findings(tried, int(str(told["max_bytes"])))
        answer.write("\n" + json.dumps({key: asdict(value) for key, value in found.items()}) + "\n")


def _findings(tried: Subject, max_bytes: int) -> dict[str, Finding]:
    project, scripts = tried.project, tried.history.order
    folders = [folder.resolve() for folder in (project.root, *project.python_path)]
    names = frozenset(f.partition(":")[0].partition(".")[0] for f in project.models.values())
    by_path = {str(script.path): script for script in scripts}
    refusing = _Refusing(folders, names - _NEEDED, set(by_path))
    sys.meta_path.insert(0, refusing)
    failures: dict[str, str] = {}
    for script in scripts:
        with _noted(failures, script.id):
            script.load()
    for model, replay in tried.replays.items():
        replay.schemas()
        for revision, error in replay.failures.items():
            failures.setdefault(revision, str(error))
        _carry_out(tried, replay, model, max_bytes, refusing, by_path, failures)
    return {
        script.id: Finding(
            tuple(refusing.refused.get(str(script.path), ())), failures.get(script.id)
        )
        for script in scripts
    }


@contextlib.contextmanager
def _noted(failures: dict[str, str], revision: str) -> Iterator[None]:
    try:
        yield
    except CkmigrateError as error:
        failures.setdefault(revision, str(error))


def _carry_out(
    tried: Subject,
    replay: Replay,
    model: str,
    max_bytes: int,
    refusing: _Refusing,
    by_path: Mapping[str, Script],
    failures: dict[str, str],
) -> None:
    """Run functions of `compute` too, which a trace does not; nothing where there are none."""
    from ckmigrate.expr import is_structural
    from ckmigrate.trial import try_chain

    ends = [traced for head in tried.history.heads if (traced := replay.traced(head)) is not None]
    if all(is_structural(expr) for traced in ends for expr in traced.after.entries.values()):
        return
    before = {path: len(names) for path, names in refusing.refused.items()}
    try:
        try_chain(tried, model, max_bytes=max_bytes)
    except SkipTest:
        return
    except CkmigrateError as error:
        for path, names in refusing.refused.items():
            if len(names) > before.get(path, 0):
                failures.setdefault(by_path[path].id, str(error))
