"""The digest of a revision: of what its operations do, not of how its script is written.

Algorithm 2 reads the resolved steps: which entries become which, by which kernel with which
numbers, which metadata are edited, and which functions compute. It stays the same under another
formatter, other comments, line ends, versions of Python, numpy and torch; texts that only explain,
such as the reason of a drop, are left out. Where a call finds nothing on the snapshot, and where a
script asks for an entry that is not there, the question itself counts.

Algorithm 1, in the tags of checkpoints, is `TracedScript.digest`: of the text of the calls.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from enum import Enum

from ckmigrate.compile import TracedScript, start, trace
from ckmigrate.expr import Call
from ckmigrate.function_text import ScriptText
from ckmigrate.meta import MetaEdit
from ckmigrate.operations.assign import Assign
from ckmigrate.operations.rename import Renames
from ckmigrate.recorder import Record
from ckmigrate.spec import DType
from ckmigrate.step import Step

__all__ = ["ALGORITHM", "comparable_digest", "digest"]

ALGORITHM = 2

_DIGITS = 16
_PROSE = frozenset({"reason", "text", "label"})
_LATER = frozenset({"moments"})


def digest(traced: TracedScript, params: Mapping[str, object]) -> str:
    """ "2:" and sixteen hexadecimal digits; `params` are those that it was traced with."""
    own = _on_its_own(traced, params)
    text = _Text(ScriptText(own.script.source, str(own.script.path)))
    hasher = hashlib.sha256()
    for record in own.records:
        for piece in text.pieces(record):
            hasher.update(piece.encode(errors="surrogatepass") + b"\n")
    hasher.update(ascii(sorted(own.absent)).encode())
    return f"{ALGORITHM}:{hasher.hexdigest()[:_DIGITS]}"


def comparable_digest(
    traced: TracedScript, params: Mapping[str, object], recorded: str
) -> str | None:
    """The digest by the algorithm of a recorded one; None where that one is not known here."""
    algorithm = recorded.partition(":")[0]
    if algorithm == "1":
        return traced.digest
    return digest(traced, params) if algorithm == str(ALGORITHM) else None


def _on_its_own(traced: TracedScript, params: Mapping[str, object]) -> TracedScript:
    """The script on a checkpoint that begins with it: in a chain, the expressions that it assigns
    hold what earlier scripts did."""
    if not any(_assigns(record) for record in traced.records):
        return traced
    before = traced.before
    state = start(before.schema, ties=before.ties, meta=before.meta)
    return trace((traced.script,), state, params).scripts[0]


def _assigns(record: Record) -> bool:
    return any(isinstance(step.kernel, Assign) for step in record.steps[:1])


@dataclasses.dataclass(frozen=True, slots=True)
class _Text:
    """Values as text that depends on nothing but the values."""

    script: ScriptText
    calls: dict[Call, str] = dataclasses.field(default_factory=dict)

    def pieces(self, record: Record) -> Iterator[str]:
        steps = record.steps
        if record.edit is not None:
            yield self.value(_without_old(record.edit))
        elif not steps:
            yield f"nothing for {record.operation}({record.arguments})"
        elif isinstance(steps, Renames):
            yield f"Same {len(steps)}"
            yield from map("\0".join, (steps.old, steps.new))
        else:
            for kernel, run in itertools.groupby(steps, _kernel):
                yield self.value(kernel)
                yield "\0\0".join(["\0".join((*s.sources, "\0", *s.targets)) for s in run])

    def value(self, value: object) -> str:
        """A number, text, spec, expression, kernel, function, or a collection of them."""
        if value is None or isinstance(value, bool | int | str | bytes):
            return ascii(value)
        if isinstance(value, float):
            return f"{value:.12g}"  # the last bits of 5**0.5 are those of a platform
        if isinstance(value, complex):
            return f"({value.real:.12g}, {value.imag:.12g})"
        if isinstance(value, DType):
            return value.code
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.value, value))}]"
        if isinstance(value, Mapping):
            return self.value(sorted(value.items(), key=lambda item: ascii(item[0])))
        return self._object(value)

    def _object(self, value: object) -> str:
        if isinstance(value, Call):
            return self._call(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._fields(value)
        if callable(value) or isinstance(value, functools.partial):
            return self.script.function(value, self.value)
        return f"{type(value).__name__} {value.name if isinstance(value, Enum) else ''}"

    def _call(self, call: Call) -> str:
        """By a digest of its own: results of one call stand in many expressions."""
        if call not in self.calls:
            text = self._fields(call)
            self.calls[call] = f"Call {hashlib.sha256(text.encode()).hexdigest()}"
        return self.calls[call]

    def _fields(self, value: object) -> str:
        fields = [
            f"{field.name}={self.value(getattr(value, field.name))}"
            for field in dataclasses.fields(value)  # type: ignore[arg-type]
            if field.name not in _PROSE and not _is_not_given(field.name, value)
        ]
        return f"{type(value).__name__}({', '.join(fields)})"


def _is_not_given(name: str, value: object) -> bool:
    """Arguments that operations got later count where a script gives them: digests last."""
    return name in _LATER and getattr(value, name) is None


def _kernel(step: Step) -> object:
    return step.kernel


def _without_old(edit: MetaEdit) -> MetaEdit:
    """The old value is the file's, not the script's."""
    return MetaEdit(edit.kind, edit.path, edit.new, edit.value, optional=edit.optional)
