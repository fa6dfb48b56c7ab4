"""`ckmigrate.tag`: what training scripts save is found by every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckmigrate
from ckmigrate import CkmigrateError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.tagging import parse_tag
from tests import dcp_folders
from tests.cli_project import IDS, Toy
from tests.projects import Zoo, revision

HEAD = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
SCRIPT = 'ck.rename("old.{p}", "a.{p}")'


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    base = {name.replace("a.", "old."): tensor for name, tensor in HEAD.items()}
    return Zoo(tmp_path / "zoo", SCRIPT, base=base)


def model() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(3, 2)})


def found(zoo: Zoo, path: Path) -> str | None:
    """The revision that a file is at, by its tag."""
    prepared = zoo.prepare(path, zoo.request(path))
    assert prepared.identity.evidence == "tag"
    return prepared.identity.revision


def test_a_dict_around_the_weights_is_stamped(zoo: Zoo) -> None:
    path = zoo.save({"model": HEAD, "step": 1, **ckmigrate.tag(project=zoo.folder)})
    assert found(zoo, path) == revision(1)
    assert torch.load(path, weights_only=True)["step"] == 1


def test_a_flat_state_dict_is_stamped(zoo: Zoo) -> None:
    path = zoo.save({**HEAD, **ckmigrate.tag(project=zoo.folder)})
    assert found(zoo, path) == revision(1)


def test_a_safetensors_file_is_stamped(zoo: Zoo) -> None:
    path = zoo.folder / "new.safetensors"
    save_file(HEAD, path, metadata=ckmigrate.tag_metadata(project=zoo.folder))
    assert found(zoo, path) == revision(1)
    assert open_checkpoint(path).metadata == {"format": "pt"}


def test_the_tag_is_that_of_the_command(toy: Toy) -> None:
    text = ckmigrate.tag(project=toy.root)["ckmigrate"]
    toy.checkpoint()
    assert toy.run("upgrade", "old.safetensors", "-o", "new.safetensors").code == 0
    written = open_checkpoint(toy.root / "new.safetensors").tag
    assert written is not None
    ours, theirs = parse_tag(text), parse_tag(written)
    for name in ("project", "revision", "name", "release", "writer"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.revision, ours.release, ours.history) == (IDS[2], "1.3", ())


def test_two_heads_are_refused(zoo: Zoo) -> None:
    zoo.add(2, "pass")
    zoo.add(3, "pass")
    other = zoo.folder / "migrations" / "0003_step_3.py"
    other.write_text(other.read_text().replace(revision(2), revision(1)))
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.tag(project=zoo.folder)
    assert caught.value.code == "CKM316"


def test_an_empty_history_is_the_base(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    path = zoo.save({"model": HEAD, **ckmigrate.tag(project=zoo.folder)})
    assert found(zoo, path) is None


# --- with the model ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, torch.compile])
def test_a_model_at_the_head_is_stamped(zoo: Zoo, wrap: object) -> None:
    assert callable(wrap)
    assert ckmigrate.tag(wrap(model()), project=zoo.folder) == ckmigrate.tag(project=zoo.folder)


def test_a_model_that_moved_on_is_refused(zoo: Zoo) -> None:
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.tag(nn.ModuleDict({"a": nn.Linear(3, 4)}), project=zoo.folder)
    error = caught.value
    assert (error.code, error.exit_code) == ("CKM622", 6)
    assert any("a.weight is [4,3], the head wants [2,3]" in line for line in error.details)


def test_each_of_several_models_may_be_at_the_head(zoo: Zoo) -> None:
    large = {"old.weight": torch.ones(4, 3), "old.bias": torch.zeros(4)}
    zoo.snapshot({"large": large})
    for size in (2, 4):
        ckmigrate.tag(nn.ModuleDict({"a": nn.Linear(3, size)}), project=zoo.folder)
    with pytest.raises(CkmigrateError):
        ckmigrate.tag(nn.ModuleDict({"a": nn.Linear(3, 5)}), project=zoo.folder)


def test_a_head_may_keep_tied_entries_once(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "", base={"embed.weight": torch.ones(5, 3)})
    tied = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    assert ckmigrate.tag(nn.ModuleDict({"embed": nn.Embedding(5, 3)}), project=zoo.folder)
    with pytest.raises(CkmigrateError):
        ckmigrate.tag(tied, project=zoo.folder)
    tied["head"].weight = tied["embed"].weight
    assert ckmigrate.tag(tied, project=zoo.folder)


def test_without_a_snapshot_a_model_cannot_be_compared(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", SCRIPT)
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.tag(model(), project=zoo.folder)
    assert caught.value.code == "CKM271"


# --- distributed checkpoints ------------------------------------------------------------------


@pytest.mark.parametrize("as_object", [True, False])
def test_a_distributed_checkpoint_is_stamped(zoo: Zoo, as_object: bool) -> None:
    stamp = ckmigrate.Stamp(project=zoo.folder)
    tag = {"ckmigrate": stamp} if as_object else ckmigrate.tag(project=zoo.folder)
    path = dcp_folders.save(zoo.folder / "step", {"model": HEAD, **tag})
    assert found(zoo, path) == revision(1)


def test_a_flat_distributed_checkpoint_is_stamped(zoo: Zoo) -> None:
    path = dcp_folders.save(zoo.folder / "step", {**HEAD, **ckmigrate.tag(project=zoo.folder)})
    assert found(zoo, path) == revision(1)


def test_a_stamp_is_led_along_so_that_it_can_be_loaded_again(zoo: Zoo) -> None:
    before = ckmigrate.Stamp(project=zoo.folder)
    path = dcp_folders.save(zoo.folder / "step", {"model": HEAD, "ckmigrate": before})
    zoo.add(2, 'ck.rename("a.{p}", "b.{p}")')
    after = ckmigrate.Stamp(project=zoo.folder)
    for name, in_place in (("new", False), ("step", True), ("fast", True)):
        if name == "fast":
            path = dcp_folders.save(zoo.folder / "fast", {"model": HEAD, "ckmigrate": before})
        ckmigrate.upgrade(
            path,
            None if in_place else zoo.folder / name,
            in_place=in_place,
            fast=name == "fast",
            no_model=True,
            project=zoo.folder,
        )
        assert found(zoo, zoo.folder / name) == revision(2)
        state = {"b.weight": torch.zeros(2, 3), "b.bias": torch.ones(2)}
        dcp_folders.load(zoo.folder / name, {"model": state, "ckmigrate": after})
        assert torch.equal(state["b.weight"], HEAD["a.weight"])


def test_a_stamp_refuses_a_checkpoint_of_another_revision(zoo: Zoo) -> None:
    before = ckmigrate.Stamp(project=zoo.folder)
    path = dcp_folders.save(zoo.folder / "step", {"model": HEAD, "ckmigrate": before})
    # Names and shapes stay: nothing else would notice.
    zoo.add(2, 'ck.permute("a.bias", (0,))')
    after = ckmigrate.Stamp(project=zoo.folder)
    with pytest.raises(CkmigrateError) as caught:
        dcp_folders.load(path, {"model": dict(HEAD), "ckmigrate": after})
    assert caught.value.code == "CKM417"


def test_a_tag_beside_the_state_dict_that_says_something_else_is_refused(zoo: Zoo) -> None:
    tag = ckmigrate.tag(project=zoo.folder)
    path = dcp_folders.save(zoo.folder / "step", {"model": HEAD, **tag})
    (path / "ckmigrate.json").write_text(tag["ckmigrate"].replace(revision(1), revision(2)))
    with pytest.raises(CkmigrateError) as caught:
        open_checkpoint(path)
    assert caught.value.code == "CKM716"
