"""Pickles as inert trees: `loads` reads one without running it, `dumps` writes one.

A name in the file is never imported. What may be named is in `pickle_globals`; project classes can
be carried along as stand-ins. A tree is at most MAX_DEPTH levels deep, and a container in it may
hold itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.pickle_limits import MAX_DEPTH, check_limits
from ckmigrate.formats.pickle_machine import Ended, Machine
from ckmigrate.formats.pickle_opcodes import run
from ckmigrate.formats.pickle_writer import dumps
from ckmigrate.formats.tree import Global, Object

__all__ = ["MAX_DEPTH", "Truncated", "dumps", "load_prefix", "loads"]

Persistent = Callable[[object], object]

_AGAIN: Final = "Download or copy the file again; if it stays so, save it again with torch.save."
_KIND: Final = "Replace it before saving: a dense, detached tensor on the CPU can be migrated."
_DANGEROUS: Final = (
    "Do not load this file with torch.load(weights_only=False) or pickle. If you trust where it "
    "comes from, load it there and save only model.state_dict()."
)
_CARRIED: Final = (
    "A carried class is not imported here, but it is written back under its own name, and whoever "
    "loads the result with pickle runs it: carry only what you trust."
)
_MODULE: Final = (
    "The file holds a whole model rather than its weights: with the code it was saved by, load it "
    "and save model.state_dict() instead."
)


class Truncated(StorageError):  # noqa: N818
    """The data ended inside the pickle; with more data it may be whole."""


def loads(
    data: bytes, *, persistent: Persistent, carry: Sequence[str] = (), source: str = "the pickle"
) -> object:
    """The tree that `data`, one whole pickle, describes.

    persistent  gives the Storage of a persistent id; raises BadPickle for one it does not know
    carry       names of project classes to keep as stand-ins: "pkg.mod.Name" or "pkg.mod.*"
    source      what error messages call the pickle, such as its path

    Raises StorageError, never anything else: CKM710 malformed, CKM711 a class that is not allowed,
    CKM712 one that can never be, CKM713 a kind of tensor that is not supported.
    """
    value, end = load_prefix(data, 0, persistent=persistent, carry=carry, source=source)
    if end != len(data):
        raise _problem(BadPickle(f"{len(data) - end} bytes follow its end"), source, end)
    return value


def load_prefix(
    data: bytes,
    start: int,
    *,
    persistent: Persistent,
    carry: Sequence[str] = (),
    source: str = "the pickle",
) -> tuple[object, int]:
    """Like `loads`, for a pickle that begins at `start` and that anything may follow; also returns
    where it ends. Raises `Truncated`, a StorageError, when `data` ends first."""
    machine = Machine(data, start, persistent=persistent, carry=carry)
    try:
        value = run(machine)
        check_limits(value, machine.pos - start)
    except BadPickle as bad:
        raise _blame(bad, machine, source) from None
    except IndexError:
        empty = BadPickle("an opcode takes more from the stack than there is")
        raise _blame(empty, machine, source) from None
    except Ended:
        where = f"{source}, byte {len(data)}"
        raise Truncated("CKM710", "the pickle is cut off", where=where, fix=_AGAIN) from None
    if machine.refused:
        raise _refused(machine.refused, source, value)
    return value, machine.pos


def _blame(bad: BadPickle, machine: Machine, source: str) -> StorageError:
    """A stand-in for a class that is not allowed may be what went wrong: say that first."""
    if bad.code == "CKM710" and machine.refused:
        return _refused(machine.refused, source, None)
    return _problem(bad, source, machine.begin)


def _problem(bad: BadPickle, source: str, position: int) -> StorageError:
    where = f"{source}, byte {position}"
    if bad.code == "CKM712":
        return _forbidden(bad.what, where)
    fix = _KIND if bad.code == "CKM713" else _AGAIN
    what = bad.what if bad.code == "CKM713" else f"the pickle is malformed: {bad.what}"
    return StorageError(bad.code, what, where=where, why=bad.why, fix=fix)


def _forbidden(name: str, where: str) -> StorageError:
    return StorageError(
        "CKM712",
        f"the file names {name}, which runs code when the file is loaded with pickle",
        where=where,
        why="It cannot be carried: no checkpoint needs it as data.",
        fix=_DANGEROUS,
    )


def _refused(names: dict[Global, int], source: str, value: object) -> StorageError:
    dotted = [str(name) for name in names]
    listed = ", ".join(f'"{name}"' for name in dotted)
    flags = " ".join(f"--carry {name}" for name in dotted)
    fix = f"add carry = [{listed}] to [tool.ckmigrate], or pass {flags}. {_CARRIED}"
    module = _is_module(names, value)
    first = next(iter(names.items()))
    count = len(names) - 1
    others = f" and {count} more, which are" if count else ", which is"
    return StorageError(
        "CKM711",
        f"the file needs {first[0]}{others} not in the list of plain data classes",
        where=f"{source}, byte {first[1]}",
        why="Loading a pickle runs what it names; only listed names pass.",
        fix=f"{_MODULE} Otherwise: {fix}" if module else f"{fix[0].upper()}{fix[1:]}",
        details=tuple(dotted) if len(dotted) > 1 else (),
    )


def _is_module(names: Iterable[Global], value: object) -> bool:
    whole = isinstance(value, Object) and value.factory in set(names)
    return whole or any(name.module.startswith("torch.nn.modules") for name in names)
