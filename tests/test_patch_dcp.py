"""A DCP folder is changed in place where its chunks can stay, or refused with the reasons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ckmigrate.errors import CkmigrateError, StorageError
from ckmigrate.execute.undo import pending_path, require_settled
from ckmigrate.patch import make_patch, obstacles
from ckmigrate.prepare import Prepared
from ckmigrate.verify import verify_file
from tests.cli_project import ROOT
from tests.dcp_folders import grid, handmade, metadata_of, ranks, rows, save, whole
from tests.dcp_folders import load as dcp_load
from tests.fast import change, refusal, snapshot, take_back
from tests.projects import Script, Zoo, same, tag_of

LOAD = """
import sys, torch
import torch.distributed.checkpoint as dcp
state = torch.load(sys.argv[2], weights_only=True)
wanted = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
dcp.load(wanted, checkpoint_id=sys.argv[1], no_dist=True)
for key, tensor in state.items():
    assert torch.equal(wanted[key], tensor), key
names = dcp.FileSystemReader(sys.argv[1]).read_metadata().state_dict_metadata
assert set(names) == set(state), names
"""


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    layers = {f"body.{i}.qkv": torch.randn(12, 4) for i in range(2)}
    return {**layers, "head": torch.randn(6, 4), "bias": torch.randn(6), "steps": torch.tensor(7)}


def saved(folder: Path) -> Path:
    """As two ranks leave it, with boundaries where the parts meet."""
    old = state()
    tensors = {
        "body.0.qkv": rows(old["body.0.qkv"], 4, 4, 4),
        "body.1.qkv": rows(old["body.1.qkv"], 2, 2, 4, 4),
        "head": grid(old["head"], (3, 3), (2, 2)),
        "bias": rows(old["bias"], 3, 3),
        "steps": whole(old["steps"]),
    }
    return handmade(folder / "old", tensors)


def torch_finds(path: Path, wanted: dict[str, Tensor]) -> None:
    """dcp.load finds exactly these tensors."""
    found = dcp_load(path, {key: torch.zeros_like(tensor) for key, tensor in wanted.items()})
    assert same(found, wanted)
    assert metadata_of(path).state_dict_metadata.keys() == wanted.keys()


def another_process_finds(path: Path, wanted: dict[str, Tensor]) -> None:
    """As `torch_finds`, in a process that knows nothing of us."""
    expected = path.with_name("expected.pt")
    torch.save(wanted, expected)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, path, expected],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    expected.unlink()
    assert done.returncode == 0, done.stderr


def data_of(path: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of the data files."""
    return {p.name: (p.stat().st_ino, p.read_bytes()) for p in path.glob("*.distcp")}


def renamed() -> dict[str, Tensor]:
    return {key.replace("body.", "encoder."): tensor for key, tensor in state().items()}


def parted() -> dict[str, Tensor]:
    found = renamed()
    for i in range(2):
        parts = found.pop(f"encoder.{i}.qkv").chunk(3)
        found |= {f"encoder.{i}.{k}": part.clone() for k, part in zip("qkv", parts, strict=True)}
    return found


RENAME = "ck.rename('body.**', 'encoder.**')"
SPLIT = "ck.split('encoder.{i}.qkv', 'encoder.{i}.{q,k,v}', dim=0)"


# --- what stays -------------------------------------------------------------------------------


def test_names_change_and_no_data_file_is_touched(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = saved(tmp_path)
    before, data = snapshot(old), data_of(old)
    outcome = change(zoo, old)
    assert outcome.fast
    assert outcome.spare == 0
    assert data_of(old) == data
    assert set(snapshot(old)) == {*before, "ckmigrate.json"}
    torch_finds(old, renamed())
    assert tag_of(old).revision is not None
    assert take_back(old) == "base"
    assert snapshot(old) == before


def test_damage_to_a_data_file_during_the_change_is_noticed_and_the_index_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the change is believed only of files that are still the same."""
    zoo = Zoo(tmp_path, RENAME)
    old = saved(tmp_path)
    index = (old / ".metadata").read_bytes()
    damaged = next(iter(sorted(old.glob("*.distcp"))))

    def verify_after_damage(path: Path, prepared: Prepared) -> None:
        damaged.write_bytes(bytes(damaged.stat().st_size))
        verify_file(path, prepared)

    monkeypatch.setattr("ckmigrate.fast.verify_file", verify_after_damage)
    with pytest.raises(StorageError) as caught:
        change(zoo, old)
    assert caught.value.code == "CKM784"
    assert (old / ".metadata").read_bytes() == index


def test_parts_that_were_saved_apart_are_named_and_joined_again(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, SPLIT)
    old = saved(tmp_path)
    data = data_of(old)
    change(zoo, old)
    assert data_of(old) == data
    another_process_finds(old, parted())
    change(zoo, old, "down", to="base")
    assert data_of(old) == data
    torch_finds(old, state())
    chunks = metadata_of(old).state_dict_metadata["body.1.qkv"].chunks
    assert [chunk.sizes[0] for chunk in chunks] == [2, 2, 4, 4]


def test_it_is_what_a_copy_is(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, SPLIT, "ck.drop('bias', reason='idle')")
    old = saved(tmp_path)
    zoo.run(old, "copy")
    change(zoo, old)
    wanted = {key: tensor for key, tensor in parted().items() if key != "bias"}
    for path in (old, tmp_path / "copy"):
        empty = {key: torch.zeros_like(tensor) for key, tensor in wanted.items()}
        assert same(dcp_load(path, empty), wanted)
    assert (old / ".metadata").read_bytes() == (tmp_path / "copy/.metadata").read_bytes()
    assert (old / "ckmigrate.json").read_bytes() == (tmp_path / "copy/ckmigrate.json").read_bytes()


def test_changes_are_undone_one_after_the_other_to_the_last_byte(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, SPLIT, "ck.init('scale', shape=(3,), value=init.full(2.5))")
    old = saved(tmp_path)
    states = []
    for to in ("1", "2", "head"):
        states.append(snapshot(old))
        change(zoo, old, to=to)
    torch_finds(old, {**parted(), "scale": torch.full((3,), 2.5)})
    for before in reversed(states):
        take_back(old)
        assert snapshot(old) == before
    assert list(tmp_path.glob("*undo*")) == []


def test_dropped_chunks_stay_and_are_counted(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('head', reason='idle')")
    old = saved(tmp_path)
    places = metadata_of(old).storage_data
    size = sum(info.length for index, info in places.items() if index.fqn == "head")
    assert change(zoo, old).spare == size
    torch_finds(old, {key: tensor for key, tensor in state().items() if key != "head"})


def test_a_data_file_stays_even_where_little_of_it_is_used(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('big', reason='idle')")
    tensors = {"big": whole(torch.ones(4000)), "small": whole(torch.arange(3))}
    old = handmade(tmp_path / "old", tensors, files=1)
    data = data_of(old)
    change(zoo, old)
    assert data_of(old) == data
    torch_finds(old, {"small": torch.arange(3)})


def test_new_tensors_and_metadata_come_in_one_more_data_file(tmp_path: Path) -> None:
    body = (
        "ck.rename('w', 'weight')\nck.init('n', shape=(3, 2), value=init.normal())\n"
        "ck.init('none', shape=(0, 2))\nck.meta.rename('hyper.lr', 'hyper.rate')\n"
        "ck.meta.set('hyper.depth', [2, 3])"
    )
    zoo = Zoo(tmp_path, body)
    weights = {"w": torch.randn(4, 2), "b": torch.randn(3)}
    old = save(tmp_path / "old", {"model": weights, "hyper": {"lr": 0.5}, "epoch": 3})
    zoo.run(old, "copy")
    data = data_of(old)
    change(zoo, old)
    assert data.items() < data_of(old).items()
    assert len(data_of(old)) == len(data) + 1
    empty = {
        "model": {"weight": torch.zeros(4, 2), "b": torch.zeros(3), "n": torch.zeros(3, 2)},
        "hyper": {"rate": None, "depth": None},
        "epoch": None,
    }
    fast, copied = dcp_load(old, empty), dcp_load(tmp_path / "copy", empty)
    assert same(fast["model"], copied["model"])
    assert fast["hyper"] == copied["hyper"] == {"rate": 0.5, "depth": [2, 3]}
    assert fast["epoch"] == 3
    assert torch.equal(fast["model"]["weight"], weights["w"])


def test_ties_and_copies_share_their_chunks(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME, "ck.copy('head', 'twin')")
    old = saved(tmp_path)
    data = data_of(old)
    change(zoo, old)
    assert data_of(old) == data
    torch_finds(old, {**renamed(), "twin": state()["head"]})


def test_only_the_index_and_the_tag_are_written_whatever_the_size(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    sizes = []
    for rows_ in (8, 80_000):
        path = handmade(
            tmp_path / f"of-{rows_}", {"body.w": rows(torch.ones(rows_, 4), 4, rows_ - 4)}
        )
        patch = make_patch(zoo.prepare(path))
        assert sorted(file.name for file in patch.files) == [".metadata", "ckmigrate.json"]
        sizes.append(patch.written)
    assert abs(sizes[0] - sizes[1]) < 64


@pytest.mark.slow
def test_what_two_ranks_saved_is_read_by_two_ranks_again(tmp_path: Path) -> None:
    code = """
    from pathlib import Path
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    full = torch.arange(32.0).reshape(8, 4)
    mesh = init_device_mesh("cpu", (world,))
    if not Path("ck").exists() or not Path("ck/.metadata").exists():
        dcp.save({"body.w": distribute_tensor(full, mesh, [Shard(0)])}, checkpoint_id="ck")
    else:
        found = {k: distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)]) for k in "qk"}
        dcp.load(found, checkpoint_id="ck")
        assert torch.equal(found["q"].full_tensor(), full[:4])
        assert torch.equal(found["k"].full_tensor(), full[4:])
    """
    ranks(tmp_path, 2, code)
    zoo = Zoo(tmp_path, "ck.split('body.w', ['q', 'k'], dim=0)")
    data = data_of(tmp_path / "ck")
    assert len(data) == 2
    change(zoo, tmp_path / "ck")
    assert data_of(tmp_path / "ck") == data
    ranks(tmp_path, 2, code)


def test_invariants_of_scripts_see_the_old_values_and_a_broken_one_changes_nothing(
    tmp_path: Path,
) -> None:
    right = "def verify(old, new):\n    assert torch.equal(old['body.0.qkv'][:4], new['q'])"
    body = "ck.split('body.0.qkv', ['q', 'k', 'v'], dim=0)"
    zoo = Zoo(tmp_path / "right", Script(body, rest=right))
    change(zoo, saved(tmp_path / "right"), full_verify=True)
    wrong = right.replace("[:4]", "[4:8]")
    zoo = Zoo(tmp_path / "wrong", Script(body, rest=wrong))
    assert refusal(zoo, saved(tmp_path / "wrong"), full_verify=True).code == "CKM604"


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("ck.transpose('head', 0, 1)", "1 entry takes its elements in another order"),
        ("ck.cast('head', 'float16')", "1 entry is cast: head"),
        ("ck.compute('head', 'head', lambda t: t * 2)", "1 entry is computed: head"),
        ("ck.resize('bias', (8,))", "1 entry is grown by a constant: bias"),
        ("ck.reshape('bias', (6, 1))", "1 entry needs other chunks than there are: bias"),
        (
            "ck.split('body.{i}.qkv', 'body.{i}.{a,b}', dim=0)",
            "4 entries need other chunks than there are: body.",
        ),
        (
            "ck.split('head', ['up', 'low'], dim=0)",
            "2 entries take their elements in another order",
        ),
        ("ck.init('big', shape=(3000, 3000))", "what is new has more than 16 MiB together"),
    ],
)
def test_what_would_move_bytes_is_refused_with_the_entries(
    tmp_path: Path, body: str, told: str
) -> None:
    zoo = Zoo(tmp_path, body)
    old = saved(tmp_path)
    error = refusal(zoo, old)
    assert error.code == "CKM580"
    assert error.details[0].startswith(told), error.details
    assert obstacles(zoo.prepare(old)) == tuple(error.details)


def test_rows_that_another_entry_keeps_are_not_named_twice(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.copy('body.0.qkv', 'whole')\nck.split('body.0.qkv', ['q', 'k', 'v'])")
    old = saved(tmp_path)
    assert refusal(zoo, old).details == ("3 entries need other chunks than there are: q, k, v",)
    zoo.run(old, "copy")
    q, k, v = state()["body.0.qkv"].chunk(3)
    rest = {key: tensor for key, tensor in state().items() if key != "body.0.qkv"}
    torch_finds(tmp_path / "copy", {**rest, "whole": state()["body.0.qkv"], "q": q, "k": k, "v": v})


def test_a_data_file_that_nothing_would_use_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('b', reason='idle')")
    old = handmade(tmp_path / "old", {"a": whole(torch.ones(3)), "b": whole(torch.ones(2))})
    assert refusal(zoo, old).details == ("__1_0.distcp would go: nothing in it is used any more",)


@pytest.mark.parametrize("name", [".metadata", "ckmigrate.json"])
def test_a_backup_of_hard_links_is_safe(tmp_path: Path, name: str) -> None:
    zoo = Zoo(tmp_path, RENAME, SPLIT)
    old = saved(tmp_path)
    change(zoo, old, to="1")
    os.link(old / name, tmp_path / "backup")
    assert refusal(zoo, old).code == "CKM777"
    (tmp_path / "backup").unlink()
    for number, path in enumerate(old.glob("*.distcp")):
        os.link(path, tmp_path / f"backup{number}")
    change(zoo, old)
    torch_finds(old, parted())


def test_a_link_in_the_folder_is_not_written_through(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = saved(tmp_path)
    (old / ".metadata").rename(tmp_path / "blob")
    (old / ".metadata").symlink_to(tmp_path / "blob")
    assert isinstance(refusal(zoo, old), CkmigrateError)


def test_a_folder_that_was_saved_over_is_not_taken_back(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = saved(tmp_path)
    change(zoo, old)
    save(old, {"w": torch.ones(2)})
    with pytest.raises(StorageError) as refused:
        take_back(old)
    assert refused.value.code == "CKM778"


def test_while_a_change_is_not_done_the_folder_and_its_metadata_are_refused(tmp_path: Path) -> None:
    old = saved(tmp_path)
    pending_path(old).write_bytes(b"")
    for path in (old, old / ".metadata"):
        with pytest.raises(StorageError) as refused:
            require_settled(path)
        assert refused.value.code == "CKM773"
