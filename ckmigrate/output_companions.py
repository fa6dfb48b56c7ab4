"""Files of training state beside the weights of a folder: which change, and what they become.

A file in which nothing changes comes along as it is; the others are written anew, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, entries_of
from ckmigrate.output import OutputFile, torch_work
from ckmigrate.placement import torch_phases
from ckmigrate.training.layouts import Layout, drop_outside

__all__ = ["WrittenCompanions", "make_companions"]


@dataclass(frozen=True, slots=True)
class WrittenCompanions:
    """What becomes of the files of training state.

    files    those that are written anew, by relative name
    gone     names of source files that do not come along as they are
    tensors  the sources by name, as `Output.tensors`
    """

    files: Mapping[str, OutputFile]
    gone: frozenset[str]
    tensors: Mapping[str, Tensor]


def make_companions(stored: Stored, layout: Layout, gone: Sequence[Path]) -> WrittenCompanions:
    """The files of training state of a folder, without what stands at the paths of `gone`."""
    old = stored.beside.trees
    new = entries_of(drop_outside(stored.state_tree, layout, gone)) or {}
    changed = {str(name): tree for name, tree in new.items() if tree is not old[str(name)]}
    unread = {str(path[0]) for path in gone if path[0] not in old}
    files: dict[str, OutputFile] = {}
    tensors: dict[str, Tensor] = {}
    for name, tree in changed.items():
        where = torch_phases((), {}, stored, layout.entries)
        image = torch_zip.image(tree, tag=None, phases=where)
        work, found = torch_work((), {}, image, stored, layout.entries, tree)
        files[name] = OutputFile(image, work)
        tensors |= found
    left = {name for name in old if name not in new}
    return WrittenCompanions(files, frozenset(unread | left | changed.keys()), tensors)
