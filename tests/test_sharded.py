"""Folders of shards through the whole pipeline, with files of the usual writers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ckmigrate.errors import CkmigrateError, IdentifyError, MigrationError, StorageError
from ckmigrate.execute.commit import Destination
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.migrate import carry_out, identify_opened, open_weights
from tests.projects import Zoo, same, tag_of
from tests.shards import CONFIG, content, digest, folder, index_of, name_of, shards_of

SPLIT = """
ck.rename("a.{i}.w", "b.{i}.w")
ck.split("qkv", ("q", "k", "v"), dim=0)
ck.init("new", shape=(3,))
"""


def state() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [
        {"a.0.w": torch.randn(4, 4), "a.1.w": torch.randn(4, 4)},
        {"qkv": torch.randn(6, 3), "half": torch.randn(5).half()},
        {"last": torch.arange(7)},
    ]


def old(zoo: Zoo, name: str = "old", **options: Any) -> Path:
    options.setdefault("config", CONFIG)
    options.setdefault("others", {"tokenizer.json": "{}", "sub/deep/x.txt": "x"})
    return folder(zoo.folder / name, state(), **options)


def refused(path: Path) -> CkmigrateError:
    with pytest.raises(StorageError) as caught:
        open_checkpoint(path)
    assert caught.value.fix
    return caught.value


# --- reading ----------------------------------------------------------------------------------


def test_a_folder_and_its_index_are_the_same_checkpoint(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state(), config=CONFIG)
    whole = open_checkpoint(path)
    assert whole.format == "sharded"
    assert {file.path.name for file in whole.files} == set(os.listdir(path))
    by_index = open_checkpoint(path / "model.safetensors.index.json")
    assert (by_index.path, by_index.files) == (whole.path, whole.files)


def test_a_folder_with_one_file_of_weights_needs_no_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"n": 1}')
    stored = open_checkpoint(tmp_path)
    assert stored.folder is not None
    assert stored.folder.index is None
    assert stored.metadata["config"] == {"n": 1}


def test_links_to_files_are_read_as_files_as_model_hubs_keep_them(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    for file in list(path.iterdir()):
        blob = tmp_path / "blobs" / str(abs(hash(file.name)))
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(Path("..", "blobs", blob.name))
    zoo = Zoo(tmp_path / "p", SPLIT)
    new = zoo.upgrade(path, "new")
    assert torch.equal(content(new)["b.0.w"], state()[0]["a.0.w"])
    assert not any(file.is_symlink() for file in new.iterdir())


def rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    index = path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    change(document)
    index.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/etc/passwd", "..", "", "sub/a", "a\\b", "a\nb", "x" * 300]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "m", state())
    rewrite(path, lambda d: d["weight_map"].update(last=name))  # type: ignore[attr-defined]
    assert refused(path).code == "CKM762"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "model.safetensors", "a": "b.safetensors"}}',
        '{"metadata": [], "weight_map": {"a": "b"}}',
        '{"metadata": {"ckmigrate": 1}, "weight_map": {"a": "b"}}',
        "[" * 100_000,
        '{"weight_map": {"\\ud800": "b"}}',
        "\xff\xfe",
    ],
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    assert refused(tmp_path).code == "CKM761"


def test_all_missing_shards_are_named_at_once(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    (path / name_of(1, 3)).unlink()
    (path / name_of(3, 3)).unlink()
    (path / name_of(3, 3)).symlink_to("nowhere")
    error = refused(path)
    assert error.code == "CKM763"
    assert error.details == (name_of(1, 3), name_of(3, 3))


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    os.truncate(path / name_of(2, 3), 100)
    assert refused(path).code == "CKM700"


def test_a_tensor_that_its_shard_does_not_have_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    rewrite(path, lambda d: d["weight_map"].update(ghost=name_of(1, 3)))  # type: ignore[attr-defined]
    error = refused(path)
    assert error.code == "CKM764"
    assert "'ghost'" in error.details[0]


def test_a_tensor_that_the_index_does_not_know_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    rewrite(path, lambda d: d["weight_map"].pop("half"))  # type: ignore[attr-defined]
    assert "does not know it" in refused(path).details[0]


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    save_file({**state()[0], "last": torch.zeros(7)}, path / name_of(1, 3))
    error = refused(path)
    assert error.code == "CKM764"
    assert name_of(1, 3) in error.details[0]
    assert name_of(3, 3) in error.details[0]


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    rewrite(path, lambda d: d["weight_map"].update(last=name_of(1, 3)))  # type: ignore[attr-defined]
    assert "the index says" in refused(path).details[0]


def test_several_indexes_are_asked_about(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state(), index="a.safetensors.index.json")
    text = (path / "a.safetensors.index.json").read_text()
    (path / "b.safetensors.index.json").write_text(text)
    assert refused(path).code == "CKM765"
    assert open_checkpoint(path / "b.safetensors.index.json").folder


def test_shards_that_disagree_about_metadata_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state())
    save_file(state()[2], path / name_of(3, 3), metadata={"format": "tf"})
    error = refused(path)
    assert error.code == "CKM767"
    assert name_of(3, 3) in str(error.why)


def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state(), others={"config.json": "{'a': 1}"})
    assert refused(path).code == "CKM768"


def test_shards_of_torch_hold_tensors_only(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", state(), suffix=".bin")
    torch.save({"last": torch.arange(7), "epoch": 3}, path / "pytorch_model-00003-of-00003.bin")
    assert refused(path).code == "CKM766"


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert refused(tmp_path).code == "CKM707"


# --- the tag ----------------------------------------------------------------------------------


def test_the_tag_is_in_the_index_and_in_every_shard(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    new = zoo.upgrade(old(zoo), "new")
    text = index_of(new)["metadata"]["ckmigrate"]
    for name in shards_of(new):
        with safe_open(new / name, "pt") as file:
            assert file.metadata() == {"format": "pt", "ckmigrate": text}
    assert tag_of(new).revision == "0000000001"


def test_parts_with_different_tags_are_named(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    new = zoo.upgrade(old(zoo), "new")
    save_file(shards_of(new)[name_of(3, 3)], new / name_of(3, 3), metadata={"format": "pt"})
    opened = open_weights(new, zoo.project, zoo.request(new, from_revision=None))
    with pytest.raises(IdentifyError) as caught:
        identify_opened(opened, zoo.project, zoo.history, zoo.request(new, from_revision=None))
    assert caught.value.code == "CKM408"
    assert "model.safetensors.index.json says '0000000001'" in str(caught.value.why)
    assert f"{name_of(3, 3)} has no tag" in str(caught.value.why)
    # Who knows better may say so.
    again = zoo.upgrade(new, "again", from_revision="0000000001")
    assert tag_of(again).revision == "0000000001"


# --- writing ----------------------------------------------------------------------------------


def test_every_entry_stays_in_its_shard_and_new_ones_go_to_the_last(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    before = digest(source)
    new = zoo.upgrade(source, "new")
    assert digest(source) == before
    found = shards_of(new)
    assert [set(found[name_of(n, 3)]) for n in (1, 2, 3)] == [
        {"b.0.w", "b.1.w"},
        {"q", "k", "v", "half"},
        {"last", "new"},
    ]
    parts = torch.cat([content(new)[name] for name in "qkv"])
    assert torch.equal(parts, state()[1]["qkv"])
    size = sum(t.numel() * t.element_size() for t in content(new).values())
    assert index_of(new)["metadata"]["total_size"] == size


@pytest.mark.parametrize("with_backup", [True, False])
def test_no_file_is_shared_with_a_folder_that_stays(tmp_path: Path, with_backup: bool) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    large = source / "optimizer-like.bin"
    large.write_bytes(bytes(17 << 20))
    number = large.stat().st_ino
    backup = tmp_path / "backup" if with_backup else None
    carry_out(zoo.prepare(source), Destination(source, in_place=True, folder=True, backup=backup))
    assert (large.stat().st_ino == number) is not with_backup
    if backup is not None:
        large.write_bytes(b"of the next run")
        assert (backup / large.name).stat().st_size == 17 << 20


def test_everything_else_comes_along_as_it_is(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    (source / "empty" / "one").mkdir(parents=True)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    new = zoo.upgrade(source, "new")
    for name in ("config.json", "tokenizer.json", "sub/deep/x.txt", "run.sh"):
        assert (new / name).read_bytes() == (source / name).read_bytes()
        assert (new / name).stat().st_ino != (source / name).stat().st_ino
    assert (new / "empty" / "one").is_dir()
    assert (new / "run.sh").stat().st_mode & 0o777 == 0o755


def test_up_and_down_gives_the_same_folder_but_for_the_tag(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.rename('a.{i}.w', 'b.{i}.w')\nck.split('qkv', ('q', 'k', 'v'), dim=0)\n"
        "ck.meta.rename('config.n_head', 'config.heads')",
    )
    source = old(zoo)
    back = zoo.downgrade(zoo.upgrade(source, "new"), "back")
    assert same(content(back), content(source))
    assert {n: set(s) for n, s in shards_of(back).items()} == {
        n: set(s) for n, s in shards_of(source).items()
    }
    again = zoo.downgrade(zoo.upgrade(back, "new2"), "back2")
    assert digest(again) == digest(back)
    assert (back / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_shard_whose_tensors_all_go_goes_and_the_others_are_numbered_anew(
    tmp_path: Path,
) -> None:
    zoo = Zoo(tmp_path, "ck.drop('a.**', reason='idle')")
    new = zoo.upgrade(old(zoo), "new")
    assert list(shards_of(new)) == [name_of(1, 2), name_of(2, 2)]
    assert not (new / name_of(1, 3)).exists()


def test_names_of_the_users_own_are_kept(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('qkv', reason='x')\nck.drop('half', reason='x')")
    source = old(
        zoo,
        names=["embed.safetensors", "body.safetensors", "head.safetensors"],
        index="toy.safetensors.index.json",
    )
    new = zoo.upgrade(source, "new")
    assert list(shards_of(new)) == ["embed.safetensors", "head.safetensors"]
    assert (new / "toy.safetensors.index.json").exists()
    resized = zoo.upgrade(source, "resized", max_shard_size=40)
    assert all(name.startswith("toy-0000") for name in shards_of(resized))


def test_a_value_made_of_two_shards_is_right(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.concat(['x', 'y'], 'xy')\nck.transpose('z', 0, 1)")
    shards = [{"y": torch.randn(2, 3)}, {"x": torch.randn(4, 3), "z": torch.randn(5, 2)}]
    new = zoo.upgrade(folder(zoo.folder / "old", shards), "new")
    assert torch.equal(content(new)["xy"], torch.cat([shards[1]["x"], shards[0]["y"]]))
    assert torch.equal(content(new)["z"], shards[1]["z"].T)


def test_a_size_for_the_shards_makes_a_new_layout_in_order(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    new = zoo.upgrade(old(zoo), "new", max_shard_size=100)
    sizes = [sum(t.nbytes for t in s.values()) for s in shards_of(new).values()]
    assert len(sizes) > 3
    assert max(sizes) <= 100
    assert same(content(new), content(zoo.upgrade(zoo.folder / "old", "kept")))


def test_a_single_file_becomes_a_folder_and_a_folder_a_single_file(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    path = zoo.save({"a": torch.randn(30), "c": torch.randn(30)}, "old.safetensors")
    many = zoo.upgrade(path, "many", max_shard_size=120)
    assert list(shards_of(many)) == [name_of(1, 2), name_of(2, 2)]
    one = zoo.upgrade(many, "one.safetensors")
    assert same(load_file(one), content(many))
    torch_file = zoo.upgrade(many, "one.pt")
    assert same(torch.load(torch_file, weights_only=True), content(many))
    prepared = zoo.prepare(path, zoo.request(path))
    carry_out(prepared, Destination(zoo.folder / "folder", folder=True))
    assert os.listdir(zoo.folder / "folder") == ["model.safetensors"]


def test_shards_of_torch_stay_shards_of_torch(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = folder(tmp_path / "old", state(), suffix=".bin", config=CONFIG)
    new = zoo.upgrade(source, "new")
    assert set(content(new)) == {"b.0.w", "b.1.w", "q", "k", "v", "half", "last", "new"}
    assert tag_of(new).revision == "0000000001"
    assert zoo.prepare(new).direction == "none"
    os.truncate(source / "pytorch_model-00002-of-00003.bin", 200)
    assert refused(source).code.startswith("CKM7")


def test_an_interrupted_layout_never_hides_a_file_of_the_users(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('a.**', reason='idle')")
    source = old(zoo, others={name_of(1, 2): "mine"})
    assert zoo.refusal(source, "new").code == "CKM771"


def test_what_cannot_come_along_is_named(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    (source / "dangling").symlink_to("nowhere")
    (source / "elsewhere").symlink_to(tmp_path)
    error = zoo.refusal(source, "new")
    assert error.code == "CKM772"
    assert set(error.details) == {"dangling", "elsewhere"}
    assert "config.json" not in os.listdir(zoo.upgrade(source, "bare", weights_only=True))


def test_a_folder_that_is_not_empty_is_never_written_into(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    (tmp_path / "empty").mkdir()
    assert content(zoo.upgrade(source, "empty"))
    before = digest(tmp_path / "empty")
    assert zoo.refusal(source, "empty").code == "CKM751"
    assert digest(tmp_path / "empty") == before


def test_a_file_of_optimizer_state_is_stale_unless_it_is_dropped(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo, others={"optimizer.pt": "state", "scheduler.pt": "s"})
    error = zoo.refusal(source, "new")
    assert error.code == "CKM560"
    (detail,) = error.details
    assert detail.startswith("optimizer.pt: a file of optimizer state that cannot be changed: ")
    new = zoo.upgrade(source, "new", optimizer="drop")
    assert (new / "scheduler.pt").exists()
    assert not (new / "optimizer.pt").exists()


def test_every_file_must_stay_what_it_was(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    for name in ("tokenizer.json", "config.json", name_of(2, 3), "model.safetensors.index.json"):
        prepared = zoo.prepare(source)
        os.utime(source / name, ns=(1, hash(name) & 0xFFFF))
        with pytest.raises(StorageError) as caught:
            carry_out(prepared, Destination(tmp_path / "new"))
        assert caught.value.code == "CKM753"
        assert name in caught.value.what
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("backup", [None, "old.bak-base"])
def test_a_file_that_appears_meanwhile_is_never_lost(tmp_path: Path, backup: str | None) -> None:
    zoo = Zoo(tmp_path, SPLIT)
    source = old(zoo)
    prepared = zoo.prepare(source)
    (source / "sub" / "late.txt").write_text("mine")
    before = digest(source)
    wanted = tmp_path / backup if backup else None
    with pytest.raises(StorageError) as caught:
        carry_out(prepared, Destination(source, in_place=True, backup=wanted))
    assert caught.value.code == "CKM753"
    assert "late.txt" in caught.value.what
    assert digest(source) == before
    assert not (tmp_path / "old.bak-base").exists()


# --- the configuration ------------------------------------------------------------------------


def test_the_configuration_is_edited_in_its_own_layout(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.meta.rename('config.n_head', 'config.num_heads')\nck.meta.set('config.eps', 0.5)\n"
        "assert ck.meta['config.architectures'] == ['Toy']",
    )
    for number, layout in enumerate(
        [{"indent": 4}, {"indent": 2}, {"indent": "\t"}, {}, {"separators": (",", ":")}]
    ):
        source = old(zoo, f"old{number}")
        for ending in ("\n", ""):
            text = json.dumps(CONFIG, ensure_ascii=False, **layout) + ending  # type: ignore[arg-type]
            (source / "config.json").write_text(text, encoding="utf-8")
            new = zoo.upgrade(source, f"new{number}{len(ending)}")
            wanted = text.replace("n_head", "num_heads").replace("1e-05", "0.5")
            assert (new / "config.json").read_text(encoding="utf-8") == wanted


def test_a_configuration_that_is_edited_has_no_place_in_a_single_file(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.meta.set('config.eps', 0.5)")
    assert zoo.refusal(old(zoo), "new.safetensors").code == "CKM740"


def test_the_configuration_stays_an_object(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.meta.set('config', 3)")
    with pytest.raises(MigrationError, match="cannot be a int"):
        zoo.prepare(old(zoo))


def test_what_the_index_says_beside_sizes_is_kept(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('last', 'first')\nck.meta.set('index.note', 'b')")
    source = old(zoo, metadata={"total_parameters": 1, "note": "a", "other": [1]})
    found = index_of(zoo.upgrade(source, "new"))["metadata"]
    assert found.pop("ckmigrate")
    assert found == {
        "total_parameters": 62,
        "total_size": index_of(source)["metadata"]["total_size"],
        "note": "b",
        "other": [1],
    }


# --- the model --------------------------------------------------------------------------------

TIED = """
class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.lm_head = nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.embed.weight

def build():
    return Toy()
"""


def test_tied_weights_that_were_dropped_load_strictly(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('wte', 'embed.weight')", model=TIED)
    shards = [
        {"wte": torch.randn(5, 3)},
        {"body.weight": torch.randn(3, 3), "body.bias": torch.randn(3)},
    ]
    new = zoo.upgrade(folder(tmp_path / "old", shards), "new")
    assert set(content(new)) == {"embed.weight", "body.weight", "body.bias"}


def test_names_that_save_model_leaves_out_are_left_out_again(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('wte', 'embed.weight')\nck.rename('out', 'lm_head.weight')")
    source = tmp_path / "old"
    source.mkdir()
    state = {"wte": torch.randn(5, 3), "b": torch.randn(2)}
    metadata = {"format": "pt", "out": "wte"}
    save_file(state, source / "model.safetensors", metadata=metadata)
    new = zoo.upgrade(source, "new")
    assert set(load_file(new / "model.safetensors")) == {"embed.weight", "b"}
    with safe_open(new / "model.safetensors", "pt") as file:
        assert file.metadata()["lm_head.weight"] == "embed.weight"
    many = zoo.upgrade(source, "many", max_shard_size=8)
    assert set(content(many)) == {"embed.weight", "b"}
