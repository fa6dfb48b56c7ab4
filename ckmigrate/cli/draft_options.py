"""The options of `revision` that belong to --autogenerate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `revision` that belong to --autogenerate."""

    renames: tuple[str, ...] = ()
    map_file: Path | None = None
    accept: str | None = None
    against: tuple[tuple[Path, Path], ...] = ()
    model: str | None = None
    params: tuple[str, ...] = ()

    @property
    def given(self) -> str | None:
        """The first of them that was given, as it is written."""
        flags = {
            "--rename": self.renames,
            "--map": self.map_file,
            "--accept": self.accept,
            "--against": self.against,
            "--model": self.model,
            "--param": self.params,
        }
        return next((flag for flag, value in flags.items() if value), None)
