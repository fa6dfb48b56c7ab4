"""The opcodes of pickle protocols 0 to 5, as a table, and the loop over them.

Left out are those of Python 2's classes (INST, OBJ), of text escapes (STRING, PERSID), of the
extension registry and of out-of-band buffers; torch writes none of them. The loop never recurses,
however deep the values are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.pickle_machine import Ended, Machine
from ckmigrate.formats.pickle_values import integer, line_float, line_int, text_of

__all__ = ["run"]

Operation = Callable[[Machine], None]

_STOP: Final = 0x2E
_HIGHEST_PROTOCOL: Final = 5


def run(machine: Machine) -> object:
    """The value at STOP; `machine.pos` is then behind it.

    Raises BadPickle, Ended when the data ends before, IndexError when the stack has too little.
    """
    data, size = machine.data, len(machine.data)
    while machine.pos < size:
        machine.begin = machine.pos
        code = data[machine.pos]
        machine.pos += 1
        operation = _OPERATIONS.get(code)
        if operation is not None:
            operation(machine)
        elif code == _STOP:
            return machine.stop()
        else:
            why = _LEFT_OUT.get(code, "no such opcode exists")
            raise BadPickle(f"opcode 0x{code:02x} is not supported", why=why)
    raise Ended


def _push(value: Callable[[Machine], object]) -> Operation:
    """An opcode that leaves one more value."""
    return lambda m: m.stack.append(value(m))


def _fold(value: Callable[[Machine, list[object]], object]) -> Operation:
    """An opcode that makes one value of all since the mark."""

    def operation(m: Machine) -> None:
        items = m.pop_mark()
        m.stack.append(value(m, items))

    return operation


def _tuple(count: int) -> Operation:
    def operation(m: Machine) -> None:
        items = [m.stack.pop() for _ in range(count)]
        m.stack.append(tuple(reversed(items)))

    return operation


def _protocol(m: Machine) -> None:
    if m.number(1) > _HIGHEST_PROTOCOL:
        raise BadPickle(f"it has a protocol above {_HIGHEST_PROTOCOL}")


def _frame(m: Machine) -> None:
    """A frame is a hint for buffering; one that does not fit tells that the file was cut."""
    if m.number(8) > len(m.data) - m.pos:
        raise Ended


def _mark(m: Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _popped_mark(m: Machine) -> None:
    m.pop_mark()


def _float(m: Machine) -> float:
    value: float = struct.unpack(">d", m.take(8))[0]
    return value


def _signed(m: Machine) -> int:
    return int.from_bytes(m.take(4), "little", signed=True)


def _length(m: Machine) -> int:
    """BINSTRING and LONG4 have signed lengths."""
    length = _signed(m)
    if length < 0:
        raise BadPickle("a length is negative")
    return length


def _old_string(raw: bytes) -> object:
    """Python 2's str is text or bytes; torch reads it as UTF-8, and arrays are none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _text(width: int) -> Operation:
    return _push(lambda m: text_of(m.take(m.number(width))))


def _bytes(width: int) -> Operation:
    return _push(lambda m: m.take(m.number(width)))


def _index(m: Machine) -> int:
    return int(line_int(m.line()))


def _reduce(m: Machine) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    m.stack.append(m.call(function, args))


def _new(m: Machine) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    m.stack.append(m.create(function, args))


def _new_with_keywords(m: Machine) -> None:
    kwargs, args, function = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.stack.append(m.create(function, args, kwargs))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.stack.append(m.name(module, name))


def _persistent(m: Machine) -> None:
    m.stack.append(m.persistent(m.stack.pop()))


def _append(m: Machine) -> None:
    item = m.stack.pop()
    m.append([item])


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


_OPERATIONS: Final[Mapping[int, Operation]] = {
    0x80: _protocol,
    0x95: _frame,
    # numbers and constants
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("I"): _push(lambda m: line_int(m.line())),
    ord("L"): _push(lambda m: int(line_int(m.line()))),
    ord("F"): _push(lambda m: line_float(m.line())),
    ord("J"): _push(_signed),
    ord("K"): _push(Machine.byte),
    ord("M"): _push(lambda m: m.number(2)),
    0x8A: _push(lambda m: integer(m.take(m.number(1)))),
    0x8B: _push(lambda m: integer(m.take(_length(m)))),
    ord("G"): _push(_float),
    # text and bytes
    ord("V"): _push(lambda m: text_of(m.take_line(), "raw-unicode-escape")),
    0x8C: _text(1),
    ord("X"): _text(4),
    0x8D: _text(8),
    ord("C"): _bytes(1),
    ord("B"): _bytes(4),
    0x8E: _bytes(8),
    0x96: _push(lambda m: bytearray(m.take(m.number(8)))),
    ord("U"): _push(lambda m: _old_string(m.take(m.number(1)))),
    ord("T"): _push(lambda m: _old_string(m.take(_length(m)))),
    # containers
    ord("("): _mark,
    ord("0"): Machine.discard,
    ord("1"): _popped_mark,
    ord("2"): _push(lambda m: m.stack[-1]),
    ord(")"): _push(lambda m: ()),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): _fold(lambda m, items: tuple(items)),
    ord("]"): _push(lambda m: []),
    ord("l"): _fold(lambda m, items: items),
    ord("a"): _append,
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("}"): _push(lambda m: {}),
    ord("d"): _fold(Machine.dictionary),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    0x8F: _push(lambda m: set()),
    0x90: lambda m: m.add(m.pop_mark()),
    0x91: _fold(Machine.frozen),
    # the memo
    ord("p"): lambda m: m.remember(_index(m)),
    ord("q"): lambda m: m.remember(m.byte()),
    ord("r"): lambda m: m.remember(m.number(4)),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("g"): lambda m: m.recall(_index(m)),
    ord("h"): lambda m: m.recall(m.byte()),
    ord("j"): lambda m: m.recall(m.number(4)),
    # names, calls, storages
    ord("c"): _push(lambda m: m.name(m.line(), m.line())),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new,
    0x92: _new_with_keywords,
    ord("b"): lambda m: m.build(m.stack.pop()),
    ord("Q"): _persistent,
}

_LEFT_OUT: Final[Mapping[int, str]] = {
    ord("i"): "INST makes an instance of a class of Python 2",
    ord("o"): "OBJ makes an instance of a class of Python 2",
    ord("S"): "STRING is a quoted text of protocol 0",
    ord("P"): "PERSID is a storage in the way of protocol 0",
    0x82: "EXT1 names a class by a number that only its writer knows",
    0x83: "EXT2 names a class by a number that only its writer knows",
    0x84: "EXT4 names a class by a number that only its writer knows",
    0x97: "NEXT_BUFFER takes bytes from outside the file",
    0x98: "READONLY_BUFFER takes bytes from outside the file",
}
