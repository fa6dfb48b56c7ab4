"""Files of training state beside the weights of a folder: which change, and what they become.

A file in which nothing changes comes along as it is; the others are written anew, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckmigrate.contents import Contents
from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, entries_of, put
from ckmigrate.output import OutputFile, held_tensors
from ckmigrate.output_torch import new_tensors, torch_work
from ckmigrate.placement import torch_phases
from ckmigrate.planning import Plan
from ckmigrate.training.layouts import Layout, drop_outside

__all__ = ["WrittenCompanions", "changed_companions", "make_companions"]


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


def make_companions(contents: Contents) -> WrittenCompanions:
    """The files of training state of a folder, without what is left behind."""
    plan, stored, layout = contents.plan, contents.stored, contents.layout
    made, held = new_tensors(contents), held_tensors(plan, layout)
    trees = changed_companions(plan, stored, layout, contents.gone, made)
    files: dict[str, OutputFile] = {}
    tensors: dict[str, Tensor] = {}
    for name, tree in trees.items():
        if tree is None:
            continue
        where = torch_phases(plan.state, made, stored, held)
        image = torch_zip.image(tree, tag=None, phases=where)
        work, found = torch_work(plan.state, made, image, stored, held, tree)
        files[name] = OutputFile(image, work)
        tensors |= found
    return WrittenCompanions(files, frozenset(trees), tensors)


def changed_companions(
    plan: Plan,
    stored: Stored,
    layout: Layout,
    gone: Sequence[Path],
    made: Mapping[str, Tensor],
) -> dict[str, object]:
    """The new trees of the files of training state that change, by relative name; None for a file
    that goes. `made` are the new tensors by label."""
    old, tree = stored.beside.trees, stored.state_tree
    for node in plan.carried.nodes:
        tree = put(tree, node.path, node.build(made))
    new = entries_of(drop_outside(tree, layout, gone)) or {}
    left = {str(path[0]): None for path in gone if path[0] not in new}
    return left | {str(name): new[name] for name in new if new[name] is not old[str(name)]}
