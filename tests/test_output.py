"""The file around the tensors: where everything stands once weights, metadata and state moved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckmigrate.errors import MigrationError, UsageError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.output import format_of
from tests.projects import Script, Zoo, load, same, tag_of

ADAM = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
SGD = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
RENAME = "ck.rename('a', 'b')"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.PT", "torch"), ("x.ckpt", "torch"), ("x.safetensors", "safetensors"), ("x", "torch")],
)
def test_the_suffix_chooses_the_format(name: str, expected: str) -> None:
    assert format_of(Path(name), "torch") == expected


# --- what is dropped, and what moved before ---------------------------------------------------


def test_state_that_metadata_edits_moved_is_still_dropped(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, f"{RENAME}\nck.meta.rename('optimizer', 'optimizers')")
    old = zoo.save({"model": {"a": torch.ones(2)}, "optimizer": SGD})
    found: dict[str, object] = torch.load(zoo.upgrade(old, optimizer="drop"), weights_only=True)
    assert list(found) == ["model", "ckmigrate"]


def test_state_that_the_script_dropped_need_not_be_dropped_again(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, f"{RENAME}\nck.meta.drop('optimizer')")
    old = zoo.save({"model": {"a": torch.ones(2)}, "optimizer": SGD})
    found: dict[str, object] = torch.load(zoo.upgrade(old, optimizer="drop"), weights_only=True)
    assert list(found) == ["model", "ckmigrate"]


def test_dropping_state_cannot_push_the_weights_out_of_their_place(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, config='weights = "parts.1"')
    old = zoo.save({"parts": [ADAM, {"a": torch.ones(2)}, 7], "epoch": 1})
    # The weights would no longer be where the configuration says.
    error = zoo.refusal(old, optimizer="drop")
    assert error.code == "CKM733"
    assert "old.pt" in (error.where or "")
    found = load(zoo.upgrade(old, weights_only=True))
    assert same(found, {"b": torch.ones(2)})


def test_state_after_the_weights_in_a_list_is_dropped(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, config='weights = "0"')
    old = zoo.save([{"a": torch.ones(2)}, ADAM, 7])
    found: list[object] = torch.load(zoo.upgrade(old, optimizer="drop"), weights_only=True)
    assert len(found) == 2
    assert found[1] == 7
    assert same(found[0], {"b": torch.ones(2)})  # type: ignore[arg-type]


def test_what_stands_beside_weights_in_a_list_is_not_lost_in_silence(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, config='weights = "0"')
    old = zoo.save([{"a": torch.ones(2)}, {"epoch": 5}])
    assert zoo.refusal(old, "new.safetensors").details == ("'1'",)
    assert same(load(zoo.upgrade(old, "new.safetensors", weights_only=True)), {"b": torch.ones(2)})


def test_dropped_state_is_not_counted_as_lost(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save({"model": {"a": torch.ones(2)}, "optimizer": ADAM})
    new = zoo.upgrade(old, "new.safetensors", optimizer="drop")
    assert same(load(new), {"b": torch.ones(2)})


# --- metadata and the state dict --------------------------------------------------------------


def test_metadata_cannot_be_put_among_the_weights(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.meta.set('heads', 8)")
    flat = zoo.refusal(zoo.save({"a": torch.ones(2)}))
    assert isinstance(flat, MigrationError)
    assert flat.code == "CKM576"
    assert "0001_step_1.py" in (flat.where or "")
    nested = zoo.upgrade(zoo.save({"model": {"a": torch.ones(2)}}))
    assert torch.load(nested, weights_only=True)["heads"] == 8


def test_metadata_edits_cannot_push_the_weights_out_of_their_place(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.meta.drop('parts.0')", config='weights = "parts.1"')
    old = zoo.save({"parts": [{"epoch": 3}, {"a": torch.ones(2)}, {"a": torch.zeros(2)}]})
    assert zoo.refusal(old, ema="drop").code == "CKM576"


def test_state_of_a_module_can_be_edited(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.meta.set('model.net._extra_state.scale', 2)")
    state = {"net.a": torch.ones(2), "net._extra_state": {"scale": 1}}
    found = torch.load(zoo.upgrade(zoo.save({"model": state})), weights_only=True)
    assert found["model"]["net._extra_state"] == {"scale": 2}


# --- the same bytes ---------------------------------------------------------------------------

EVERYTHING = """
    ck.rename("layers.{i}.**", "blocks.{i}.**")
    ck.reshape("head", lambda t: (t.shape[1], -1))
    ck.init("noise", shape=(4, 4), value=init.normal(std=0.5))
    ck.init("more.{i}", like="blocks.{i}.w", value=init.kaiming_uniform())
    ck.drop("aux", reason="unused")
    ck.copy("head", "second")
    if "config.n" in ck.meta:
        ck.meta.rename("config.n", "config.m")
        ck.meta.set("config.names", {"x": 1, "a": [1, 2]})
"""
COMPUTED = Script(
    "ck.compute('blocks.{i}.w', 'blocks.{i}.w', scaled, inverse=lambda t: t / 2)",
    literals="def scaled(t):\n    return t * 2",
)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_same_input_and_scripts_give_the_same_bytes_in_every_process(
    tmp_path: Path, suffix: str
) -> None:
    torch.manual_seed(1)
    state = {f"layers.{i}.w": torch.randn(4, 4) for i in range(12)}
    state |= {"head": torch.randn(4, 6), "aux": torch.ones(1)}
    # Computing loads torch, which takes its time: once will do.
    zoo = Zoo(tmp_path, EVERYTHING, *([COMPUTED] if suffix == ".pt" else []))
    beside = {"config": {"n": 1}, "who": {"b", "a", "c"}, "epoch": 1}
    content = {"model": state, **beside} if suffix == ".pt" else state
    old = zoo.save(content, f"old{suffix}")
    code = (
        "import sys; from pathlib import Path; from ckmigrate.migrate import *\n"
        "from ckmigrate.project import find_project\n"
        "from ckmigrate.revisions.graph import read_history\n"
        "from ckmigrate.execute.commit import Destination\n"
        "p = find_project(Path(sys.argv[1])); h = read_history(p.migrations)\n"
        "r = Request(from_revision='base', use_model=False)\n"
        "carry_out(prepare(p, h, Path(sys.argv[2]), r), Destination(Path(sys.argv[3])))\n"
    )
    results = []
    for seed in ("0", "77"):
        new = tmp_path / f"{seed}{suffix}"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
        arguments = [sys.executable, "-c", code, str(tmp_path), str(old), str(new)]
        subprocess.run(arguments, env=environment, check=True)
        results.append(new.read_bytes())
    assert results[0] == results[1]
    assert zoo.upgrade(old, f"here{suffix}").read_bytes() == results[0]


def test_the_name_and_the_time_of_the_file_are_not_in_its_bytes(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    state = {"model": {"a": torch.ones(2)}}
    one = zoo.save(state, "one.pt")
    two = zoo.save(state, "two.pt")
    os.utime(two, (1, 1))
    assert zoo.upgrade(one, "x.pt").read_bytes() == zoo.upgrade(two, "yy.pt").read_bytes()


# --- tags -------------------------------------------------------------------------------------


def test_a_tag_that_people_re_save_stays(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    new = zoo.upgrade(zoo.save({"model": {"a": torch.ones(2)}}))
    again = zoo.save(torch.load(new, weights_only=True), "again.pt")
    assert tag_of(again) == tag_of(new)


@pytest.mark.parametrize("note", ["x" * 2_000_000, "y" * 2_000, "\x1b[31m"])
def test_a_tag_is_never_larger_or_stranger_than_readers_accept(tmp_path: Path, note: str) -> None:
    zoo = Zoo(tmp_path, "ck.meta.drop('note')", "ck.rename('a', 'b')")
    script = tmp_path / "migrations" / "0001_step_1.py"
    script.rename(script.with_name("0001.py")).write_text(
        script.with_name("0001.py")
        .read_text()
        .replace("Step 1.", "Tab\there \x1b[31m" + "z" * 2000)
    )
    new = zoo.upgrade(zoo.save({"model": {"a": torch.ones(2)}, "note": note}), to="1")
    assert tag_of(new).revision is not None
    assert len(tag_of(zoo.upgrade(new, "again.pt")).history) == 2
    if len(note) < 1_000_000:
        assert torch.load(zoo.downgrade(new), weights_only=True)["note"] == note


def test_a_name_that_no_tag_can_hold_is_refused_in_the_configuration(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    for name in ("zo\\u001bo", "z" * 300):
        (tmp_path / "ckmigrate.toml").write_text(f'name = "{name}"\n')
        with pytest.raises(UsageError, match="name"):
            _ = zoo.project


@pytest.mark.parametrize("prefix", ["weight a", "weight weight", "weight "])
def test_storage_names_that_a_stranger_chose_cannot_collide(tmp_path: Path, prefix: str) -> None:
    zoo = Zoo(tmp_path, "ck.reshape('a', (2, 1))\nck.rename('z', 'weight a')")
    state = {"a": torch.ones(2), "z": torch.zeros(2), prefix: torch.full((2,), 5.0)}
    if prefix == "weight a":
        state.pop("z")
        zoo = Zoo(tmp_path / "zoo", "ck.reshape('a', (2, 1))")
    found = load(zoo.upgrade(zoo.save(state, "old.safetensors"), "new.pt", weights_only=True))
    assert found["a"].tolist() == [[1], [1]]
    assert found[prefix].tolist() == [5, 5]


def test_nothing_but_used_storages_is_in_the_file(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('big', reason='unused')")
    old = zoo.save({"model": {"a": torch.ones(2), "big": torch.zeros(100_000)}})
    new = zoo.upgrade(old)
    assert new.stat().st_size < 10_000
    assert len(open_checkpoint(new).records) == 1


def test_a_storage_that_stands_alone_passes_through(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    storage = torch.arange(5, dtype=torch.int16).untyped_storage()
    old = zoo.save({"model": {"a": torch.ones(2)}, "raw": storage})
    stored = open_checkpoint(zoo.upgrade(old))
    record = next(r for r in stored.records.values() if r.nbytes == 10)
    raw = stored.path.read_bytes()[record.offset : record.offset + record.nbytes]
    assert torch.frombuffer(bytearray(raw), dtype=torch.int16).tolist() == [0, 1, 2, 3, 4]


def test_thousands_of_storages_beside_the_weights_take_no_quadratic_time(tmp_path: Path) -> None:
    import time

    zoo = Zoo(tmp_path, RENAME)
    beside = [torch.ones(1) * i for i in range(3000)]
    old = zoo.save({"model": {"a": torch.ones(2)}, "rates": beside})
    begin = time.perf_counter()
    new = zoo.upgrade(old)
    assert time.perf_counter() - begin < 10
    assert torch.load(new, weights_only=True)["rates"][2999].item() == 2999


class _Tied(torch.nn.Module):
    def __init__(self, one: str, other: str) -> None:
        super().__init__()
        setattr(self, one, torch.nn.Linear(3, 2, bias=False))
        setattr(self, other, torch.nn.Linear(3, 2, bias=False))
        getattr(self, other).weight = getattr(self, one).weight


def test_a_file_that_leaves_tied_names_out_stays_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file, load_model, save_model

    zoo = Zoo(tmp_path, "ck.rename('emb.weight', 'tok.weight')")
    old, model = tmp_path / "old.safetensors", _Tied("tok", "head")
    saved = _Tied("emb", "head")
    save_model(saved, str(old), metadata={"format": "pt"})
    new = zoo.upgrade(old)
    assert len(load_file(new)) == 1
    load_model(model, str(new))
    assert torch.equal(model.state_dict()["head.weight"], saved.state_dict()["emb.weight"])
    assert open_checkpoint(new).metadata == {"format": "pt"}
    back = zoo.downgrade(new)
    load_model(_Tied("emb", "head"), str(back))
    whole = load(zoo.upgrade(old, "whole.pt"))
    assert same(whole, model.state_dict())


def test_names_that_a_script_parts_are_both_written(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    zoo = Zoo(tmp_path, "ck.untie('head.weight')")
    old = tmp_path / "old.safetensors"
    save_model(saved := _Tied("emb", "head"), str(old))
    assert same(load(zoo.upgrade(old)), saved.state_dict())
