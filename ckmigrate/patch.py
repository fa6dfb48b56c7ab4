"""The change in place that a plan becomes: a header, an appended directory, an index.

What `make_output` decides for a copy (names, metadata, tag) is decided in the same way here; only
where the bytes of the tensors lie is what it was.
"""

from __future__ import annotations

from ckmigrate.execute.patch import Patch
from ckmigrate.places import find_places, needs_copy
from ckmigrate.prepare import Prepared

__all__ = ["make_patch", "obstacles"]


def obstacles(prepared: Prepared) -> tuple[str, ...]:
    """Why a plan needs more than a change in place, a line for each reason; nothing is read."""
    if prepared.opened.stored.format == "dcp":
        from ckmigrate.patch_dcp import dcp_obstacles

        return dcp_obstacles(prepared)
    return find_places(prepared).obstacles


def make_patch(prepared: Prepared) -> Patch:
    """The change in place of a plan. Headers are read again, tensors are not.

    MigrationError CKM580 where the plan needs more; StorageError as `build_output` raises.
    """
    stored = prepared.opened.stored
    if stored.format == "dcp":
        from ckmigrate.patch_dcp import dcp_patch

        return dcp_patch(prepared)
    places = find_places(prepared)
    if places.obstacles:
        raise needs_copy(prepared, places.obstacles)
    if stored.folder is not None:
        from ckmigrate.patch_folder import folder_patch

        return folder_patch(prepared, places)
    if stored.format == "torch":
        from ckmigrate.patch_torch import torch_patch

        return torch_patch(prepared, places)
    from ckmigrate.patch_safetensors import safetensors_patch

    return safetensors_patch(prepared, places)
