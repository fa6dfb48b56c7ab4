"""Training state beside the weights of a folder, in files of torch.save.

    optimizer.pt                       as the Trainer of Hugging Face leaves it
    optimizer.bin, optimizer_1.bin     as accelerate does, one for each optimizer
    custom_checkpoint_0.pkl            what a script registered with accelerate, such as an average
    ema.pt, unet_ema.bin               averages of weights, by their usual names

They are found by name and read like any torch file. One that cannot be read is no error of the
folder: its fault is kept for whoever would have to change it. Other files (schedules, random
states, arguments) say nothing about single weights and are not opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Companions, Record
from ckmigrate.formats.folder_names import is_average_file, is_optimizer_file

__all__ = ["ReadPart", "read_companions"]

_REGISTERED: Final = re.compile(r"custom_checkpoint_[0-9]+\.pkl")

ReadPart = Callable[[Path, str], tuple[object, Mapping[str, Record]]]
"""The tree and the records of a torch file; the keys of its storages begin with the text."""


def read_companions(root: Path, numbers: Mapping[str, int], read_part: ReadPart) -> Companions:
    """The companions of the folder `root` among the files that `Record.file` counts."""
    trees: dict[str, object] = {}
    records: dict[str, Record] = {}
    faults: dict[str, str] = {}
    for name, number in numbers.items():
        if not _is_companion(name):
            continue
        try:
            trees[name], found = read_part(root / name, f"{number}/")
        except StorageError as error:
            faults[name] = f"{error.what}; {error.why}" if error.why else error.what
        else:
            records |= {key: replace(record, file=number) for key, record in found.items()}
    return Companions(trees, records, faults)


def _is_companion(name: str) -> bool:
    is_state = is_optimizer_file(name) or is_average_file(name) or _REGISTERED.fullmatch(name)
    return bool(is_state) and "/" not in name
