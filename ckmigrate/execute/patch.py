"""A change of files in place, as data: which bytes of which files become others.

The data of the tensors stays where it is. What changes is small: a header, a few appended records,
an index. `ckmigrate.execute.apply` carries a patch out, all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckmigrate.formats.base import FileIdentity

__all__ = ["FilePatch", "Patch", "created", "removed", "rewritten", "small_files"]


@dataclass(frozen=True, slots=True)
class FilePatch:
    """One file of a patch.

    name      relative to the checkpoint that is a folder; "" of a checkpoint that is a file
    identity  what the file must be now; None where it is created
    size      what it has afterwards; None where it is removed
    writes    (offset afterwards, bytes)
    insert    bytes, whole blocks, that are put in front of everything before the writes
    """

    name: str
    identity: FileIdentity | None
    size: int | None
    writes: tuple[tuple[int, bytes], ...] = ()
    insert: int = 0

    @property
    def old_size(self) -> int:
        return self.identity.size if self.identity else 0

    @property
    def overwritten(self) -> tuple[tuple[int, int], ...]:
        """The ranges (offset, bytes) of the old file of which something is lost."""
        if self.size is None:
            return ((0, self.old_size),)
        spans = [(max(0, at - self.insert), at - self.insert + len(d)) for at, d in self.writes]
        spans.append((self.size - self.insert, self.old_size))
        cut = [(begin, min(end, self.old_size)) for begin, end in spans]
        return tuple((begin, end - begin) for begin, end in cut if end > begin)


@dataclass(frozen=True, slots=True)
class Patch:
    """What changes a checkpoint in place; `spare` bytes of its files belong to nothing afterwards.

    Small files of it are made with `rewritten`, `created` and `removed`.
    """

    files: tuple[FilePatch, ...]
    spare: int = 0

    @property
    def written(self) -> int:
        """Bytes that are written, the undo record left out."""
        return sum(len(data) for file in self.files for _, data in file.writes)


def rewritten(name: str, identity: FileIdentity, content: bytes) -> FilePatch:
    """A small file that gets other content, and stays the same file."""
    return FilePatch(name, identity, len(content), ((0, content),))


def created(name: str, content: bytes) -> FilePatch:
    """A small file that does not exist yet; it appears complete."""
    return FilePatch(name, None, len(content), ((0, content),))


def removed(name: str, identity: FileIdentity) -> FilePatch:
    """A small file that goes; the undo record keeps its content."""
    return FilePatch(name, identity, None)


def small_files(
    contents: Mapping[str, bytes | None], present: Mapping[str, FileIdentity]
) -> tuple[FilePatch, ...]:
    """The patches that give small files these contents, None for a file that goes; `present` are
    the files that exist."""
    patches = []
    for name, content in contents.items():
        if name not in present:
            patches += [created(name, content)] if content is not None else []
        elif content is None:
            patches.append(removed(name, present[name]))
        else:
            patches.append(rewritten(name, present[name], content))
    return tuple(patches)
