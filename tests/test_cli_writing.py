"""plan, upgrade, downgrade, stamp, verify: the real command on real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ckmigrate.formats.open_checkpoint import open_checkpoint
from tests.cli_inside import InsideToy
from tests.cli_project import BASE, IDS, Toy, make_toy, safetensors

BACKUP = "old.safetensors.bak-base"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


def test_plan_shows_every_operation_folded_and_writes_nothing(toy: Toy) -> None:
    path = toy.checkpoint()
    before = toy.files()
    ran = toy.run("plan", path)
    assert (ran.code, ran.err) == (0, "")
    assert "encoder.layers.{0,1}.qkv.weight [12,4]" in ran.out
    assert "→ encoder.layers.{0,1}.{q,k,v}.weight [4,4]" in ran.out
    assert "entries     9: 2 unchanged, 6 moved, 1 new, 1 dropped" in ran.out
    assert "torch       not needed" in ran.out
    assert "compared    the snapshot 'default'" in ran.out
    assert max(map(len, ran.out.splitlines()[1:])) <= 80
    assert toy.files() == before


def test_plan_in_json_is_entry_by_entry(toy: Toy) -> None:
    result = toy.run("plan", toy.checkpoint(), "--json").json["results"][0]
    assert result["from"]["revision"] is None
    assert result["to"]["revision"] == IDS[2]
    assert [item["revision"] for item in result["migrations"]] == list(IDS)
    kinds = {entry["name"]: entry["kind"] for entry in result["entries"]}
    assert kinds["head.weight"] == "unchanged"
    assert kinds["encoder.layers.0.q.weight"] == "moved"
    assert kinds["scale"] == "new"
    assert result["dropped"] == ["old.counter"]
    assert result["totals"]["bytes"]["copied"] == 2 * 192 + 48 + 12
    assert result["totals"]["bytes"]["filled"] == 12
    assert result["needs_torch"] is False


def test_dry_run_prints_the_plan(toy: Toy) -> None:
    path = toy.checkpoint()
    plan, dry = toy.run("plan", path), toy.run("upgrade", path, "--dry-run", "--no-model")
    assert dry.code == 0
    assert dry.out == plan.out


def test_plan_of_a_part_of_the_way(toy: Toy) -> None:
    ran = toy.run("plan", toy.checkpoint(), "--to", "+1")
    assert ran.code == 0
    assert "0001_call_it_encoder" in ran.out
    assert "0002" not in ran.out


def test_upgrade_without_a_place_refuses_and_shows_the_three(toy: Toy) -> None:
    path = toy.checkpoint()
    before = toy.files()
    ran = toy.run("upgrade", path, "--no-model")
    assert (ran.code, ran.out) == (2, "")
    for way in ("-o OUT", "--out-dir DIR", "--in-place"):
        assert way in ran.err
    assert toy.files() == before


def test_upgrade_writes_what_the_plan_says(toy: Toy) -> None:
    path, new = toy.checkpoint(), toy.root / "new.safetensors"
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", new, "--no-model")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"wrote {new}: base → {IDS[2]} (0003_scale_the_head), 3 migrations")
    stored = open_checkpoint(new)
    assert isinstance(stored.tree, dict)
    assert set(stored.tree) >= {"encoder.layers.1.k.weight", "scale", "head.bias"}
    assert "old.counter" not in stored.tree
    assert {**toy.files(), **before} == toy.files()
    assert set(toy.files()) - set(before) == {"new.safetensors"}


def test_upgrade_verifies_by_a_strict_load(toy: Toy) -> None:
    result = toy.run("upgrade", toy.checkpoint(), "-o", "new.pt", "--json")
    assert result.code == 0, result.err
    found = result.json["results"][0]
    assert found["verified_by"] == "strict load"
    assert found["compared_with"] == "model 'default' (toy_model:build)"
    assert found["written"] is True


def test_upgrade_that_does_not_fit_the_model_exits_6(toy: Toy) -> None:
    path = toy.checkpoint()
    model = toy.root / "toy_model.py"
    model.write_text(model.read_text().replace("torch.ones(3)", "torch.ones(7)"))
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", "new.safetensors")
    assert (ran.code, ran.out) == (6, "")
    assert "error[CKM601]" in ran.err
    assert "scale is [3], the model wants [7]" in ran.err
    assert toy.files() == before
    check = toy.run("check")
    assert check.code == 1
    assert "scale is [3], the model wants [7]" in check.out


def test_in_place_keeps_the_old_version_as_a_hard_link(toy: Toy) -> None:
    path = toy.checkpoint()
    old, number = path.read_bytes(), path.stat().st_ino
    ran = toy.run("upgrade", path, "--in-place", "--no-model")
    assert ran.code == 0
    assert BACKUP in ran.out
    assert (toy.root / BACKUP).read_bytes() == old
    assert (toy.root / BACKUP).stat().st_ino == number
    assert path.read_bytes() != old


def test_in_place_with_nothing_to_do_touches_nothing(toy: Toy) -> None:
    path = toy.checkpoint()
    toy.run("upgrade", path, "--in-place", "--no-backup", "--no-model")
    before, stat = toy.files(), path.stat()
    ran = toy.run("upgrade", path, "--in-place", "--no-model")
    assert ran.code == 0
    assert "already at head" in ran.out
    assert toy.files() == before
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert BACKUP not in before


def test_in_place_tags_a_file_that_was_recognised_by_its_tensors(toy: Toy) -> None:
    shapes = {f"encoder.layers.{i}.{n}.weight": (4, 4) for i in range(2) for n in "qkv"}
    path = toy.root / "fresh.safetensors"
    path.write_bytes(
        safetensors({**shapes, "head.weight": (3, 4), "head.bias": (3,), "scale": (3,)})
    )
    ran = toy.run("upgrade", path, "--in-place", "--no-model")
    assert ran.code == 0
    assert "wrote" in ran.out
    assert open_checkpoint(path).tag is not None


def test_with_o_the_file_is_written_even_if_nothing_is_to_be_migrated(toy: Toy) -> None:
    toy.run("upgrade", toy.checkpoint(), "-o", "new.safetensors", "--no-model")
    ran = toy.run("upgrade", "new.safetensors", "-o", "copy.safetensors", "--no-model")
    assert ran.code == 0
    assert f"copy.safetensors: at {IDS[2]} (0003_scale_the_head), 9 entries" in ran.out
    files = toy.files()
    assert files["copy.safetensors"] == files["new.safetensors"]


def test_a_link_stays_a_link_in_place(toy: Toy) -> None:
    path = toy.checkpoint()
    link = toy.root / "latest.safetensors"
    link.symlink_to(path.name)
    assert toy.run("upgrade", link, "--in-place", "--no-model").code == 0
    assert link.is_symlink()
    assert open_checkpoint(path).tag is not None
    assert (toy.root / BACKUP).exists()


def test_out_dir_keeps_names_and_does_all_it_can_on_request(toy: Toy) -> None:
    one, two = toy.checkpoint("one.safetensors"), toy.checkpoint("two.safetensors")
    bad = toy.root / "bad.safetensors"
    bad.write_bytes(b"<!DOCTYPE html><html></html>")
    (toy.root / "out").mkdir()
    arguments = ["upgrade", one, bad, two, "--out-dir", "out", "--no-model", "--json"]
    ran = toy.run(*arguments, "--keep-going")
    assert ran.code == 7
    found = ran.json
    assert [result["ok"] for result in found["results"]] == [True, False, True]
    assert found["error"]["code"] == "CKM709"
    assert sorted(os.listdir(toy.root / "out")) == ["one.safetensors", "two.safetensors"]


def test_out_dir_is_made_for_the_first_result_and_not_before(toy: Toy) -> None:
    path = toy.checkpoint()
    bad = toy.root / "bad.safetensors"
    bad.write_bytes(b"<!DOCTYPE html><html></html>")
    assert toy.run("upgrade", bad, "--out-dir", "made", "--no-model").code == 7
    assert toy.run("upgrade", path, "--out-dir", "made", "--no-model", "--dry-run").code == 0
    assert not (toy.root / "made").exists()
    assert toy.run("upgrade", path, "--out-dir", "made", "--no-model").code == 0
    assert os.listdir(toy.root / "made") == ["old.safetensors"]
    ran = toy.run("upgrade", path, "--out-dir", "no/such", "--no-model")
    assert (ran.code, f"mkdir -p {toy.root / 'no'}" in ran.err) == (7, True)


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        (["upgrade", "old.pt"], "ckmigrate upgrade old.pt -o new.pt"),
        (["upgrade", "new.pt"], "ckmigrate upgrade new.pt -o newer.pt"),
        (["downgrade", "a b.pt", "--to", "1"], "ckmigrate downgrade 'a b.pt' --to 1 -o new.pt"),
        (["stamp", "old.pt", "head"], "ckmigrate stamp old.pt head -o new.pt"),
        (["upgrade", "old.pt", "--to", "base"], "ckmigrate upgrade old.pt --to base -o new.pt"),
        (["upgrade", "a.pt", "b.pt"], "ckmigrate upgrade a.pt b.pt --out-dir DIR"),
    ],
)
def test_the_example_of_a_place_would_be_accepted(
    toy: Toy, arguments: list[str], example: str
) -> None:
    assert f"For example: {example}\n" in toy.run(*arguments).err


def test_a_second_path_that_is_no_file_was_meant_as_the_output(toy: Toy) -> None:
    toy.checkpoint()
    err = toy.run("upgrade", "old.safetensors", "new.pt", "--to", "2").err
    assert "Did you mean: ckmigrate upgrade old.safetensors --to 2 -o new.pt\n" in err
    toy.checkpoint("new.pt")
    assert "--out-dir DIR" in toy.run("upgrade", "old.safetensors", "new.pt").err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["-o", "x.pt", "--in-place"], "CKM230", "one place only"),
        (["-o", "x.pt", "--out-dir", "."], "CKM230", "one place only"),
        (["-o", "x.pt", "--no-backup"], "CKM233", "--in-place only"),
        (["--in-place", "--overwrite"], "CKM233", "does not go with"),
        (["-o", "migrations"], "CKM232", "is a folder"),
        (["-o", "x.pt", "--max-memory", "much"], "CKM231", "not a size"),
        (["-o", "x.pt", "--param", "heads"], "CKM204", "NAME=VALUE"),
        (["-o", "x.pt", "--optimizer", "keep"], "CKM200", "keep"),
    ],
)
def test_bad_output_options_are_usage_errors(
    toy: Toy, options: list[str], code: str, words: str
) -> None:
    path = toy.checkpoint()
    before = toy.files()
    ran = toy.run("upgrade", path, "--no-model", *options)
    assert (ran.code, ran.out) == (2, "")
    assert f"error[{code}]" in ran.err
    assert words in ran.err
    assert toy.files() == before


def test_o_with_several_files_and_one_name_twice_are_refused_before_the_start(toy: Toy) -> None:
    one = toy.checkpoint()
    (toy.root / "sub").mkdir()
    two = toy.checkpoint("sub/old.safetensors")
    before = toy.files()
    assert "error[CKM232]" in toy.run("upgrade", one, two, "-o", "x.safetensors").err
    (toy.root / "out").mkdir()
    ran = toy.run("upgrade", one, two, "--out-dir", "out", "--no-model")
    assert (ran.code, "error[CKM234]" in ran.err) == (2, True)
    assert toy.run("upgrade", one, one, "--in-place", "--no-model").code == 2
    assert os.listdir(toy.root / "out") == []
    assert toy.files() == before


def test_an_output_that_exists_is_kept_unless_overwrite(toy: Toy) -> None:
    path = toy.checkpoint()
    other = toy.root / "new.safetensors"
    other.write_bytes(b"precious")
    ran = toy.run("upgrade", path, "-o", other, "--no-model")
    assert (ran.code, ran.out) == (7, "")
    assert "error[CKM751]" in ran.err
    assert other.read_bytes() == b"precious"
    assert toy.run("upgrade", path, "-o", other, "--no-model", "--overwrite").code == 0
    assert other.read_bytes() != b"precious"


def test_the_source_is_no_output_even_with_overwrite(toy: Toy) -> None:
    path = toy.checkpoint()
    before = toy.files()
    for way in (["-o", path], ["-o", path, "--overwrite"], ["--out-dir", toy.root, "--overwrite"]):
        ran = toy.run("upgrade", path, "--no-model", *way)
        assert (ran.code, "it is the source itself" in ran.err) == (7, True)
    assert toy.files() == before


def test_a_file_that_keeps_its_suffix_keeps_its_format(toy: Toy) -> None:
    path = toy.root / "model.bin"
    path.write_bytes(safetensors(BASE))
    assert toy.run("upgrade", path, "--in-place", "--no-model").code == 0
    assert open_checkpoint(path).format == "safetensors"


def test_downgrade_brings_back_names_and_bytes(toy: Toy) -> None:
    path = toy.checkpoint()
    toy.run("upgrade", path, "-o", "mid.safetensors", "--to", "split_qkv")
    ran = toy.run("downgrade", "mid.safetensors", "--to", "base", "-o", "back.safetensors")
    assert ran.code == 0, ran.err
    assert "2 migrations undone" in ran.out
    old, new = open_checkpoint(path), open_checkpoint(toy.root / "back.safetensors")
    read = {}
    for stored in (old, new):
        data = stored.path.read_bytes()
        read[stored.path.name] = {
            key: data[record.offset : record.offset + record.nbytes]
            for key, record in stored.records.items()
        }
    assert read["old.safetensors"] == read["back.safetensors"]


def test_downgrade_past_a_drop_names_the_obstacle(toy: Toy) -> None:
    toy.run("upgrade", toy.checkpoint(), "-o", "new.safetensors", "--no-model")
    before = toy.files()
    ran = toy.run("downgrade", "new.safetensors", "--to", "base", "-o", "back.safetensors")
    assert ran.code == 5
    assert "error[CKM550]" in ran.err
    assert "0003_scale_the_head.py" in ran.err
    assert toy.files() == before


def test_stamp_records_what_the_tensors_bear_out(toy: Toy) -> None:
    path = toy.checkpoint()
    assert toy.run("stamp", path, "base", "--in-place", "--no-model").code == 0
    assert "by tag" in toy.run("current", path).out
    again = toy.run("stamp", path, "base", "--in-place", "--no-model")
    assert "already at base" in again.out
    before = toy.files()
    ran = toy.run("stamp", path, "split_qkv", "--in-place", "--no-model")
    assert (ran.code, ran.out) == (6, "")
    assert "error[CKM621]" in ran.err
    assert toy.files() == before


def test_verify_proves_a_result_and_tells_a_changed_one(toy: Toy) -> None:
    toy.run("upgrade", toy.checkpoint(), "-o", "new.safetensors", "--no-model")
    good = toy.run("verify", "new.safetensors", "--no-model")
    assert (good.code, good.err) == (0, "")
    assert good.out.startswith("ok new.safetensors: ")
    assert "snapshot 'default'" in good.out
    tag = open_checkpoint(toy.root / "new.safetensors").tag
    (toy.root / "lie.safetensors").write_bytes(safetensors(BASE, {"ckmigrate": str(tag)}))
    bad = toy.run("verify", "lie.safetensors", "--no-model", "--json")
    assert bad.code == 6
    assert bad.json["error"]["code"] == "CKM620"


def test_verify_loads_into_the_model_and_finds_damaged_bytes(toy: Toy) -> None:
    toy.run("upgrade", toy.checkpoint(), "-o", "new.pt", "--no-model")
    assert "loads strictly into toy_model:build" in toy.run("verify", "new.pt").out
    data = bytearray((toy.root / "new.pt").read_bytes())
    record = next(iter(open_checkpoint(toy.root / "new.pt").records.values()))
    data[record.offset] ^= 1
    (toy.root / "bad.pt").write_bytes(data)
    ran = toy.run("verify", "bad.pt", "--no-model")
    assert ran.code == 7
    assert "error[CKM760]" in ran.err


def test_verify_says_what_it_cannot_run(toy: Toy) -> None:
    script = toy.root / "migrations" / "0003_scale_the_head.py"
    script.write_text(script.read_text() + "\n\ndef verify(old, new):\n    return True\n")
    toy.run("upgrade", toy.checkpoint(), "-o", "new.safetensors", "--no-model")
    ran = toy.run("verify", "new.safetensors", "--no-model")
    assert "need the old checkpoint: verify() of 0003_scale_the_head.py" in ran.out


def test_the_same_input_gives_the_same_bytes(toy: Toy) -> None:
    path = toy.checkpoint()
    for name in ("a.safetensors", "b.safetensors"):
        toy.run("upgrade", path, "-o", name, "--no-model")
    assert toy.files()["a.safetensors"] == toy.files()["b.safetensors"]


def test_verify_full_runs_the_promise_of_a_script(toy: Toy) -> None:
    script = toy.root / "migrations" / "0003_scale_the_head.py"
    text = script.read_text()
    path = toy.checkpoint()
    script.write_text(text + "\n\ndef verify(old, new):\n    return 'old.counter' in old\n")
    good = toy.run("upgrade", path, "-o", "a.safetensors", "--no-model", "--verify=full")
    assert good.code == 0, good.err
    script.write_text(text + "\n\ndef verify(old, new):\n    return 'scale' in old\n")
    before = toy.files()
    bad = toy.run("upgrade", path, "-o", "b.safetensors", "--no-model", "--verify=full")
    assert (bad.code, "error[CKM604]" in bad.err) == (6, True)
    assert toy.files() == before


def test_training_state_is_left_behind_only_on_request(toy: Toy) -> None:
    weights = {name: torch.zeros(shape) for name, shape in BASE.items()}
    moments = {0: {"exp_avg": torch.zeros(3)}}
    groups = [{"lr": 0.1, "params": [0]}]
    path = toy.root / "run.pt"
    torch.save(
        {"model": weights, "optimizer": {"state": moments, "param_groups": groups}, "epoch": 3},
        path,
    )
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", "new.pt", "--no-model")
    assert (ran.code, "--optimizer drop" in ran.err) == (5, True)
    lossy = toy.run("upgrade", path, "-o", "new.safetensors", "--no-model", "--optimizer", "drop")
    assert (lossy.code, "--weights-only" in lossy.err) == (7, True)
    assert toy.files() == before
    assert toy.run("upgrade", path, "-o", "new.pt", "--no-model", "--optimizer", "drop").code == 0
    new = torch.load(toy.root / "new.pt", weights_only=True)
    assert new["epoch"] == 3
    assert "optimizer" not in new
    assert new["model"]["scale"].tolist() == [1.0, 1.0, 1.0]
