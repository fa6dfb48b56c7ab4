"""What an exported program does at run time; the text of this module becomes part of it.

Nothing here may come from ckmigrate. Tensors are numpy arrays of opaque items, as wide as their
elements and in the tensor's shape, so that whatever is only moved stays the same to the last bit.
Dtypes are the codes of the safetensors format.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "Spec",
    "call",
    "cast",
    "constant",
    "expand",
    "main",
    "read",
    "require_equal",
    "strided",
    "write",
]

TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
    "C128": "complex128",
}
WIDTHS = {
    code: 1 if code == "BOOL" else int(code.split("_")[0].lstrip("BFIUC")) // 8
    for code in TORCH_NAMES
}

USUAL_KEYS = ("state_dict", "model", "model_state_dict", "module")


class Spec(NamedTuple):
    """Dtype and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def fail(text: str) -> Any:
    """End the program; nothing was written."""
    raise SystemExit(f"error: {text}")


def expand(lines: dict[str, str]) -> dict[str, Spec]:
    """Names and specs of lines such as {"blocks.{0..3}.weight": "F32[4,4]"}."""
    found: dict[str, Spec] = {}
    for pattern, text in lines.items():
        dtype, _, sizes = text.rstrip("]").partition("[")
        spec = Spec(dtype, tuple(int(size) for size in sizes.split(",") if size))
        found.update(dict.fromkeys(_names(pattern), spec))
    return found


def _names(pattern: str) -> list[str]:
    if pattern.startswith('"'):
        return [json.loads(pattern)]
    parts = re.split(r"\{([^{}]*)\}", pattern)
    sides = [_numbers(part) if place % 2 else [part] for place, part in enumerate(parts)]
    return ["".join(name) for name in itertools.product(*sides)]


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for item in text.split(","):
        first, _, last = item.partition("..")
        found += map(str, range(int(first), int(last or first) + 1))
    return found


def item_type(dtype: str) -> Any:
    """The opaque numpy type of one element."""
    import numpy as np

    width = WIDTHS[dtype]
    return np.dtype(f"V{width}" if width > 8 else f"u{width}")


def constant(element: str, dtype: str, shape: tuple[int, ...]) -> Any:
    """A tensor of one element, which is given by its bytes in hexadecimal."""
    import numpy as np

    item = np.frombuffer(bytes.fromhex(element), item_type(dtype))
    return np.broadcast_to(item.reshape(()), shape)


def strided(base: Any, offset: int, strides: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Elements offset + index · strides of the flattened base."""
    import numpy as np

    flat = np.ascontiguousarray(base).reshape(-1)[offset:]
    steps = tuple(stride * flat.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)


def to_torch(value: Any, dtype: str) -> Any:
    """A torch tensor with the same bytes."""
    import numpy as np
    import torch

    kind = getattr(torch, TORCH_NAMES[dtype])
    if value.size == 0:
        return torch.empty(value.shape, dtype=kind)
    flat = np.array(value, order="C", copy=True).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat).view(kind).reshape(value.shape)


def from_torch(value: Any, spec: Spec) -> Any:
    """The items of a torch tensor."""
    import numpy as np
    import torch

    if spec.numel == 0:
        return np.empty(spec.shape, item_type(spec.dtype))
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().view(item_type(spec.dtype)).reshape(spec.shape)


def cast(value: Any, old: str, new: str) -> Any:
    """The values in another dtype, rounded as torch rounds."""
    import torch

    result = to_torch(value, old).to(getattr(torch, TORCH_NAMES[new]))
    return from_torch(result, Spec(new, tuple(result.shape)))


def call(
    function: Any,
    names: tuple[str, str],
    inputs: list[tuple[Any, str]],
    outputs: list[tuple[str, tuple[int, ...]]],
    index: int,
) -> Any:
    """One output of a function on torch tensors; `names` seed the random numbers that it draws."""
    import torch

    seed = int.from_bytes(
        hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).digest()[:7], "big"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            answer = function(*(to_torch(value, dtype) for value, dtype in inputs))
    finally:
        torch.set_num_threads(threads)
    values = [answer] if isinstance(answer, torch.Tensor) else list(answer)
    spec = Spec(*outputs[index])
    value = values[index]
    kind = str(value.dtype).removeprefix("torch.")
    if (len(values), kind, tuple(value.shape)) != (
        len(outputs),
        TORCH_NAMES[spec.dtype],
        spec.shape,
    ):
        fail(f"{names[0]} gave {kind} {list(value.shape)}, expected {spec}")
    return from_torch(value, spec)


def require_equal(claim: str, left: Any, right: Any) -> None:
    """Refuse to go on where two tensors differ in a bit."""
    import numpy as np

    same = left.shape == right.shape and left.dtype == right.dtype
    if not same or np.ascontiguousarray(left).tobytes() != np.ascontiguousarray(right).tobytes():
        fail(f"this does not hold: {claim}")


def read(path: Path, wanted: dict[str, Spec]) -> dict[str, Any]:
    """The tensors of a file, which must be exactly the wanted ones."""
    is_safetensors = path.suffix == ".safetensors"
    specs, tensors = _read_safetensors(path) if is_safetensors else _read_torch(path, wanted)
    missing = [name for name in wanted if name not in specs]
    extra = [name for name in specs if name not in wanted]
    other = [
        f"{name} is {specs[name]}"
        for name in wanted
        if name in specs and specs[name] != wanted[name]
    ]
    if missing or extra or other:
        lines = [f"{name} is missing" for name in missing] + [
            f"{name} is unknown" for name in extra
        ]
        shown = "\n  ".join((lines + other)[:20])
        fail(f"{path} is no checkpoint that this program converts:\n  {shown}")
    return {name: tensors[name] for name in wanted}


def _read_safetensors(path: Path) -> tuple[dict[str, Spec], dict[str, Any]]:
    import numpy as np

    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    specs, tensors = {}, {}
    for name, entry in header.items():
        specs[name] = spec = Spec(entry["dtype"], tuple(entry["shape"]))
        first, last = (8 + size + place for place in entry["data_offsets"])
        if spec.dtype not in WIDTHS or last - first != spec.numel * WIDTHS[spec.dtype]:
            fail(f"{name} of {path} is {spec}, which this program cannot read")
        items = np.frombuffer(data[first:last], item_type(spec.dtype))
        tensors[name] = items.reshape(spec.shape)
    return specs, tensors


def _read_torch(path: Path, wanted: dict[str, Spec]) -> tuple[dict[str, Spec], dict[str, Any]]:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    state = _state_dict(path, content, torch.Tensor, wanted)
    codes = {text: code for code, text in TORCH_NAMES.items()}
    specs, tensors = {}, {}
    for name, value in state.items():
        code = codes.get(str(value.dtype).removeprefix("torch."), str(value.dtype))
        specs[name] = spec = Spec(code, tuple(value.shape))
        tensors[name] = from_torch(value, spec) if code in WIDTHS else None
    return specs, tensors


def _state_dict(path: Path, content: Any, kind: type, wanted: dict[str, Spec]) -> dict[str, Any]:
    """The one dict of tensors with the wanted names, at the top or anywhere below it.

    Of several, such as the weights and an average of them, the only one under a usual key.
    """
    dicts = _tensor_dicts(content, kind)
    fitting = {place: found for place, found in dicts.items() if found.keys() == wanted.keys()}
    usual = [(key,) for key in USUAL_KEYS if (key,) in fitting]
    choices = usual or list(fitting)
    if len(choices) == 1:
        return fitting[choices[0]]
    if fitting:
        fail(f"{path} holds several state dicts of these names:\n  {_places(list(fitting))}")
    fail(f"{path} holds no state dict that this program converts{_nearest(dicts, wanted)}")
    return {}


def _tensor_dicts(content: Any, kind: type) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Every dict of nothing but tensors, by the keys that lead to it, the nearest to the top
    first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    seen: set[int] = set()
    for place, node in waiting:
        if not isinstance(node, dict) or not node or id(node) in seen:
            continue
        seen.add(id(node))
        if all(isinstance(value, kind) for value in node.values()):
            found[place] = node
        else:
            waiting.extend(((*place, key), value) for key, value in node.items())
    return found


def _places(places: list[tuple[Any, ...]]) -> str:
    texts = ["".join(f"[{key!r}]" for key in place) or "the top level" for place in places]
    more = [f"and {len(texts) - 10} more"] if len(texts) > 10 else []
    return "\n  ".join(texts[:10] + more)


def _nearest(dicts: dict[tuple[Any, ...], dict[str, Any]], wanted: dict[str, Spec]) -> str:
    """Which dicts of tensors there are, and how the nearest of them differs."""
    if not dicts:
        return ": no dict in it holds tensors only"
    near = min(dicts, key=lambda place: len(dicts[place].keys() ^ wanted.keys()))
    lines = [f"{name} is missing" for name in wanted if name not in dicts[near]]
    lines += [f"{name} is unknown" for name in dicts[near] if name not in wanted]
    shown = "\n  ".join(lines[:20])
    return (
        f"; dicts of tensors in it:\n  {_places(list(dicts))}\n"
        f"the nearest is {_places([near])}:\n  {shown}"
    )


def write(
    path: Path, tensors: dict[str, Any], specs: dict[str, Spec], ties: list[list[str]]
) -> None:
    """Write a new file; it appears under its name only when it is complete."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            kind = _write_safetensors if path.suffix == ".safetensors" else _write_torch
            kind(file, tensors, specs, ties)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write_safetensors(
    file: Any, tensors: dict[str, Any], specs: dict[str, Spec], ties: list[list[str]]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, spec in specs.items():
        size = spec.numel * WIDTHS[spec.dtype]
        entry = {"dtype": spec.dtype, "shape": list(spec.shape)}
        header[name] = {**entry, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in specs:
        file.write(tensors[name].tobytes())


def _write_torch(
    file: Any, tensors: dict[str, Any], specs: dict[str, Spec], ties: list[list[str]]
) -> None:
    import torch

    first = {name: group[0] for group in ties for name in group}
    state: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for name, spec in specs.items():
        key = first.get(name, name)
        if key not in shared:
            shared[key] = to_torch(tensors[name], spec.dtype)
        state[name] = shared[key]
    torch.save(state, file)


def main(
    convert: Any,
    description: str,
    old_lines: dict[str, str],
    new_lines: dict[str, str],
    ties: list[list[str]],
) -> None:
    """`program OLD NEW`."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    if len(paths) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(f"{description}\nusage: python {Path(sys.argv[0]).name} OLD NEW")
    old_path, new_path = paths
    if new_path.exists():
        fail(f"{new_path} exists already")
    if not old_path.is_file():
        fail(f"{old_path} is {'not a file' if old_path.exists() else 'not there'}")
    if not new_path.parent.is_dir():
        fail(f"{new_path.parent} is no folder, and {new_path.name} would go there")
    old, specs = read(old_path, expand(old_lines)), expand(new_lines)
    new = convert(old)
    for name, spec in specs.items():
        if new[name].shape != spec.shape or new[name].dtype != item_type(spec.dtype):
            fail(f"{name} came out wrong; the program is damaged")
    write(new_path, new, specs, ties)
