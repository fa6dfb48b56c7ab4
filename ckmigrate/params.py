"""Parameters of a migration, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckmigrate.step import refuse

__all__ = ["Params"]


class Params(Mapping[str, object]):
    """Parameters; a missing one says how to give it."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> object:
        if name not in self._values:
            known = ", ".join(sorted(self._values)) or "none"
            raise refuse(
                "CKM534",
                f"parameter {name!r} is not given",
                why=f"The script asks for it; known parameters: {known}.",
                fix=f"Add it to [tool.ckmigrate.params], or give --param {name}=VALUE.",
            )
        return self._values[name]

    def get(self, name: str, default: object = None) -> object:
        """The parameter, or the default where it is not given."""
        return self._values.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
