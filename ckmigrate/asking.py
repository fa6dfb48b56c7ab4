"""What the Python interface is asked for: the project, and the options that it shares with the
command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from ckmigrate.errors import UsageError
from ckmigrate.opened import Policy, Request
from ckmigrate.project import Project, find_project
from ckmigrate.report.units import parse_size

__all__ = ["Options", "Place", "Reading", "Resuming", "make_request", "project_at"]

Place = Project | Path | str
"""A project: its folder or one below it, its configuration file, or what was read of it."""


class Reading(TypedDict, total=False):
    """How a checkpoint is read; named as on the command line.

    weights        where the state dict sits, such as "net.ema"
    carry          classes that a torch file may name
    params         values for `ck.params` (`--param`)
    from_revision  where the checkpoint is at (`--from`)
    """

    weights: str | None
    carry: Sequence[str]
    params: Mapping[str, object]
    from_revision: str | None


class Resuming(Reading, total=False):
    """What a whole training checkpoint is migrated with, as the options of the same names.

    model           which of several configured models
    optimizer, ema  "carry" or "drop": what becomes of training state
    param_order     names of the parameters of the optimizers of the file, over all of their groups
    max_memory      refuse a step that needs more: bytes, or a text such as "2GiB"
    """

    model: str | None
    optimizer: Policy
    ema: Policy
    param_order: Sequence[str] | None
    max_memory: int | str | None


class Options(Resuming, total=False):
    """What may become of a checkpoint besides.

    weights_only    leave everything but the weights behind
    unwrap          write names without a wrapper's prefix
    max_shard_size  write a folder of files of that size: bytes, or a text such as "5GB"
    to_format       "dcp" writes a torch distributed checkpoint
    verify          "full" also runs verify(old, new) of the scripts
    """

    weights_only: bool
    unwrap: bool
    max_shard_size: int | str | None
    to_format: Literal["dcp"] | None
    verify: Literal["full"] | None


_ALLOWED: Mapping[str, tuple[object, ...]] = {
    "optimizer": get_args(Policy),
    "ema": get_args(Policy),
    "to_format": ("dcp", None),
    "verify": ("full", None),
}


def project_at(place: Place | None) -> Project:
    """The project of a place; of the working directory where none is given. UsageError CKM20x."""
    if isinstance(place, Project):
        return place
    path = Path.cwd() if place is None else Path(place)
    return find_project(path) if path.is_dir() else find_project(path.parent, config=path)


def make_request(options: Options | Reading, **more: Any) -> Request:
    """A request of these options; `more` are fields of it.

    TypeError for an option that there is none of; UsageError CKM270 for a value that is none, and
    as `parse_size`.
    """
    given: dict[str, Any] = {**options}
    for name, allowed in _ALLOWED.items():
        if name in given and given[name] not in allowed:
            what = f"{name}={given[name]!r} is no choice"
            fix = f"It is one of {', '.join(map(repr, allowed))}."
            raise UsageError("CKM270", what, fix=fix)
    for name in ("max_shard_size", "max_memory"):
        if isinstance(given.get(name), str):
            given[name] = parse_size(given[name])
    given["full_verify"] = given.pop("verify", None) == "full"
    if given.get("param_order") is not None:
        given["param_order"] = tuple(given["param_order"])
        given["param_order_source"] = "param_order"
    given["carry"] = tuple(given.get("carry", ()))
    return Request(**given, **more)
