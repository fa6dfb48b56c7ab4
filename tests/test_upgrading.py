"""`ckmigrate.upgrade` and `ckmigrate.plan` do what the command does, and print nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ckmigrate
from ckmigrate import CkmigrateError
from ckmigrate.errors import UsageError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from tests import shards
from tests.cli_project import BASE, IDS, Toy


@pytest.fixture(autouse=True)
def in_the_project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.root)


@pytest.fixture(autouse=True)
def silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


def code_of(caught: pytest.ExceptionInfo[CkmigrateError]) -> str:
    return caught.value.code


# --- plan -------------------------------------------------------------------------------------


def test_a_plan_is_the_text_and_the_data_of_the_command(toy: Toy) -> None:
    path = toy.checkpoint()
    plan = ckmigrate.plan(path.name)
    assert f"{plan}\n" == toy.run("plan", path.name).out
    (result,) = toy.run("plan", path.name, "--json").json["results"]
    assert json.loads(json.dumps(plan.data)).items() <= result.items()
    assert f"{plan.text(full=True)}\n" == toy.run("plan", path.name, "-v").out


def test_a_plan_says_what_would_run(toy: Toy) -> None:
    plan = ckmigrate.plan(toy.checkpoint(), to="2")
    assert (plan.from_revision, plan.to_revision, plan.migrations) == (None, IDS[1], IDS[:2])


def test_a_plan_compares_with_the_model_where_that_is_wanted(toy: Toy) -> None:
    plan = ckmigrate.plan(toy.checkpoint(), with_model=True)
    assert plan.data["compared_with"] == "model 'default' (toy_model:build)"


# --- upgrade ----------------------------------------------------------------------------------


def test_an_upgrade_writes_what_the_command_writes(toy: Toy) -> None:
    path = toy.checkpoint()
    done = ckmigrate.upgrade(path.name, "new.safetensors")
    ran = toy.run("upgrade", path.name, "-o", "other.safetensors")
    assert str(done).replace("new.", "other.") + "\n" == ran.out
    assert Path("new.safetensors").read_bytes() == Path("other.safetensors").read_bytes()
    assert (done.path, done.output, done.backup) == (
        Path(path.name),
        Path("new.safetensors"),
        None,
    )
    assert (done.from_revision, done.to_revision, done.migrations) == (None, IDS[2], IDS)
    assert done.data["verified_by"] == "strict load"


def test_in_place_keeps_the_old_version_unless_told_otherwise(toy: Toy) -> None:
    path = toy.checkpoint()
    before = path.read_bytes()
    done = ckmigrate.upgrade(path, in_place=True, to="1", no_model=True)
    assert done.output == path
    assert done.backup is not None
    assert done.backup.read_bytes() == before
    again = ckmigrate.upgrade(path, in_place=True, no_backup=True)
    assert again.backup is None
    assert again.from_revision == IDS[0]


def test_in_place_what_needs_nothing_is_not_touched(toy: Toy) -> None:
    path = toy.checkpoint()
    ckmigrate.upgrade(path, in_place=True, no_backup=True)
    before = path.stat()
    done = ckmigrate.upgrade(path, in_place=True)
    assert (done.output, done.migrations) == (None, ())
    assert str(done).endswith("; not touched")
    assert path.stat().st_ino == before.st_ino


def test_fast_changes_headers_only(toy: Toy) -> None:
    path = toy.checkpoint()
    done = ckmigrate.upgrade(path, in_place=True, fast=True, to="2", no_model=True)
    assert done.data["fast"] is True


def test_a_model_that_the_result_does_not_fit_is_an_error_and_nothing_is_written(toy: Toy) -> None:
    path = toy.checkpoint("old.safetensors", **{"head.weight": (4, 4)})
    files = toy.files()
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.upgrade(path, "new.safetensors", from_revision="base")
    assert (code_of(caught), caught.value.exit_code) == ("CKM601", 6)
    assert toy.files() == files


def test_a_folder_becomes_a_folder(toy: Toy) -> None:
    state = {name: torch.zeros(shape) for name, shape in BASE.items()}
    shards.folder(toy.root / "model", [state], others={"vocab.txt": "a"})
    done = ckmigrate.upgrade("model", "new", no_model=True)
    assert done.output == Path("new")
    assert Path("new/vocab.txt").read_text() == "a"
    single = ckmigrate.upgrade("model", "new.safetensors", no_model=True)
    assert single.notes == ("1 file beside the shards stays there; the result is a single file",)


@pytest.mark.parametrize("output", ["new/", Path("new")])
def test_a_size_of_shards_is_bytes_or_a_text(toy: Toy, output: str | Path) -> None:
    size = "100B" if isinstance(output, str) else 100
    done = ckmigrate.upgrade(toy.checkpoint(), output, max_shard_size=size, no_model=True)
    assert done.output is not None
    assert len(list(done.output.glob("*.safetensors"))) > 3


def test_progress_is_told_by_stages_and_bytes(toy: Toy) -> None:
    told: list[tuple[str, int, int]] = []
    done = ckmigrate.upgrade(
        toy.checkpoint(),
        "new.safetensors",
        no_model=True,
        progress=lambda stage, count, total: told.append((stage, count, total)),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["check", "write", "verify"]
    counts = [count for _, count, _ in told]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= told[-1][2] == done.data["bytes"]


def test_it_runs_in_a_thread(toy: Toy) -> None:
    path, found = toy.checkpoint(), []
    thread = threading.Thread(
        target=lambda: found.append(ckmigrate.upgrade(path, in_place=True, no_model=True))
    )
    thread.start()
    thread.join()
    assert found[0].to_revision == IDS[2]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "CKM230"),
        ({"output": "new.pt", "in_place": True}, "CKM230"),
        ({"output": "new.pt", "fast": True}, "CKM233"),
        ({"output": "new.pt", "no_backup": True}, "CKM233"),
        ({"in_place": True, "overwrite": True}, "CKM233"),
        ({"in_place": True, "max_shard_size": "1MB"}, "CKM233"),
        ({"output": "new.pt", "to_format": "dcp"}, "CKM233"),
        ({"output": "migrations"}, "CKM232"),
        ({"output": "new.pt", "optimizer": "keep"}, "CKM270"),
        ({"output": "new.pt", "verify": True}, "CKM270"),
        ({"output": "new.pt", "max_memory": "much"}, "CKM231"),
        ({"output": "new.pt", "model": "large"}, "CKM206"),
        ({"output": "toy_model.py"}, "CKM751"),
        ({"output": "gone/new.pt"}, "CKM755"),
        ({"output": "new.pt", "project": "nothing.toml"}, "CKM207"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    toy: Toy, more: dict[str, object], code: str
) -> None:
    path = toy.checkpoint()
    files = toy.files()
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.upgrade(path, **more)  # type: ignore[arg-type]
    assert code_of(caught) == code
    assert isinstance(caught.value, UsageError) == code.startswith("CKM2")
    assert toy.files() == files


def test_an_option_that_there_is_none_of_is_a_type_error(toy: Toy) -> None:
    with pytest.raises(TypeError, match="keep_going"):
        ckmigrate.upgrade(toy.checkpoint(), "new.pt", keep_going=True)  # type: ignore[call-arg]


def test_a_missing_file_is_an_error_of_storage() -> None:
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.plan("gone.pt")
    assert code_of(caught) == "CKM706"


@pytest.mark.parametrize("place", ["", "migrations", "ckmigrate.toml"])
def test_a_project_is_a_folder_in_it_or_its_configuration(
    toy: Toy, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ckmigrate.plan(toy.checkpoint(), project=toy.root / place)
    assert plan.to_revision == IDS[2]


def test_what_scripts_print_is_not_in_the_way(toy: Toy) -> None:
    done = ckmigrate.upgrade(toy.checkpoint(), "new.pt", no_model=True)
    assert open_checkpoint(Path("new.pt")).tag is not None
    assert done.output == Path("new.pt")
