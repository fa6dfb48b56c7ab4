"""A whole project in a temporary folder: configuration, scripts, base snapshot and model module.

zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
path = zoo.save({"a": torch.ones(2)})
assert load(zoo.upgrade(path))["b"].tolist() == [1, 1]
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ckmigrate.errors import CkmigrateError
from ckmigrate.execute.commit import Destination
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.migrate import Outcome, Prepared, Request, carry_out, prepare
from ckmigrate.project import Project, find_project
from ckmigrate.revisions.graph import History, read_history
from ckmigrate.snapshot import Snapshot, render_snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.tagging import Tag, parse_tag
from tests.room import with_room

__all__ = ["Script", "Zoo", "load", "names_in", "revision", "same", "schema_of", "tag_of"]

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Script:
    """One migration: the body of `upgrade(ck)`, and what stands beside it."""

    body: str
    release: str | None = None
    literals: str = ""
    rest: str = ""


def revision(number: int) -> str:
    """The id of the script with this number, counted from 1."""
    return f"{number:010x}"


class Zoo:
    """A project on disk, and the pipeline on its files.

    scripts  bodies of `upgrade(ck)`, oldest first
    model    source of a module whose `build` makes the model of today; None for no model
    base     schemas of the base by model name; a state dict stands for its schema
    config   more lines of ckmigrate.toml
    """

    def __init__(
        self,
        folder: Path,
        *scripts: str | Script,
        model: str | None = None,
        base: Mapping[str, State] | State | None = None,
        config: str = "",
    ) -> None:
        self.folder = folder
        (folder / "migrations").mkdir(parents=True)
        for number, script in enumerate(scripts, start=1):
            self.add(number, script)
        lines = ['name = "zoo"', 'pythonpath = ["."]', config]
        if model is not None:
            # Modules stay in sys.modules, so that every folder needs a module name of its own.
            module = f"zoo_model_{abs(hash(str(folder))):x}"
            source = f"import torch\nfrom torch import nn\n\n{textwrap.dedent(model)}"
            (folder / f"{module}.py").write_text(source)
            lines.insert(1, f'model = "{module}:build"')
        (folder / "ckmigrate.toml").write_text("\n".join(lines) + "\n")
        self.snapshot(base or {})

    def add(self, number: int, script: str | Script) -> None:
        script = Script(script) if isinstance(script, str) else script
        before = None if number == 1 else revision(number - 1)
        # torch only where it is used: what a script imports, every plan pays for.
        needed = "torch" in script.body + script.rest
        imports = "import torch\n" * needed + "from ckmigrate import concat, init, stack\n"
        text = f'"""Step {number}."""\n\n{imports}\n'
        text += f"revision = {revision(number)!r}\nrevises = {before!r}\napi = 1\n"
        text += f"release = {script.release!r}\n" if script.release else ""
        text += f"{script.literals}\n\n\ndef upgrade(ck):\n"
        text += textwrap.indent(textwrap.dedent(script.body).strip() or "pass", "    ")
        text += f"\n\n\n{textwrap.dedent(script.rest)}\n"
        (self.folder / "migrations" / f"{number:04}_step_{number}.py").write_text(text)

    def snapshot(self, base: Mapping[str, State] | State) -> None:
        named: dict[str, dict[str, Tensor]] = {}
        for key, value in base.items():
            if isinstance(value, Tensor):
                named.setdefault("default", {})[key] = value
            else:
                named[key] = dict(value)
        for name, state in named.items():
            path = self.project.snapshot_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render_snapshot(Snapshot(schema_of(state), (), name)))

    @property
    def project(self) -> Project:
        return find_project(self.folder)

    @property
    def history(self) -> History:
        return read_history(self.project.migrations)

    def save(self, content: object, name: str = "old.pt", **options: object) -> Path:
        """Save as users do; the suffix chooses between torch and safetensors."""
        path = self.folder / name
        content = content.state_dict() if isinstance(content, nn.Module) else content
        if path.suffix == ".safetensors":
            assert isinstance(content, dict)
            save_file(content, path, **options)  # type: ignore[arg-type]
            with_room(path)
        else:
            torch.save(content, path, **options)  # type: ignore[arg-type]
        return path

    def prepare(
        self,
        path: Path,
        request: Request | None = None,
        *,
        direction: Literal["up", "down"] = "up",
    ) -> Prepared:
        return prepare(
            self.project, self.history, path, request or self.request(path), direction=direction
        )

    def request(self, path: Path, **options: object) -> Request:
        """Of an untagged file: from base; without the model where the project has none."""
        options.setdefault("use_model", bool(self.project.models))
        if "from_revision" not in options:
            tagged = open_checkpoint(path, carry=self.project.carry).tag is not None
            options["from_revision"] = None if tagged else "base"
        return Request(**options)  # type: ignore[arg-type]

    def run(
        self,
        path: Path,
        out: str | Path,
        direction: Literal["up", "down"] = "up",
        **options: object,
    ) -> Outcome:
        prepared = self.prepare(path, self.request(path, **options), direction=direction)
        return carry_out(prepared, Destination(self.folder / out))

    def upgrade(self, path: Path, out: str | None = None, **options: object) -> Path:
        """The upgraded file, "new" with the suffix of the old one unless `out` names it."""
        name = out or f"new{path.suffix}"
        self.run(path, name, "up", **options)
        return self.folder / name

    def downgrade(self, path: Path, out: str | None = None, **options: object) -> Path:
        name = out or f"back{path.suffix}"
        self.run(path, name, "down", **{"to": "base", **options})
        return self.folder / name

    def refusal(self, path: Path, out: str = "new.pt", **options: object) -> CkmigrateError:
        """The error of an upgrade that is refused; asserts that nothing at all was written."""
        before = names_in(self.folder)
        try:
            self.upgrade(path, out, **options)
        except CkmigrateError as error:
            assert names_in(self.folder) == before
            return error
        raise AssertionError("it was not refused")


def names_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "__pycache__")


def load(path: Path) -> dict[str, Tensor]:
    """The content of a file as its users read it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    content: dict[str, Tensor] = torch.load(path, weights_only=True)
    return content


def tag_of(path: Path) -> Tag:
    text = open_checkpoint(path).tag
    assert text is not None, f"{path.name} has no tag"
    return parse_tag(text)


def schema_of(state: State) -> Schema:
    return Schema(
        (name, TensorSpec(DType.parse(tensor.dtype), tuple(tensor.shape)))
        for name, tensor in state.items()
    )


def same(one: State, other: State, names: Sequence[str] | None = None) -> bool:
    """Whether both hold the same names (or at least `names`), dtypes, shapes and bits."""
    if names is None and one.keys() != other.keys():
        return False
    return all(_bits(one[n]) == _bits(other[n]) for n in (one if names is None else names))


def _bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), plain.view(torch.uint8).numpy().tobytes()
