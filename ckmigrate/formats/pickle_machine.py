"""The state of the pickle machine, and what the opcodes do to it: inert values, nothing is run.

No length prefix is believed before the bytes are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ckmigrate.formats.pickle_globals import BadPickle, canonical, role_of, unsupported
from ckmigrate.formats.pickle_tensors import rebuild
from ckmigrate.formats.pickle_values import (
    Budget,
    check_key,
    check_members,
    evaluate,
    ordered_pairs,
    text_of,
)
from ckmigrate.formats.tree import Global, Object, Tensor

__all__ = ["Ended", "Machine"]

_LONGEST_LINE: Final = 4096
_ORDERED_DICT: Final = Global("collections", "OrderedDict")
_PARAMETER: Final = Global("torch.nn.parameter", "Parameter")


class Ended(Exception):  # noqa: N818
    """The data ended inside the pickle."""


class Machine:
    """One run over `data` from `pos` on.

    The methods raise BadPickle, Ended, and IndexError when the stack has too little.

    begin    where the current opcode began, for messages
    refused  the names that are not allowed, in order; they get stand-ins so that all can be told
    """

    __slots__ = (
        "begin",
        "budget",
        "carry",
        "data",
        "fresh",
        "marks",
        "memo",
        "persistent",
        "pos",
        "refused",
        "stack",
    )

    def __init__(
        self,
        data: bytes,
        start: int,
        *,
        persistent: Callable[[object], object],
        carry: Sequence[str],
    ) -> None:
        self.data, self.pos, self.begin = data, start, start
        self.persistent, self.carry = persistent, tuple(carry)
        self.budget = Budget(len(data) - start)
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.fresh: object = None
        self.refused: dict[Global, int] = {}

    # --- arguments in the data ---------------------------------------------------------------

    def take(self, count: int) -> bytes:
        end = self.pos + count
        if end > len(self.data):
            raise Ended
        raw = self.data[self.pos : end]
        self.pos = end
        return raw

    def byte(self) -> int:
        """The most frequent argument, without a detour through bytes."""
        if self.pos == len(self.data):
            raise Ended
        self.pos += 1
        return self.data[self.pos - 1]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        return text_of(self.take_line())

    def take_line(self) -> bytes:
        end = self.data.find(b"\n", self.pos, self.pos + _LONGEST_LINE)
        if end < 0 and self.pos + _LONGEST_LINE > len(self.data):
            raise Ended
        if end < 0:
            raise BadPickle(f"a line is longer than {_LONGEST_LINE} bytes")
        return self.take(end + 1 - self.pos)[:-1]

    # --- the stack and the memo --------------------------------------------------------------

    def pop_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]
        self.fresh = None

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise BadPickle(f"the memo has no entry {index}")
        self.stack.append(self.memo[index])

    def discard(self) -> None:
        """Drop the top. Python's pickler drops a fresh object only to take its twin from the memo;
        any other was called for an effect, which would be lost silently."""
        if not self.stack:
            self.pop_mark()
            return
        gone = self.stack.pop()
        follows = self.data[self.pos : self.pos + 1]
        if gone is self.fresh and isinstance(gone, Object) and follows not in (b"g", b"h", b"j"):
            raise BadPickle(f"the result of {gone.factory} is thrown away")

    def stop(self) -> object:
        value = self.stack.pop()
        if self.stack or self.marks:
            raise BadPickle("it stops with values left on the stack")
        return value

    # --- names and calls ---------------------------------------------------------------------

    def name(self, module: object, name: object) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("the name of a class is no text")
        found = canonical(module, name)
        role = role_of(found, self.carry)
        if role == "forbidden":
            raise BadPickle(str(found), code="CKM712")
        if role == "unsupported":
            raise BadPickle(f"{unsupported(found)} ({found}) is not supported", code="CKM713")
        if role == "unknown":
            self.refused.setdefault(found, self.begin)
        return found

    def call(self, function: object, args: object) -> object:
        """What REDUCE leaves: a value, a Tensor, or a recipe."""
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise BadPickle("it calls what is no class and no function")
        role = role_of(function, self.carry)
        if role == "builtin":
            return evaluate(function, args, self.budget)
        if role == "tensor":
            return rebuild(function, args)
        if role == "value":
            raise BadPickle(f"it calls {function}, which is not there to be called")
        return self.made(Object(function, args))

    def create(self, function: object, args: object, kwargs: object = None) -> Object:
        """What NEWOBJ and NEWOBJ_EX leave."""
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise BadPickle("it makes an instance of what is no class")
        if function == _PARAMETER:
            raise BadPickle("a parameter as torch 0.3 wrote it is not supported", code="CKM713")
        if role_of(function, self.carry) not in ("factory", "unknown"):
            raise BadPickle(f"it makes an instance of {function}, which is no plain class")
        return self.made(Object(function, args, _keywords(kwargs) or None, new=True))

    def made(self, new: Object) -> Object:
        self.fresh = new
        if new.factory == _ORDERED_DICT and new.args:
            self.fill(new.entries, ordered_pairs(new.args, self.budget))
            new.args = ()
        return new

    def build(self, state: object) -> None:
        target = self.stack[-1]
        if isinstance(target, Tensor):
            raise BadPickle("a tensor with a state of its own is not supported", code="CKM713")
        if not isinstance(target, Object) or target.has_state:
            raise BadPickle("it sets the state of what has none, or a second time")
        target.has_state, target.state = True, state

    # --- containers --------------------------------------------------------------------------

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Object) and not target.has_state:
            target.items.extend(items)
        else:
            raise BadPickle(f"it appends to a {type(target).__name__}")

    def set_items(self, flat: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            self.fill(target, flat)
        elif isinstance(target, Object) and not target.has_state:
            self.fill(target.entries, flat)
        else:
            raise BadPickle(f"it sets entries of a {type(target).__name__}")

    def fill(self, target: dict[object, object], flat: list[object]) -> None:
        if len(flat) % 2:
            raise BadPickle("a key has no value")
        for index in range(0, len(flat), 2):
            check_key(flat[index], self.budget)
            target[flat[index]] = flat[index + 1]

    def dictionary(self, flat: list[object]) -> dict[object, object]:
        made: dict[object, object] = {}
        self.fill(made, flat)
        return made

    def frozen(self, items: list[object]) -> frozenset[object]:
        check_members(items, self.budget)
        return frozenset(items)

    def add(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise BadPickle(f"it adds to a {type(target).__name__}")
        check_members(items, self.budget)
        target.update(items)


def _keywords(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadPickle("keyword arguments are no dict of names")
    return dict(value)
