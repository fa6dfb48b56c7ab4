"""Which checkpoints a path means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckmigrate.cli.collect import Collection, collect, size_of
from ckmigrate.errors import StorageError


def tree(root: Path, *names: str) -> None:
    """Files with some bytes, and the folders that they are in."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names(found: Collection, root: Path) -> list[str]:
    return [str(one.path.relative_to(root)) for one in found.found]


def test_a_file_means_itself_whatever_it_is_called(tmp_path: Path) -> None:
    tree(tmp_path, "notes.txt", "optimizer.pt", ".hidden")
    paths = [tmp_path / name for name in ("notes.txt", "optimizer.pt", ".hidden", "missing.pt")]
    found = collect(paths)
    assert [one.path for one in found.found] == paths
    assert [str(one.relative) for one in found.found] == [path.name for path in paths]
    assert (found.skipped, found.searched, found.is_batch) == ({}, False, True)
    assert not collect(paths[:1]).is_batch


@pytest.mark.parametrize(
    "inside",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "own.bin.index.json",
    ],
)
def test_a_folder_of_weights_is_one_checkpoint(tmp_path: Path, inside: str) -> None:
    tree(tmp_path, f"runs/llama/{inside}", "runs/llama/extra.pt", "runs/llama/sub/more.pt")
    assert names(collect([tmp_path / "runs" / "llama"]), tmp_path) == ["runs/llama"]
    searched = collect([tmp_path / "runs"])
    assert names(searched, tmp_path) == ["runs/llama"]
    assert str(searched.found[0].relative) == "llama"


def test_a_folder_is_searched_in_natural_order(tmp_path: Path) -> None:
    tree(
        tmp_path, "r/10.pt", "r/9.ckpt", "r/2/a.bin", "r/11/b/c.safetensors", "r/log.txt", "r/x.pth"
    )
    found = collect([tmp_path / "r"])
    assert names(found, tmp_path / "r") == [
        "2/a.bin",
        "9.ckpt",
        "10.pt",
        "11/b/c.safetensors",
        "x.pth",
    ]
    assert [str(one.relative) for one in found.found] == names(found, tmp_path / "r")
    assert found.skipped == {}


def test_what_is_no_checkpoint_of_its_own_is_passed_over_and_counted(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "a.pt",
        "a.pt.bak-base",
        "a.pt.bak-c3c3c3-2",
        "a.pt.undo-1f",
        "llama.bak-base/model.safetensors",
        ".a.pt",
        ".git/b.pt",
        "optimizer.pt",
        "sub/scheduler.pt",
        "sub/rng_state_0.pth",
        "sub/training_args.bin",
        ".ckmigrate-0123456789ab-1-2-01234567-01234567.tmp",
        "out/a.pt",
        "real/c.pt",
    )
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = collect([tmp_path], leave_out=tmp_path / "out")
    assert names(found, tmp_path) == ["a.pt", "real/c.pt"]
    assert found.skipped == {
        "backups": 4,
        "hidden": 1,
        "links": 1,
        "results": 1,
        "temporaries": 1,
        "training_state": 4,
    }
    assert found.remark is not None
    assert found.remark.startswith("passed over: 4 backups, 1 hidden file, 1 link to a folder")


def test_a_file_whose_name_only_looks_like_a_backup_is_a_checkpoint(tmp_path: Path) -> None:
    tree(tmp_path, "net.bak-2.pt")
    assert names(collect([tmp_path]), tmp_path) == ["net.bak-2.pt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.pt", ["one.pt", "two.pt"]),
        ("r/*/last.ckpt", ["r/1/last.ckpt", "r/2/last.ckpt", "r/10/last.ckpt"]),
        ("r/[12]/*.ckpt", ["r/1/last.ckpt", "r/2/first.ckpt", "r/2/last.ckpt"]),
        ("r/?", ["r/1/last.ckpt", "r/2/first.ckpt", "r/2/last.ckpt"]),
        ("**/f*.ckpt", ["r/2/first.ckpt", "r/10/b/first.ckpt"]),
        ("r/10/**", ["r/10/b/first.ckpt", "r/10/last.ckpt"]),
        (
            "r/*",
            [
                *("r/1/last.ckpt", "r/2/first.ckpt", "r/2/last.ckpt"),
                *("r/10/b/first.ckpt", "r/10/last.ckpt"),
            ],
        ),
        ("odd.*", ["odd.weights"]),
        ("**/model.safetensors", ["llama/model.safetensors"]),
        ("l*", ["llama"]),
    ],
)
def test_a_pattern_means_what_fits_it(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    tree(tmp_path, "one.pt", "two.pt", ".three.pt", "odd.weights", "llama/model.safetensors")
    tree(tmp_path, "r/1/last.ckpt", "r/2/last.ckpt", "r/2/first.ckpt", "r/10/last.ckpt")
    tree(tmp_path, "r/10/b/first.ckpt", "r/readme.md")
    assert names(collect([tmp_path / pattern]), tmp_path) == expected


def test_a_pattern_keeps_what_is_below_its_fixed_part(tmp_path: Path) -> None:
    tree(tmp_path, "runs/a/last.pt", "runs/b/last.pt")
    found = collect([tmp_path / "runs" / "*" / "last.pt"])
    assert [str(one.relative) for one in found.found] == ["a/last.pt", "b/last.pt"]


def test_a_file_of_the_very_name_is_no_pattern(tmp_path: Path) -> None:
    tree(tmp_path, "a[1].pt", "a1.pt")
    assert names(collect([tmp_path / "a[1].pt"]), tmp_path) == ["a[1].pt"]
    (tmp_path / "a[1].pt").unlink()
    assert names(collect([tmp_path / "a[1].pt"]), tmp_path) == ["a1.pt"]


def test_work_in_place_sees_a_file_under_one_name_only(tmp_path: Path) -> None:
    tree(tmp_path, "runs/epoch3.pt", "runs/epoch4.pt")
    (tmp_path / "runs" / "best.pt").symlink_to("epoch3.pt")
    found = collect([tmp_path / "runs"], unique=True)
    assert names(found, tmp_path / "runs") == ["epoch3.pt", "epoch4.pt"]
    assert found.skipped == {"second_names": 1}
    assert len(collect([tmp_path / "runs"]).found) == 3


def test_a_link_that_leads_nowhere_is_not_left_out_in_silence(tmp_path: Path) -> None:
    (tmp_path / "gone.pt").symlink_to("nothing.pt")
    assert names(collect([tmp_path]), tmp_path) == ["gone.pt"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    tree(tmp_path, "a/b/one.pt")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    assert names(collect([tmp_path]), tmp_path) == ["a/b/one.pt"]
    assert names(collect([tmp_path / "**" / "*.pt"]), tmp_path) == ["a/b/one.pt"]


@pytest.mark.parametrize(("text", "code"), [("empty", "CKM707"), ("empty/*.pt", "CKM706")])
def test_nothing_found_says_what_was_looked_for(tmp_path: Path, text: str, code: str) -> None:
    tree(tmp_path, "empty/optimizer.pt")
    with pytest.raises(StorageError) as caught:
        collect([tmp_path / text])
    assert caught.value.code == code
    assert caught.value.details == ("passed over: 1 file of training state",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "a.pt", "closed/b.pt")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(StorageError) as caught:
        collect([tmp_path])
    (tmp_path / "closed").chmod(0o700)
    assert caught.value.code == "CKM707"


def test_a_size_is_that_of_all_files_of_a_checkpoint(tmp_path: Path) -> None:
    tree(tmp_path, "llama/model.safetensors", "llama/config.json", "one.pt")
    assert size_of(tmp_path / "one.pt") == 6
    assert size_of(tmp_path / "llama") == len("llama/model.safetensors") + len("llama/config.json")
    assert size_of(tmp_path / "missing") == 0
