"""The JSON header of a safetensors file, checked.

The header maps a name to {"dtype", "shape", "data_offsets": [begin, end)}, in bytes from the start
of the data; the reserved name "__metadata__" maps strings to strings. Pure: bytes in, entries out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Never

from ckmigrate.spec import DType, TensorSpec

__all__ = ["DTYPES", "METADATA", "Entry", "Malformed", "check_size", "is_unicode", "parse"]

METADATA: Final = "__metadata__"
DTYPES: Final[Mapping[object, DType]] = {d.code: d for d in DType if d is not DType.C128}

_LIMIT: Final = 2**63 - 1
_FIELDS: Final = frozenset({"dtype", "shape", "data_offsets"})


class Malformed(ValueError):  # noqa: N818
    """What is wrong with a header; `read` adds the path."""

    def __init__(self, code: str, what: str, why: str | None = None) -> None:
        super().__init__(what)
        self.code, self.what, self.why = code, what, why


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header; `begin` and `end` count from the start of the data."""

    name: str
    spec: TensorSpec
    begin: int
    end: int


def parse(raw: bytes, available: int) -> tuple[dict[str, str], list[Entry]]:
    """The metadata and the tensors, in the order of their data, of a header with `available` bytes
    of data behind it.

    Raises Malformed CKM700 (data missing), CKM701 (not JSON, duplicate keys), CKM702 (metadata),
    CKM703 (dtype or shape), CKM704 (offsets).
    """
    document = _document(raw)
    metadata = _metadata(document.pop(METADATA, {}))
    entries = sorted(
        (_entry(name, fields) for name, fields in document.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    _check_cover(entries, available)
    return metadata, entries


def _document(raw: bytes) -> dict[str, object]:
    """The header as a dict; RecursionError and every decoding error become CKM701."""
    if raw[:1] != b"{":
        raise Malformed("CKM701", "the safetensors header does not begin with '{'")
    try:
        document: object = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except Malformed:
        raise
    except UnicodeError as error:
        raise Malformed("CKM701", "the safetensors header is not UTF-8", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise Malformed("CKM701", "the safetensors header is not JSON", str(error)) from None
    assert isinstance(document, dict)  # it begins with '{' and it is JSON
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object of which every key is valid Unicode and appears once."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise Malformed("CKM701", f"the safetensors header has {key!r} twice")
        if not is_unicode(key):
            raise Malformed("CKM701", f"the safetensors header has the invalid key {key!r}")
        found[key] = value
    return found


def _no_constant(text: str) -> Never:
    raise ValueError(f"{text} is not a JSON value")


def is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogate, which JSON escapes can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeError:
        return False
    return True


def _metadata(value: object) -> dict[str, str]:
    """`__metadata__`, checked: an object of strings."""
    if not isinstance(value, dict):
        raise Malformed("CKM702", "__metadata__ is not an object", f"it is {value!r:.80}")
    for key, text in value.items():
        if not isinstance(text, str) or not is_unicode(text):
            raise Malformed(
                "CKM702", f"__metadata__ of {key!r} is not a string", f"it is {text!r:.80}"
            )
    return value


def _entry(name: str, fields: object) -> Entry:
    """One tensor's description, checked for itself."""
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise Malformed(
            "CKM703",
            f"the entry of tensor {name!r} is not a dtype, a shape and data_offsets",
            f"it is {fields!r:.200}",
        )
    spec = TensorSpec(_dtype(name, fields["dtype"]), _shape(name, fields["shape"]))
    check_size(name, spec)
    offsets = fields["data_offsets"]
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Malformed(
            "CKM704",
            f"data_offsets of tensor {name!r} are not a begin and an end",
            f"they are {offsets!r:.80}",
        )
    begin, end = offsets
    if end - begin != spec.nbytes:
        raise Malformed(
            "CKM704",
            f"tensor {name!r} has {end - begin} bytes of data",
            f"{spec} needs {spec.nbytes} (data_offsets are {begin} and {end})",
        )
    return Entry(name, spec, begin, end)


def _dtype(name: str, code: object) -> DType:
    if not isinstance(code, str) or code not in DTYPES:
        raise Malformed(
            "CKM703",
            f"tensor {name!r} has the unknown dtype {code!r:.80}",
            f"known are {', '.join(map(str, DTYPES))}",
        )
    return DTYPES[code]


def _shape(name: str, shape: object) -> tuple[int, ...]:
    if not _are_counts(shape):
        raise Malformed(
            "CKM703",
            f"the shape of tensor {name!r} is not a list of sizes",
            f"it is {shape!r:.80}; sizes are whole numbers from 0",
        )
    assert isinstance(shape, list)
    return tuple(shape)


def _are_counts(value: object) -> bool:
    """Whether this is a list of integers from 0 to 2**63 - 1; true and 1.0 are none."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _LIMIT for n in value)


def check_size(name: str, spec: TensorSpec) -> None:
    """Refuse products that overflow 64 bits, even hidden behind a size of 0, and half bytes."""
    # Stops at the first excess: a header may list thousands of sizes whose product is gigantic.
    nbits = accumulate(spec.shape, lambda n, size: n * max(size, 1), initial=spec.dtype.bits)
    if any(n > _LIMIT for n in nbits):
        raise Malformed(
            "CKM703",
            f"tensor {name!r} is impossibly large",
            f"the number of bits of {spec!s:.200} does not fit into 63 bits",
        )
    if spec.nbits % 8:
        raise Malformed(
            "CKM703",
            f"tensor {name!r} does not end at a whole byte",
            f"{spec} has {spec.numel} elements of {spec.dtype.bits} bits",
        )


def _check_cover(entries: Sequence[Entry], available: int) -> None:
    """The data belongs to tensors from its first byte to its last, each byte to one."""
    position, previous = 0, None
    for entry in entries:
        if entry.begin != position:
            kind = "leaves a hole after" if entry.begin > position else "overlaps"
            raise Malformed(
                "CKM704",
                f"the data of tensor {entry.name!r} {kind} "
                + (f"tensor {previous!r}" if previous is not None else "the header"),
                f"it begins at {entry.begin}, and the data before it ends at {position}",
            )
        position, previous = entry.end, entry.name
    if position > available:
        raise Malformed(
            "CKM700",
            f"the file is truncated: {position - available} bytes of data are missing",
            f"tensor {previous!r} ends at {position}, and the file has {available} bytes of data",
        )
    if position < available:
        raise Malformed(
            "CKM704",
            f"{available - position} bytes at the end of the file belong to no tensor",
            f"the tensors need {position} bytes of data, and the file has {available}",
        )
