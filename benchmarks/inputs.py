"""The checkpoints that are migrated: transformers of random float32 numbers.

    python -m benchmarks.inputs KIND PATH BYTES TENSORS

A process of its own makes them, so that the memory of torch is not in the one that measures.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch

__all__ = ["Input", "Kind", "make"]

Kind = Literal["safetensors", "torch", "lightning", "sharded", "dcp"]

_PER_LAYER = 3
_BLOCK = 1 << 20
_SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt", "lightning": ".ckpt"}
_SHARDS = 4


@dataclass(frozen=True, slots=True)
class Input:
    """A checkpoint to be made: about `nbytes` in about `tensors` tensors."""

    kind: Kind
    nbytes: int
    tensors: int

    @property
    def layers(self) -> int:
        return max(1, round(self.tensors / _PER_LAYER))

    @property
    def dim(self) -> int:
        """Width of a layer, of 4·dim² + dim float32 numbers; a multiple of 8."""
        return max(8, round(math.sqrt(self.nbytes / self.layers / 16) / 8) * 8)

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return 3 * self.dim * self.dim * 4

    @property
    def file_name(self) -> str:
        return "source" + _SUFFIXES.get(self.kind, "")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, layer by layer."""
        dim = self.dim
        for layer in range(self.layers):
            yield f"transformer.h.{layer}.attn.qkv.weight", (3 * dim, dim)
            yield f"transformer.h.{layer}.attn.proj.weight", (dim, dim)
            yield f"transformer.h.{layer}.norm.weight", (dim,)


def make(wanted: Input, path: Path) -> None:
    """Write the checkpoint."""
    match wanted.kind:
        case "safetensors":
            _write_safetensors(path, list(wanted.shapes()))
        case "sharded":
            _write_sharded(path, list(wanted.shapes()))
        case "torch":
            _save(_tensors(wanted), path)
        case "lightning":
            _save(_lightning(wanted), path)
        case "dcp":
            _save_dcp(wanted, path)


def _write_safetensors(path: Path, shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes:
        end = offset + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    block = _numbers()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, offset, len(block)):
            file.write(block[: min(len(block), offset - start)])


def _numbers() -> bytes:
    """Random floats that are neither huge nor special: the exponent byte is fixed."""
    raw = bytearray(os.urandom(_BLOCK))
    raw[3::4] = b"\x3c" * (_BLOCK // 4)
    return bytes(raw)


def _write_sharded(path: Path, shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    path.mkdir()
    size = -(-len(shapes) // _SHARDS)
    parts = [shapes[start : start + size] for start in range(0, len(shapes), size)]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        _write_safetensors(path / name, part)
        weight_map |= dict.fromkeys((key for key, _ in part), name)
    total = sum(4 * math.prod(shape) for _, shape in shapes)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (path / "config.json").write_text('{"model_type": "benchmark"}\n', encoding="utf-8")


def _tensors(wanted: Input) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.randn(shape) for name, shape in wanted.shapes()}


def _lightning(wanted: Input) -> dict[str, object]:
    """As Lightning 1.9 saved it, without optimizer state: its weights are what is migrated."""
    head = {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "1.9.5"}
    rest = {"loops": {}, "callbacks": {}, "hyper_parameters": {"width": wanted.dim}}
    return {**head, "state_dict": _tensors(wanted), **rest}


def _save(value: Any, path: Path) -> None:
    import torch

    torch.save(value, path)


def _save_dcp(wanted: Input, path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    save(_tensors(wanted), checkpoint_id=path, no_dist=True)


def main(arguments: list[str]) -> None:
    """Make what the command line says."""
    kind, path, nbytes, tensors = arguments
    found = next(item for item in get_args(Kind) if item == kind)
    make(Input(found, int(nbytes), int(tensors)), Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
