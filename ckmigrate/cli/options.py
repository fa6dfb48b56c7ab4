"""Options that several verbs share, and the requests that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ckmigrate.migrate import Request

__all__ = [
    "batch_options",
    "make_request",
    "output_options",
    "path_argument",
    "paths_argument",
    "reading_options",
    "result_options",
]

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)

paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
path_argument = click.argument("path", metavar="PATH", type=PATH)


class _Jobs(click.ParamType[int]):
    """A number of processes, or `auto`: one for each processor."""

    name = "jobs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> int:
        """The number; click's UsageError where it is none."""
        if value == "auto":
            return len(os.sched_getaffinity(0))
        if not str(value).isascii() or not str(value).isdigit() or int(value) < 1:
            self.fail(f"'{value}' is not a number of processes, nor `auto`", param, ctx)
        return int(value)


_READING = (
    click.option("--weights", metavar="KEYS", help="Where the state dict sits, such as net.ema."),
    click.option(
        "--carry", metavar="CLASS", multiple=True, help="A class that a torch file may name."
    ),
    click.option(
        "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
    ),
)

_RESULT = (
    click.option("--from", "from_revision", metavar="REV", help="Where the checkpoint is at."),
    click.option("--model", metavar="NAME", help="Which of several configured models."),
    click.option("--weights-only", is_flag=True, help="Leave everything but the weights behind."),
    click.option("--unwrap", is_flag=True, help="Write names without a wrapper's prefix."),
    click.option(
        "--optimizer",
        type=click.Choice(["carry", "drop"]),
        help="Optimizer state follows the weights (carry, as without this), or stays behind.",
    ),
    click.option(
        "--ema",
        type=click.Choice(["carry", "drop"]),
        help="The same for copies of the weights: EMA, SWA, shadow.",
    ),
    click.option(
        "--param-order",
        metavar="FILE",
        type=PATH,
        help="Names of the optimizer's parameters in its order, where they are not certain.",
    ),
    click.option("--max-shard-size", metavar="SIZE", help="Write a folder of such files, as 5GB."),
    click.option(
        "--to-format", type=click.Choice(["dcp"]), help="Write a torch distributed checkpoint."
    ),
    click.option(
        "--max-memory",
        metavar="SIZE",
        help="Refuse a step of one checkpoint that needs more, as 2GiB.",
    ),
    click.option(
        "--verify",
        "verification",
        type=click.Choice(["full"]),
        help="Also run verify(old, new) of the scripts.",
    ),
)

_OUTPUT = (
    click.option("-o", "--output", "out", metavar="OUT", help="The file to write, or a folder/."),
    click.option("--out-dir", metavar="DIR", type=PATH, help="Write under the same names there."),
    click.option("--in-place", is_flag=True, help="Replace the file; the old one stays as a .bak."),
    click.option("--fast", is_flag=True, help="With --in-place: change headers only, or refuse."),
    click.option("--no-backup", is_flag=True, help="Keep no old version with --in-place."),
    click.option("--overwrite", is_flag=True, help="Replace an output that exists."),
)

_BATCH = (
    click.option("--jobs", metavar="N", type=_Jobs(), default=1, help="Processes; or `auto`."),
    click.option("--keep-going", is_flag=True, help="Try all checkpoints, also after a failure."),
    click.option("--copy-current", is_flag=True, help="With --out-dir, write what is current too."),
)


def reading_options(function: F) -> F:
    """How a checkpoint is read: --weights, --carry, --param."""
    return _with(_READING, function)


def result_options(function: F) -> F:
    """What the migration is asked for; with `reading_options`, the fields of a Request."""
    return _with(_RESULT, function)


def output_options(function: F) -> F:
    """Where results go; the fields of a `Placement`."""
    return _with(_OUTPUT, function)


def batch_options(function: F) -> F:
    """How many checkpoints are done: --jobs, --keep-going, --copy-current."""
    return _with(_BATCH, function)


def make_request(
    *,
    to: str = "head",
    use_model: bool = True,
    weights: str | None = None,
    carry: tuple[str, ...] = (),
    params: tuple[str, ...] = (),
    from_revision: str | None = None,
    model: str | None = None,
    weights_only: bool = False,
    unwrap: bool = False,
    optimizer: str | None = None,
    ema: str | None = None,
    param_order: Path | None = None,
    max_memory: str | None = None,
    max_shard_size: str | None = None,
    to_format: str | None = None,
    verification: str | None = None,
) -> Request:
    """A request from the values of the options; UsageError for a bad --param, --max-memory or
    --param-order."""
    from ckmigrate.cli.param_order import read_param_order
    from ckmigrate.migrate import Request
    from ckmigrate.report.units import parse_size
    from ckmigrate.settings import parse_params

    return Request(
        to=to,
        from_revision=from_revision,
        model=model,
        use_model=use_model,
        params=parse_params(params),
        weights=weights,
        carry=carry,
        optimizer="drop" if optimizer == "drop" else "carry",
        ema="drop" if ema == "drop" else "carry",
        param_order=None if param_order is None else read_param_order(param_order),
        param_order_source=str(param_order or ""),
        weights_only=weights_only,
        unwrap=unwrap,
        max_memory=None if max_memory is None else parse_size(max_memory),
        max_shard_size=None if max_shard_size is None else max(1, parse_size(max_shard_size)),
        to_format="dcp" if to_format == "dcp" else None,
        full_verify=verification == "full",
    )


def _with(options: tuple[Callable[[F], F], ...], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function
