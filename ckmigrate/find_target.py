"""The model of a project that a result must fit, built where it is asked for and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ckmigrate.opened import Request
from ckmigrate.project import Project

if TYPE_CHECKING:
    from ckmigrate.target import Target

__all__ = ["FindTarget", "find_target", "finding_once"]

FindTarget = Callable[[Project, Request], "Target"]


def find_target(project: Project, request: Request) -> Target:
    """The current architecture of the chosen model; imports torch and the project's code."""
    from ckmigrate.target import load_target

    name, factory = project.model(request.model)
    return load_target(factory, name, python_path=project.python_path)


def finding_once() -> FindTarget:
    """`find_target`, but that each model is built once: for many checkpoints."""
    found: dict[str | None, Target] = {}

    def find(project: Project, request: Request) -> Target:
        if request.model not in found:
            found[request.model] = find_target(project, request)
        return found[request.model]

    return find
