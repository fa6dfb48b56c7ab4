"""What the names of files in a folder of weights say.

.metadata                          the index of a torch distributed checkpoint (DCP)
*.distcp                           its data
ckmigrate.json                     ckmigrate's tag beside it
*.index.json                       the index of shards
config.json                        reachable as `ck.meta["config.…"]`
optimizer.pt, optimizer_1.bin, …   the state of optimizers
ema.pt, unet_ema.bin, …            averages of weights
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

__all__ = [
    "CONFIG",
    "DATA_SUFFIX",
    "INDEX_SUFFIX",
    "JSON_ROOTS",
    "METADATA",
    "TAG_FILE",
    "WEIGHTS",
    "folder_of",
    "holds_weights",
    "is_average_file",
    "is_index_name",
    "is_optimizer_file",
    "is_shard_name",
]

METADATA: Final = ".metadata"
DATA_SUFFIX: Final = ".distcp"
TAG_FILE: Final = "ckmigrate.json"
INDEX_SUFFIX: Final = ".index.json"
CONFIG: Final = "config.json"
JSON_ROOTS: Final = ("config", "index")
"""The top-level names of metadata that stand for a file of JSON each."""

WEIGHTS: Final[tuple[tuple[str, str], ...]] = (
    ("model", ".safetensors"),
    ("pytorch_model", ".bin"),
    ("pytorch_model_fsdp", ".bin"),  # accelerate, of all ranks in one file
)
"""Stem and suffix of a file of weights that is the only one of its folder."""

_SHARD: Final = re.compile(r".+-[0-9]{5,}-of-[0-9]{5,}\.(safetensors|bin)")
_OPTIMIZER: Final = re.compile(r"optimizer[._][^/]*(/|$)|global_step[0-9]+/")
_AVERAGE: Final = re.compile(r"([^/]*[._-])?ema([._-][^/]*)?\.(pt|pth|bin|ckpt|pkl)")


def is_index_name(name: str) -> bool:
    """Whether a file of this name is the index of shards."""
    return name.endswith(INDEX_SUFFIX)


def folder_of(path: Path) -> Path:
    """The checkpoint that a path stands for: of an index or a .metadata, the folder it is in."""
    is_part = is_index_name(path.name) or path.name == METADATA
    return path.parent if is_part and path.is_file() else path


def holds_weights(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a checkpoint, whole or not."""
    return any(
        name == stem + suffix or name.endswith(suffix + INDEX_SUFFIX)
        for name in names
        for stem, suffix in WEIGHTS
    )


def is_shard_name(name: str) -> bool:
    """Whether a file of this name is one of several that only together are a checkpoint."""
    return _SHARD.fullmatch(name) is not None


def is_optimizer_file(name: str) -> bool:
    """Whether trainers keep the state of an optimizer under this relative name."""
    return _OPTIMIZER.match(name) is not None


def is_average_file(name: str) -> bool:
    """Whether averages of weights are kept under this relative name."""
    return _AVERAGE.fullmatch(name) is not None
