"""The keys of the configuration: what each may hold, checked one by one.

A value is read by a small function that returns None where it is wrong (TOML has no null), so the
table below is the whole grammar. Parameters, from the file or from the command line, are TOML
scalars: true, false, numbers and texts.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ckmigrate.errors import UsageError

__all__ = ["parse_params", "read_settings"]

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_LONGEST_NAME = 200
_PARAM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def read_settings(section: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """The values of a section by key, written with `_`; a key that is not there stays away.

    `path` is the file, for messages. Raises UsageError CKM202 (unknown key), CKM203 (wrong type or
    value, a key given twice, or both `model` and `models`).
    """
    settings: dict[str, Any] = {}
    for written, value in section.items():
        key = written.replace("-", "_")
        if key not in _KEYS:
            raise _unknown_key(written, path)
        expected, read = _KEYS[key]
        settings_value = read(value)
        if settings_value is None:
            raise _wrong(f"'{written}' is wrong", f"expected {expected}, got {_shown(value)}", path)
        if key in settings:
            raise _wrong(f"'{written}' is given twice", "- and _ are the same in a key", path)
        settings[key] = settings_value
    if "model" in settings and "models" in settings:
        why = "one model has no name, several have one each"
        raise _wrong("both 'model' and 'models' are given", why, path)
    _require_one_meaning(settings, path)
    return settings


def _require_one_meaning(settings: Mapping[str, Any], path: Path) -> None:
    """A place in a checkpoint is the weights, an optimizer or a copy."""
    places = [("weights", settings.get("weights"))]
    places += [(key, text) for key in ("optimizers", "copies") for text in settings.get(key, ())]
    for number, (key, text) in enumerate(places):
        twice = [other for other, same in places[:number] if same == text]
        if twice:
            raise _wrong(f"'{text}' is given twice", f"as {twice[0]} and as {key}", path)


def parse_params(texts: Iterable[str]) -> dict[str, object]:
    """Values by name from `heads=8`, `name=x`: TOML scalars, and text where it is none.

    Raises UsageError CKM204 for a text without `=`, a bad name, or a name given twice.
    """
    params: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not _PARAM_NAME.fullmatch(name):
            what, why = f"'{text}' is not NAME=VALUE", "a name has letters, digits and . _ -"
            raise UsageError("CKM204", what, why=why, fix="Write --param heads=8.")
        if name in params:
            what, why = f"the parameter '{name}' is given twice", "the two values may differ"
            raise UsageError("CKM204", what, why=why, fix="Give it once.")
        params[name] = _parsed(value.strip())
    return params


def _parsed(text: str) -> object:
    # Inside an inline table a comment or a second line cannot hide the end of the value.
    try:
        table = tomllib.loads(f"_ = {{ value = {text} }}")
    except (ValueError, RecursionError):
        return text
    is_alone = list(table) == ["_"] and list(table["_"]) == ["value"]
    value = _scalar(table["_"]["value"]) if is_alone else None
    return text if value is None else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _name(value: object) -> str | None:
    """The name goes into every tag, whose readers accept no other."""
    text = _text(value)
    return text if text and text.isprintable() and len(text) <= _LONGEST_NAME else None


def _texts(value: object) -> tuple[str, ...] | None:
    is_right = isinstance(value, list) and all(map(_text, value))
    return tuple(value) if is_right and isinstance(value, list) else None


def _text_or_texts(value: object) -> tuple[str, ...] | None:
    return _texts([value] if isinstance(value, str) else value)


def _segments(value: object) -> tuple[str, ...] | None:
    texts = _texts(value)
    return texts if texts is not None and all(t == t.strip(".") for t in texts) else None


def _paths(value: object) -> tuple[str, ...] | None:
    texts = _texts(value)
    return texts if texts is not None and all(all(t.split(".")) for t in texts) else None


def _factory(value: object) -> str | None:
    return value if isinstance(value, str) and _FACTORY.fullmatch(value) else None


def _one_model(value: object) -> Mapping[str, str] | None:
    factory = _factory(value)
    return None if factory is None else MappingProxyType({"default": factory})


def _models(value: object) -> Mapping[str, str] | None:
    if not isinstance(value, dict):
        return None
    is_right = all(_MODEL_NAME.fullmatch(name) and _factory(text) for name, text in value.items())
    return MappingProxyType(dict(value)) if is_right else None


def _params(value: object) -> Mapping[str, object] | None:
    if not isinstance(value, dict):
        return None
    is_right = all(_scalar(item) is not None for item in value.values())
    return MappingProxyType(dict(value)) if is_right else None


def _scalar(value: object) -> bool | int | float | str | None:
    # An infinite number or NaN has no place in the JSON of a plan or of a tag.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else None


_KEYS: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "name": ("a short printable text", _name),
    "migrations": ("the path of a folder", _text),
    "model": ('a factory such as "package.module:function"', _one_model),
    "models": ('a table such as { small = "package.module:function" }', _models),
    "optimizer": ('a function such as "package.module:function"', _factory),
    "weights": ('a path such as "checkpoint.net"', _text),
    "optimizers": ('a list of paths such as ["trainer.adam"]', _paths),
    "copies": ('a list of paths such as ["trainer.average"]', _paths),
    "wrappers": ('a list of name segments such as ["module"], without dots at the ends', _segments),
    "carry": ('a list of classes such as ["package.module.Config"]', _texts),
    "release_key": (
        'a path such as "hyper_parameters.version", or a list of paths',
        _text_or_texts,
    ),
    "params": ("a table of numbers, texts and true or false", _params),
    "exempt": ("a list of name patterns", _texts),
    "pythonpath": ("a list of folders", _texts),
}


def _unknown_key(written: str, path: Path) -> UsageError:
    known = [key.replace("_", "-") for key in _KEYS]
    from difflib import get_close_matches

    near = get_close_matches(written.replace("_", "-").lower(), known, 1, 0.6)
    why = f"the nearest key is '{near[0]}'" if near else f"the keys are {', '.join(known)}"
    what, fix = f"unknown key '{written}'", "Correct the key, or remove it."
    return UsageError("CKM202", what, where=str(path), why=why, fix=fix)


def _wrong(what: str, why: str, path: Path) -> UsageError:
    return UsageError("CKM203", what, where=str(path), why=why, fix="Correct the configuration.")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        text = "a number with too many digits to print"
    return text if len(text) <= 60 else f"{text[:57]}..."
