"""Names for new shards in a folder where the old ones still are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["fresh_names"]

_SHARD: Final = re.compile(r"(?P<stem>.+?)(-v[0-9]+)?(?P<rest>(-[0-9]{5,}-of-[0-9]{5,})?\.[^.]+)")


def fresh_names(shards: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Names of one generation, `model-v2-00001-of-00003.safetensors`, that nothing has."""
    generation = 2
    while True:
        fresh = {name: _of_generation(name, generation) for name in shards}
        if not taken & set(fresh.values()):
            return fresh
        generation += 1


def _of_generation(name: str, generation: int) -> str:
    match = _SHARD.fullmatch(name)
    return f"{match['stem']}-v{generation}{match['rest']}" if match else f"{name}-v{generation}"
