"""The change in place of a folder of shards: headers or directories, and the index."""

from __future__ import annotations

from ckmigrate.execute.patch import Patch, small_files
from ckmigrate.formats.base import FileIdentity, Stored
from ckmigrate.migrate import build_output
from ckmigrate.patch_safetensors import header_patch
from ckmigrate.patch_torch import companion_patches, torch_shard_patches
from ckmigrate.places import Places, needs_copy
from ckmigrate.prepare import Prepared

__all__ = ["folder_patch"]


def folder_patch(prepared: Prepared, places: Places) -> Patch:
    """The change of a folder; MigrationError CKM580 where a file would go, StorageError as
    `build_output` raises."""
    stored = prepared.opened.stored
    folder = stored.folder
    assert folder is not None
    present = _present(stored)
    output = build_output(prepared, stored.path, folder=True)
    moved = [name for name in folder.shards if name not in output.shards]
    gone = [n for n in present if n not in output.files and n not in output.carried]
    if moved or gone:
        raise needs_copy(
            prepared, [f"{name} would go, or get another name" for name in moved or gone]
        )
    patches, spare = companion_patches(prepared, places)
    own = {*output.shards, *(patch.name for patch in patches)}
    if folder.container == "torch":
        shards, more = torch_shard_patches(prepared, places)
        patches, spare = [*shards, *patches], spare + more
    else:
        for number, name in enumerate(folder.shards):
            patches.append(header_patch(prepared, places, number, name, output.files[name]))
    texts = {name: file.image for name, file in output.files.items() if name not in own}
    small = {name: b"".join(raw for _, raw in image.chunks) for name, image in texts.items()}
    return Patch((*patches, *small_files(small, present)), spare)


def _present(stored: Stored) -> dict[str, FileIdentity]:
    """Every file of a folder by its relative name."""
    return {str(f.path.relative_to(stored.path)): f.identity for f in stored.files}
