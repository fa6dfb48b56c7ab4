"""Folders of shards by the real command, run as a process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests.cli_inside import InsideToy
from tests.cli_project import BASE, IDS, Toy, make_toy
from tests.shards import content, digest, folder, index_of, shards_of


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


def model(toy: Toy, name: str = "model") -> Path:
    torch.manual_seed(1)
    state = {key: torch.randn(shape) for key, shape in BASE.items()}
    names = list(state)
    shards = [{key: state[key] for key in names[start::3]} for start in range(3)]
    others = {"README.md": "# Toy\n", "sub/vocab.txt": "a b"}
    return folder(toy.root / name, shards, config={"n_head": 2}, others=others)


def test_a_folder_is_upgraded_checked_and_led_back(toy: Toy) -> None:
    source = model(toy)
    before = digest(source)
    done = toy.run("upgrade", "model", "-o", "new", "--json")
    assert done.code == 0, done.err
    (result,) = done.json["results"]
    assert result["output"] == "new"
    assert result["verified_by"] == "strict load"
    assert digest(source) == before
    assert toy.run("verify", "new").code == 0
    current = toy.run("current", "new", "model", "new/model.safetensors.index.json", "--json")
    assert [found["revision"] for found in current.json["results"]] == [IDS[-1], None, IDS[-1]]
    assert toy.run("diff", "new", "model").code == 0
    assert (toy.root / "new" / "README.md").read_text() == "# Toy\n"


def test_in_place_the_old_folder_stays_as_a_backup(toy: Toy) -> None:
    source = model(toy)
    before = digest(source)
    done = toy.run("upgrade", "model/", "--in-place")
    assert done.code == 0, done.err
    assert "model.bak-base" in done.out
    assert digest(toy.root / "model.bak-base") == before
    assert "scale" in content(source)
    after = digest(source)
    again = toy.run("upgrade", "model", "--in-place")
    assert (again.code, digest(source)) == (0, after)
    assert "not touched" in again.out
    assert sorted(path.name for path in toy.root.glob("*model*")) == [
        "model",
        "model.bak-base",
        "toy_model.py",
    ]


def test_in_place_without_a_backup_by_the_index(toy: Toy) -> None:
    source = model(toy)
    done = toy.run("upgrade", "model/model.safetensors.index.json", "--in-place", "--no-backup")
    assert done.code == 0, done.err
    assert "scale" in content(source)
    assert not list(toy.root.glob("model.bak*"))
    assert not [name for name in os.listdir(toy.root) if name.startswith(".ckm")]


def test_several_folders_go_into_a_folder(toy: Toy) -> None:
    model(toy, "one")
    model(toy, "two")
    done = toy.run("upgrade", "one", "two/", "--out-dir", "out")
    assert done.code == 0, done.err
    assert sorted(os.listdir(toy.root / "out")) == ["one", "two"]


def test_stamp_tags_every_part(toy: Toy) -> None:
    model(toy)
    assert toy.run("stamp", "model", "base", "-o", "tagged", "--no-model").code == 0
    tag = index_of(toy.root / "tagged")["metadata"]["ckmigrate"]
    assert json.loads(str(tag))["revision"] is None


def test_plan_and_inspect_read_headers_only(toy: Toy) -> None:
    model(toy)
    before = digest(toy.root / "model")
    plan = toy.run("plan", "model", "--json")
    assert plan.code == 0, plan.err
    seen = toy.run("inspect", "model", "--json").json
    assert seen["format"] == "sharded"
    assert {file["name"] for file in seen["files"]} == {
        *(name for name in before or {} if name != "sub"),
    }
    assert "model-00001-of-00003.safetensors" in toy.run("inspect", "model").out


def test_a_size_makes_a_new_layout_and_a_slash_a_folder(toy: Toy) -> None:
    toy.checkpoint("old.safetensors")
    assert toy.run("upgrade", "old.safetensors", "-o", "many", "--max-shard-size", "100").code == 0
    assert len(shards_of(toy.root / "many")) > 2
    assert toy.run("upgrade", "old.safetensors", "-o", "one/").code == 0
    assert os.listdir(toy.root / "one") == ["model.safetensors"]
    single = toy.run("upgrade", "many", "-o", "single.safetensors")
    assert single.code == 0
    assert "there; the result is" not in single.err  # nothing but an index
    assert (toy.root / "single.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("old.safetensors", "-o", "x.pt", "--max-shard-size", "1GB"), 2, "CKM233"),
        (("old.safetensors", "--in-place", "--max-shard-size", "1GB"), 2, "CKM233"),
        (("old.safetensors", "-o", "x/", "--max-shard-size", "huge"), 2, "CKM231"),
        (("model", "-o", "full"), 7, "CKM751"),
        (("model", "-o", "old.safetensors"), 7, "CKM751"),
        (("old.safetensors", "-o", "full"), 2, "CKM232"),
    ],
)
def test_what_cannot_be_written_is_refused(
    toy: Toy, arguments: tuple[str, ...], code: int, what: str
) -> None:
    toy.checkpoint("old.safetensors")
    model(toy)
    (toy.root / "full").mkdir()
    (toy.root / "full" / "mine.txt").write_text("mine")
    before = sorted(os.listdir(toy.root))
    done = toy.run("upgrade", *arguments, "--no-model")
    assert (done.code, what in done.err) == (code, True), done.err
    assert sorted(os.listdir(toy.root)) == before
    assert os.listdir(toy.root / "full") == ["mine.txt"]


def test_a_shard_that_is_named_alone_leads_to_its_folder(toy: Toy) -> None:
    model(toy)
    before = toy.files()
    ran = toy.run("upgrade", "model/model-00002-of-00003.safetensors", "--in-place", "--no-model")
    assert (ran.code, "error[CKM414]" in ran.err) == (4, True)
    assert "one of several shards" in ran.err
    assert "fix: Give the folder" in ran.err
    assert "--from" not in ran.err
    assert toy.files() == before


@pytest.mark.parametrize("place", [("-o", "one.pt"), ("-o", "d", "--to-format", "dcp")])
def test_an_edited_configuration_needs_a_folder(toy: Toy, place: tuple[str, ...]) -> None:
    body = '    ck.meta.rename("config.n_head", "config.heads", optional=True)\n'
    toy.script(4, "heads", body, revision="d4d4d4d4d4")
    model(toy)
    ran = toy.run("upgrade", "model", *place, "--no-model")
    assert (ran.code, "error[CKM740]" in ran.err) == (7, True)
    assert "fix: Write a folder (-o NAME/) to keep them" in ran.err
    assert toy.run("upgrade", "model", "-o", "kept/", "--no-model").code == 0
    assert json.loads((toy.root / "kept" / "config.json").read_text()) == {"heads": 2}


def test_two_layouts_at_once_are_refused(toy: Toy) -> None:
    model(toy)
    ran = toy.run("upgrade", "model", "-o", "d", "--to-format", "dcp", "--max-shard-size", "1MB")
    assert (ran.code, "error[CKM233]" in ran.err) == (2, True)
    assert not (toy.root / "d").exists()
