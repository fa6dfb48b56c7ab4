"""Torch distributed checkpoints by the real command, run as a process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import carry_out
from tests.cli_inside import InsideToy
from tests.cli_project import BASE, IDS, Toy, make_toy
from tests.dcp_folders import grid, handmade, load, metadata_of, rows, save, whole
from tests.projects import Zoo
from tests.shards import content, digest

TAG = "ckmigrate.json"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


def values() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {key: torch.randn(shape) for key, shape in BASE.items()}


def saved(toy: Toy, name: str = "ck", **beside: object) -> Path:
    """As two ranks leave it: rows, columns, and what only one of them had."""
    old = values()
    first, second, weight, bias, counter = old
    tensors = {
        f"model.{first}": rows(old[first], 7, 5),
        f"model.{second}": grid(old[second], (6, 6), (1, 3)),
        f"model.{weight}": rows(old[weight], 2, 1),
        f"model.{bias}": rows(old[bias], 2, 1),
        f"model.{counter}": whole(old[counter]),
    }
    objects = {"step": 7, **beside}
    paths: dict[str, Any] = {f"model.{key}": ("model", key) for key in old}
    paths |= {key: tuple(key.split(".")) for key in objects}
    return handmade(toy.root / name, tensors, objects=objects, paths=paths)


def migrated() -> dict[str, Tensor]:
    old = values()
    new = {"head.weight": old["head.weight"], "head.bias": old["head.bias"]}
    for layer in range(2):
        parts = old[f"body.layers.{layer}.qkv.weight"].chunk(3)
        for letter, part in zip("qkv", parts, strict=True):
            new[f"encoder.layers.{layer}.{letter}.weight"] = part.clone()
    return {**new, "scale": torch.ones(3)}


def renamed() -> dict[str, Tensor]:
    return {key.replace("body.", "encoder."): tensor for key, tensor in values().items()}


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


def assert_holds(path: Path, wanted: dict[str, Tensor], **beside: object) -> None:
    """torch finds exactly these tensors, and what is beside them."""
    empty = {"model": zeros(wanted), **dict.fromkeys(beside)}
    found = load(path, empty)
    assert found["model"].keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(found["model"][key], tensor), key
    assert {key: found[key] for key in beside} == beside
    names = metadata_of(path).state_dict_metadata.keys()
    assert names == {*(f"model.{key}" for key in wanted), *beside}


def test_a_folder_is_upgraded_checked_and_led_back(toy: Toy) -> None:
    source = saved(toy)
    before = digest(source)
    done = toy.run("upgrade", "ck", "-o", "new", "--json")
    assert done.code == 0, done.err
    assert done.json["results"][0]["verified_by"] == "strict load"
    assert digest(source) == before
    assert_holds(toy.root / "new", migrated(), step=7)
    assert toy.run("verify", "new").code == 0
    current = toy.run("current", "new", "ck", "new/.metadata", "--json")
    assert [found["revision"] for found in current.json["results"]] == [IDS[-1], None, IDS[-1]]
    assert toy.run("identify", "new").code == 0
    assert toy.run("diff", "new", "model").code == 0
    assert toy.run("plan", "ck").code == 0
    found = toy.run("inspect", "new", "--json").json
    assert found["format"] == "dcp"
    assert [entry["name"] for entry in found["entries"]]
    assert toy.run("inspect", "new").code == 0


def test_a_renamed_folder_keeps_its_data_files(toy: Toy) -> None:
    source = saved(toy)
    before = digest(source)
    assert before is not None
    done = toy.run("upgrade", "ck", "--to", IDS[0], "-o", "new")
    assert done.code == 0, done.err
    after = digest(toy.root / "new")
    assert after is not None
    assert {name for name in after if after[name] != before.get(name)} == {".metadata", TAG}
    assert after.keys() - before.keys() == {TAG}
    assert_holds(toy.root / "new", renamed(), step=7)
    assert metadata_of(toy.root / "new").storage_meta == metadata_of(source).storage_meta
    plan = metadata_of(toy.root / "new").planner_data
    assert plan["model.encoder.layers.0.qkv.weight"] == ("model", "encoder.layers.0.qkv.weight")


def test_a_tag_alone_changes_no_other_byte(toy: Toy) -> None:
    source = saved(toy)
    before = digest(source)
    assert before is not None
    done = toy.run("stamp", "ck", "base", "--in-place", "--no-backup", "--no-model")
    assert done.code == 0, done.err
    after = digest(source)
    assert after is not None
    assert {name for name in after if after[name] != before.get(name)} <= {".metadata", TAG}
    assert_holds(source, values(), step=7)
    current = toy.run("current", "ck", "--json").json["results"][0]
    assert (current["revision"], current["evidence"]) == (None, "tag")


def test_in_place_the_old_folder_stays_as_a_backup(toy: Toy) -> None:
    source = saved(toy)
    before = digest(source)
    done = toy.run("upgrade", "ck/", "--in-place", "--no-model")
    assert done.code == 0, done.err
    assert digest(toy.root / "ck.bak-base") == before
    assert_holds(source, migrated(), step=7)
    after = digest(source)
    again = toy.run("upgrade", "ck", "--in-place")
    assert (again.code, digest(source)) == (0, after)
    assert "not touched" in again.out


def test_a_downgrade_leads_back(toy: Toy) -> None:
    saved(toy)
    assert toy.run("upgrade", "ck", "--to", IDS[1], "-o", "new").code == 0
    done = toy.run("downgrade", "new", "--to", "base", "--in-place", "--no-backup")
    assert done.code == 0, done.err
    assert_holds(toy.root / "new", values(), step=7)


def test_tensors_without_elements_are_written(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0), "none": torch.zeros(0, 2)}
    zoo = Zoo(tmp_path / "p", "ck.init('new', shape=(0,))\nck.flatten('none')", base=state)
    prepared = zoo.prepare(path := save(zoo.folder / "old", state), zoo.request(path))
    carry_out(prepared, Destination(zoo.folder / "new", folder=True))
    wanted = {"a": state["a"], "none": torch.zeros(0), "new": torch.zeros(0)}
    found = load(zoo.folder / "new", zeros(wanted))
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_the_same_input_gives_the_same_bytes(toy: Toy) -> None:
    saved(toy)
    for name in ("one", "two"):
        assert toy.run("upgrade", "ck", "-o", name, "--no-model").code == 0
    assert digest(toy.root / "one") == digest(toy.root / "two")


@pytest.mark.parametrize("name", ["new.safetensors", "new.pt", "new/"])
def test_it_becomes_any_other_format(toy: Toy, name: str) -> None:
    saved(toy)
    more = ["--max-shard-size", "100B"] if name == "new/" else []
    only = [] if name == "new.pt" else ["--weights-only"]
    if only:
        refused = toy.run("upgrade", "ck", "-o", name, *more)
        assert refused.code == 7
        assert "'step'" in refused.err
    done = toy.run("upgrade", "ck", "-o", name, *more, *only, "--no-model")
    assert done.code == 0, done.err
    path = toy.root / name
    found: Any = content(path) if name == "new/" else None
    if name == "new.safetensors":
        found = load_file(path)
    elif name == "new.pt":
        whole_file = torch.load(path, weights_only=True)
        assert whole_file["step"] == 7
        found = whole_file["model"]
    wanted = migrated()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_any_other_format_becomes_one(toy: Toy) -> None:
    toy.checkpoint()
    old = load_file(toy.root / "old.safetensors")
    torch.save({"model": values(), "step": 7, "list": [torch.ones(2), {"a": 1}]}, toy.root / "a.pt")
    for source in ("old.safetensors", "a.pt"):
        more = ("-o", f"new-{source[0]}", "--to-format", "dcp")
        done = toy.run("upgrade", source, "--to", IDS[0], *more)
        assert done.code == 0, done.err
    flat = {key.replace("body.", "encoder."): tensor for key, tensor in old.items()}
    found = load(toy.root / "new-o", zeros(flat))
    assert all(torch.equal(found[key], tensor) for key, tensor in flat.items())
    beside = {"step": 0, "list": [torch.zeros(2), {"a": 0}]}
    nested = load(toy.root / "new-a", {"model": zeros(renamed()), **beside})
    assert nested["step"] == 7
    assert nested["list"][1] == {"a": 1}
    assert torch.equal(nested["list"][0], torch.ones(2))
    assert toy.run("upgrade", "new-a", "-o", "b.pt", "--to", IDS[0]).code == 0
    back = torch.load(toy.root / "b.pt", weights_only=True)
    assert back.keys() == {"model", "step", "list", "ckmigrate"}
    assert all(torch.equal(back["model"][key], t) for key, t in renamed().items())


def test_what_lies_beside_the_data_comes_along(toy: Toy) -> None:
    source = saved(toy)
    (source / "notes").mkdir()
    (source / "notes" / "run.txt").write_text("lr 0.1")
    done = toy.run("upgrade", "ck", "-o", "new", "--no-model")
    assert done.code == 0, done.err
    assert (toy.root / "new" / "notes" / "run.txt").read_text() == "lr 0.1"


def test_metadata_is_read_and_edited(toy: Toy) -> None:
    toy.script(4, "name_it", '    ck.meta.set("config.heads", ck.meta["config.heads"] * 2)\n')
    config: dict[str, Any] = {"config.heads": 2}
    saved(toy, **config)
    done = toy.run("upgrade", "ck", "-o", "new", "--no-model")
    assert done.code == 0, done.err
    state = {"model": zeros(migrated()), "config": {"heads": 0}, "step": 0}
    assert load(toy.root / "new", state)["config"] == {"heads": 4}


def test_a_folder_saved_over_a_tagged_one_has_no_tag(toy: Toy) -> None:
    assert toy.run("upgrade", saved(toy).name, "-o", "new", "--to", IDS[0]).code == 0
    save(toy.root / "new", {"model": values()})
    current = toy.run("current", "new", "--json").json["results"][0]
    assert (current["revision"], current["evidence"] == "tag") == (None, False)
    assert "older .metadata" in toy.run("inspect", "new").out


def test_a_plain_tag_file_counts(toy: Toy) -> None:
    assert toy.run("upgrade", saved(toy).name, "-o", "new", "--to", IDS[0]).code == 0
    path = toy.root / "new" / TAG
    path.write_text(json.loads(path.read_text())["tags"][0]["tag"])
    current = toy.run("current", "new", "--json").json["results"][0]
    assert (current["revision"], current["evidence"]) == (IDS[0], "tag")


def test_most_of_a_file_unused_is_written_anew(toy: Toy) -> None:
    source = saved(toy, log="x" * 100_000)
    done = toy.run("upgrade", "ck", "-o", "new", "--weights-only", "--to", IDS[0])
    assert done.code == 0, done.err
    new = toy.root / "new"
    size = sum(path.stat().st_size for path in new.iterdir())
    assert size < sum(path.stat().st_size for path in source.iterdir()) / 2
    found = load(new, zeros(renamed()))
    assert all(torch.equal(found[key], tensor) for key, tensor in renamed().items())


def test_nothing_is_left_behind(toy: Toy) -> None:
    saved(toy)
    assert toy.run("upgrade", "ck", "--in-place", "--no-backup", "--no-model").code == 0
    assert not [name for name in os.listdir(toy.root) if name.startswith(".ckm")]
    assert not list(toy.root.glob("ck.bak*"))
    assert sorted(os.listdir(toy.root / "ck"))[0] == ".metadata"


def test_a_search_takes_each_folder_as_one_checkpoint(toy: Toy) -> None:
    for name in ("runs/one", "runs/two"):
        saved(toy, name)
    done = toy.run("current", "runs", "--json")
    assert [Path(found["path"]).name for found in done.json["results"]] == ["one", "two"]


def test_a_folder_changes_in_place_without_moving_a_chunk_and_back(toy: Toy) -> None:
    source = saved(toy)
    data = {path.name: path.read_bytes() for path in source.glob("*.distcp")}
    fast = ("--in-place", "--fast", "--no-model")
    planned = toy.run("plan", "ck", "--to", "1").out
    assert "  fast        yes: --in-place --fast moves no tensor" in planned
    (plan,) = toy.run("plan", "ck", "--json").json["results"]
    assert not plan["fast"]["possible"]
    (result,) = toy.run("upgrade", "ck", "--to", "1", *fast, "--json").json["results"]
    assert result["fast"] is True
    assert result["backup"].endswith("ck.undo-base")
    assert_holds(source, renamed(), step=7)
    assert {path.name: path.read_bytes() for path in source.glob("*.distcp")} == data
    assert IDS[0] in toy.run("current", "ck/.metadata").out
    refused = toy.run("upgrade", "ck", *fast)
    assert refused.code == 5
    assert "CKM580" in refused.err
    assert toy.run("downgrade", "ck/.metadata", "--to", "base", *fast, "--no-backup").code == 0
    assert_holds(source, values(), step=7)
    (source / TAG).unlink()
    assert toy.run("stamp", "ck", "base", *fast).code == 0
    assert (source / TAG).exists()
    assert toy.run("undo", "ck/.metadata").code == 0
    assert not (source / TAG).exists()


@pytest.mark.parametrize("verb", ["current", "plan"])
def test_a_save_that_was_cut_off_is_told(toy: Toy, verb: str) -> None:
    saved(toy, "runs/step-1")
    (saved(toy, "runs/step-2") / ".metadata").unlink()
    for path in ("runs/step-2", "runs"):
        ran = toy.run(verb, path)
        assert (ran.code, "error[CKM787]" in ran.err) == (7, True)
        assert "step-2 has data of a distributed checkpoint, and no .metadata" in ran.err
        assert "save writes .metadata last" in ran.err
    assert "runs/step-1" in ran.out


def test_a_data_file_alone_leads_to_its_folder(toy: Toy) -> None:
    saved(toy)
    ran = toy.run("current", "ck/__0_0.distcp")
    assert (ran.code, "error[CKM708]" in ran.err) == (7, True)
    assert "fix: Give ck." in ran.err
