"""What people do today, as short scripts, each ending with the result on stable storage.

    python -m benchmarks.others safetensors|torch|torch-mmap|sharded|dcp SOURCE OUTPUT CHANGE STEPS

The tensors of a whole file or folder are loaded, a dict is made over, and everything is saved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]


def safetensors(source: Path, output: Path, change: str, steps: int) -> None:
    from safetensors.torch import load_file, save_file

    save_file(changed(load_file(source), change, steps), output)


def torch_file(source: Path, output: Path, change: str, steps: int, *, mmap: bool = False) -> None:
    import torch

    loaded = torch.load(source, map_location="cpu", mmap=mmap, weights_only=True)
    torch.save(changed(loaded, change, steps), output)


def sharded(source: Path, output: Path, change: str, steps: int) -> None:
    """Shard by shard, which is kinder than to load the whole folder."""
    from safetensors.torch import load_file, save_file

    output.mkdir()
    weight_map: dict[str, str] = {}
    for path in sorted(source.glob("*.safetensors")):
        new = changed(load_file(path), change, steps)
        save_file(new, output / path.name)
        weight_map |= dict.fromkeys(new, path.name)
    index = json.loads((source / "model.safetensors.index.json").read_text(encoding="utf-8"))
    text = json.dumps({**index, "weight_map": weight_map})
    (output / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    (output / "config.json").write_bytes((source / "config.json").read_bytes())


def dcp(source: Path, output: Path, change: str, steps: int) -> None:
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    reader = FileSystemReader(source)
    found = reader.read_metadata().state_dict_metadata
    tensors: Tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in found.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(tensors, checkpoint_id=source, no_dist=True)
    save(changed(tensors, change, steps), checkpoint_id=output, no_dist=True)


def changed(tensors: Tensors, change: str, steps: int) -> Tensors:
    """The renames of `benchmarks.chains`, one pass over the names each, and then the change."""
    new = {name.replace("transformer.", "step0.", 1): t for name, t in tensors.items()}
    for step in range(1, steps):
        old = f"step{step - 1}."
        new = {name.replace(old, f"step{step}.", 1): t for name, t in new.items()}
    return _CHANGES[change](new)


def _split(tensors: Tensors) -> Tensors:
    import torch

    new: Tensors = {}
    for name, tensor in tensors.items():
        if ".qkv." in name:
            q, k, v = tensor.chunk(3)
            new[name.replace("qkv", "q")] = q.clone()
            new[name.replace("qkv", "kv")] = torch.cat([k, v])
        else:
            new[name] = tensor
    return new


def _transpose(tensors: Tensors) -> Tensors:
    return {n: t.t().contiguous() if ".attn." in n else t for n, t in tensors.items()}


def _cast(tensors: Tensors) -> Tensors:
    import torch

    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def _compute(tensors: Tensors) -> Tensors:
    return {
        n.replace(".proj.", ".out."): t.exp() if ".proj." in n else t for n, t in tensors.items()
    }


_CHANGES: dict[str, Callable[[Tensors], Tensors]] = {
    "rename": lambda tensors: tensors,
    "split": _split,
    "transpose": _transpose,
    "cast": _cast,
    "compute": _compute,
}


def force(path: Path) -> None:
    """Everything at `path`, down to the disk."""
    for found in [path, *(path.rglob("*") if path.is_dir() else ()), path.parent]:
        fd = os.open(found, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def main(arguments: list[str]) -> None:
    """Run one of them."""
    way, source, output, change, steps = arguments
    ways: dict[str, Callable[[Path, Path, str, int], None]] = {
        "safetensors": safetensors,
        "torch": torch_file,
        "torch-mmap": partial(torch_file, mmap=True),
        "sharded": sharded,
        "dcp": dcp,
    }
    ways[way](Path(source), Path(output), change, int(steps))
    force(Path(output))


if __name__ == "__main__":
    main(sys.argv[1:])
