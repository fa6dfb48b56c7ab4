"""Folders of shards, made as their usual writers make them: `save_file` and an index by hand.

old = folder(tmp_path / "old", [{"a": torch.ones(2)}, {"b": torch.ones(3)}], config={"heads": 2})
assert content(old) == {...}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.room import with_room

__all__ = ["content", "digest", "folder", "index_of", "name_of", "shards_of"]

State = Mapping[str, Tensor]
CONFIG = {"architectures": ["Toy"], "n_head": 2, "eps": 1e-05, "größe": "klein"}


def name_of(number: int, count: int, stem: str = "model", suffix: str = ".safetensors") -> str:
    return f"{stem}-{number:05d}-of-{count:05d}{suffix}"


def folder(
    path: Path,
    shards: Sequence[State],
    *,
    names: Sequence[str] = (),
    config: object = None,
    others: Mapping[str, str] | None = None,
    index: str | None = None,
    metadata: Mapping[str, object] | None = None,
    suffix: str = ".safetensors",
) -> Path:
    """A folder with these shards; `suffix` ".bin" for those of torch."""
    path.mkdir(parents=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    count = len(shards)
    names = names or [name_of(n, count, stem, suffix) for n in range(1, count + 1)]
    for name, state in zip(names, shards, strict=True):
        if suffix == ".bin":
            torch.save(dict(state), path / name)
        else:
            save_file(dict(state), path / name, metadata={"format": "pt"})
            with_room(path / name)
    weight_map = {key: n for n, state in zip(names, shards, strict=True) for key in state}
    size = sum(t.numel() * t.element_size() for state in shards for t in state.values())
    document = {
        "metadata": {"total_size": size, **(metadata or {})},
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = json.dumps(document, indent=2) + "\n"
    (path / (index or f"{stem}{suffix}.index.json")).write_text(text)
    if config is not None:
        text = json.dumps(config, indent=4, ensure_ascii=False) + "\n"
        (path / "config.json").write_text(text, encoding="utf-8")
    for name, text in (others or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def index_of(path: Path) -> dict[str, dict[str, object]]:
    """The index of a folder, as everybody reads it."""
    (index,) = path.glob("*.index.json")
    document: dict[str, dict[str, object]] = json.loads(index.read_text())
    return document


def shards_of(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of every shard that the index names, read by the libraries themselves."""
    names = sorted({str(name) for name in index_of(path)["weight_map"].values()})
    return {name: _load(path / name) for name in names}


def content(path: Path) -> dict[str, Tensor]:
    """All tensors; each in the shard that the index says, and nothing besides."""
    found: dict[str, Tensor] = {}
    for shard, state in shards_of(path).items():
        for name, tensor in state.items():
            assert index_of(path)["weight_map"][name] == shard
            found[name] = tensor
    assert found.keys() == index_of(path)["weight_map"].keys()
    return found


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def digest(path: Path) -> dict[str, str] | None:
    """Every file and folder by relative path, with a digest of its bytes; None where nothing is."""
    if not path.is_dir():
        return None
    found: dict[str, str] = {}
    for base, folders, names in os.walk(path):
        found |= {os.path.relpath(os.path.join(base, name), path): "folder" for name in folders}
        for name in names:
            file = Path(base, name)
            found[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
