"""The configuration: `[tool.ckmigrate]` in pyproject.toml, or a ckmigrate.toml.

```toml
[tool.ckmigrate]
migrations = "migrations"
model = "yourpackage.model:build"      # or a table [tool.ckmigrate.models] of named sizes
weights = "checkpoint.net"             # where the state dict sits in a training checkpoint
optimizer = "yourpackage.train:make_optimizer"
release-key = "hyper_parameters.version"
carry = ["yourpackage.config.Config"]
```

Keys may be written with `-` or `_`. Every key is checked: an unknown one is an error, because a
misspelt setting that is ignored would decide about checkpoints in silence.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ckmigrate.errors import StorageError, UsageError
from ckmigrate.settings import parse_params, read_settings

__all__ = ["Project", "find_project", "parse_params", "write_config"]

_CONFIG, _PYPROJECT = "ckmigrate.toml", "pyproject.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One project, as configured; paths are absolute.

    root          the folder of the configuration file
    name          written into the tag of every checkpoint
    models        factory `package.module:function` by model name; one unnamed model is "default"
    optimizer     "package.module:function", which makes the optimizer (or a list of them) of a
                  model; None: its groups are worked out
    weights       path of the state dict inside a training checkpoint; None: found by its shape
    optimizers    paths of state of optimizers that is not found by its shape
    copies        paths of copies of the weights that are not found by their names
    wrappers      name segments, such as DDP's "module", that scripts do not see
    carry         classes that may pass through a pickle by name
    release_keys  metadata paths that hold the release which wrote a checkpoint
    params        values for `ck.params`
    exempt        patterns of names that the strict check leaves out
    python_path   folders to import the model from
    """

    root: Path
    config_path: Path
    name: str
    migrations: Path
    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    optimizer: str | None = None
    weights: str | None = None
    optimizers: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ("module", "_orig_mod")
    carry: tuple[str, ...] = ()
    release_keys: tuple[str, ...] = ()
    params: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    exempt: tuple[str, ...] = ()
    python_path: tuple[Path, ...] = ()

    def model(self, name: str | None = None) -> tuple[str, str]:
        """Name and factory of the chosen model; without a name, of the only one.

        Raises UsageError CKM205 (no model is configured), CKM206 (several, or not this one).
        """
        if not self.models:
            raise UsageError(
                "CKM205",
                "no model is configured",
                where=str(self.config_path),
                why="the target is the architecture that a factory builds",
                fix='Add `model = "yourpackage.module:factory"`, or use --no-model.',
            )
        if name is None and len(self.models) > 1:
            what = f"{len(self.models)} models are configured and none was chosen"
            ways = " or ".join(f"--model {one}" for one in list(self.models)[:3])
            raise self._model_error(what, fix=f"Say which: {ways}.")
        chosen = next(iter(self.models)) if name is None else name
        if chosen not in self.models:
            raise self._model_error(f"no model '{chosen}' is configured", fix="Choose one of them.")
        return chosen, self.models[chosen]

    def snapshot_path(self, name: str) -> Path:
        """Where the committed schema of a model at the base is kept."""
        return self.migrations / "schema" / "base" / f"{name}.json"

    def head_snapshot_path(self, name: str) -> Path:
        """Where the committed schema of a model at the head is kept."""
        return self.migrations / "schema" / f"{name}.json"

    @property
    def lock_path(self) -> Path:
        """Where what the revisions do is recorded, a line for each."""
        return self.migrations / "history.lock"

    def _model_error(self, what: str, *, fix: str) -> UsageError:
        listed = tuple(f"{name} = {factory}" for name, factory in self.models.items())
        return UsageError("CKM206", what, where=str(self.config_path), details=listed, fix=fix)


def find_project(start: Path, *, config: Path | None = None) -> Project:
    """The project that a folder belongs to: the nearest configuration in it or above it.

    `config` names the file instead, or its folder. Raises UsageError: CKM201 (none), CKM202
    (unknown key), CKM203 (wrong type or value), CKM207 (unreadable file), CKM240 (two
    configurations in one folder).
    """
    if config is not None and not config.is_dir():
        return _read_project(config.parent.resolve() / config.name)
    folder = (start if config is None else config).resolve()
    for root in (folder, *(folder.parents if config is None else ())):
        found = _configuration(root)
        if found is not None:
            return _read_project(found)
    here = "here" if config is not None else "here or above"
    raise UsageError(
        "CKM201",
        "this folder belongs to no ckmigrate project",
        where=str(folder),
        why=f"neither {_CONFIG} nor a {_PYPROJECT} with [tool.ckmigrate] is {here}",
        fix="Run `ckmigrate init` in the root of the project, or name the file with --config.",
    )


def write_config(
    root: Path,
    *,
    model: str | None = None,
    model_name: str | None = None,
    name: str | None = None,
    migrations: str = "migrations",
    weights: str | None = None,
) -> Path:
    """Add a configuration to a project; the file it was written to.

    A model that has a name goes into the table of models, where further ones find a place.

    Appends a section to pyproject.toml and leaves its bytes as they are, or creates ckmigrate.toml
    where there is no pyproject.toml. Raises UsageError CKM208 when there is a configuration,
    CKM203 or CKM207 when the result would not be read back, StorageError CKM790 when the file
    cannot be written.
    """
    found = _configurations(root)
    if found:
        what, fix = "the project is configured already", "Edit the configuration, or remove it."
        raise UsageError("CKM208", what, where=str(found[0]), fix=fix)
    path = root / _PYPROJECT
    is_section = _is_file(path)
    path = path if is_section else root / _CONFIG
    before = _read_text(path) if is_section else ""
    quoted = {
        key: _quoted(text)
        for key, text in (("name", name), ("migrations", migrations), ("model", model))
        if text is not None
    }
    if model is not None and model_name is not None:
        quoted["models"] = f"{{ {_quoted(model_name)} = {quoted.pop('model')} }}"
    settings = quoted | ({} if weights is None else {"weights": _quoted(weights)})
    text = _rendered(settings, before, header="[tool.ckmigrate]\n" if is_section else "")
    # Reading the result first: a pyproject.toml may define `tool` in a way that cannot grow.
    _project(path, _parse_toml(before + text, path))
    _append(path, text.replace("\n", "\r\n") if "\r\n" in before else text)
    return path


def _read_project(path: Path) -> Project:
    return _project(path, _read_toml(path))


def _project(path: Path, data: Mapping[str, Any]) -> Project:
    section = _section(path, data)
    if section is None:
        what, fix = "the file has no section [tool.ckmigrate]", "Run `ckmigrate init`, or add it."
        raise UsageError("CKM201", what, where=str(path), fix=fix)
    settings = read_settings(section, path=path)
    root = path.parent
    folders = settings.pop("pythonpath", (".", "src") if (root / "src").is_dir() else (".",))
    release_keys = settings.pop("release_key", ())
    models = settings.pop("model", None) or settings.pop("models", MappingProxyType({}))
    return Project(
        root=root,
        config_path=path,
        name=settings.pop("name", None) or _default_name(path, data),
        migrations=root / settings.pop("migrations", "migrations"),
        models=models,
        release_keys=release_keys,
        python_path=tuple(root / folder for folder in folders),
        **settings,
    )


def _default_name(path: Path, data: Mapping[str, Any]) -> str:
    pyproject = path.parent / _PYPROJECT
    if path != pyproject:
        data = _read_toml(pyproject) if _is_file(pyproject) else {}
    package = data.get("project")
    name = package.get("name") if isinstance(package, dict) else None
    found = name if isinstance(name, str) and name else path.parent.name or "project"
    # It goes into every tag, and a folder may be called anything.
    return found if found.isprintable() else "".join(c if c.isprintable() else "_" for c in found)


def _configurations(root: Path) -> list[Path]:
    """The files in one folder that configure us; two of them are one too many."""
    config, pyproject = root / _CONFIG, root / _PYPROJECT
    found = [config] if _is_file(config) else []
    # A broken pyproject.toml that does not mention us is not our business.
    if _is_file(pyproject) and "ckmigrate" in _read_text(pyproject):
        found += [pyproject] if _section(pyproject, _read_toml(pyproject)) is not None else []
    return found


def _configuration(root: Path) -> Path | None:
    """The file in one folder that configures us; UsageError CKM240 where two do."""
    found = _configurations(root)
    if len(found) > 1:
        what, why = "two configurations in one folder", "only one of them would be used"
        fix = f"Keep either {_CONFIG} or the section [tool.ckmigrate]."
        raise UsageError("CKM240", what, where=str(root), why=why, fix=fix)
    return found[0] if found else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _section(path: Path, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if path.name == _CONFIG:
        return data
    tool = data.get("tool")
    if not isinstance(tool, dict) or "ckmigrate" not in tool:
        return None if path.name == _PYPROJECT else data
    section = tool["ckmigrate"]
    if isinstance(section, dict):
        return section
    what, fix = "'tool.ckmigrate' is wrong", "Write a section [tool.ckmigrate]."
    raise UsageError("CKM203", what, where=str(path), why="expected a table", fix=fix)


def _read_toml(path: Path) -> dict[str, Any]:
    return _parse_toml(_read_text(path), path)


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}, line {line[1]}" if line else str(path)
        what, why = f"{path.name} is not valid TOML", str(error)
        raise UsageError("CKM207", what, where=where, why=why, fix="Correct the file.") from error


def _read_text(path: Path) -> str:
    """The text with the newlines it has, because `write_config` keeps them."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        what, why = f"cannot read the configuration {path.name}", error.strerror or str(error)
        fix = "Name a readable TOML file."
    except UnicodeDecodeError as error:
        what, why, fix = f"{path.name} is not UTF-8 text", str(error), "Save it as UTF-8."
    raise UsageError("CKM207", what, where=str(path), why=why, fix=fix)


def _rendered(settings: Mapping[str, str], before: str, *, header: str) -> str:
    if before:
        header = ("\n" if before.endswith("\n") else "\n\n") + header
    if not settings.keys() & {"model", "models"}:
        header += '# model = "yourpackage.module:factory"\n'
    return header + "".join(f"{key} = {value}\n" for key, value in settings.items())


def _quoted(text: str) -> str:
    # JSON and TOML agree on every escape but this one.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _append(path: Path, text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        what, fix = "a setting is not valid text", "Use names that UTF-8 can hold."
        raise UsageError("CKM203", what, where=str(path), why=str(error), fix=fix) from error
    try:
        # One write at the end: a failure leaves what the file held, and links and modes stay.
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        what, why = f"cannot write the configuration {path.name}", error.strerror or str(error)
        fix = "Make the folder and the file writable."
        raise StorageError("CKM790", what, where=str(path), why=why, fix=fix) from error
