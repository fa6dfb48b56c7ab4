"""Without the model a result at the head is compared with the committed head snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_project import Toy, make_toy

DROP = '    ck.drop("scale", reason="x")\n'


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    toy = make_toy(tmp_path / "toy")
    toy.script(4, "more", DROP, revision="d4d4d4d4d4")
    assert toy.run("lock").code == 0
    return toy


def test_a_script_that_was_edited_since_makes_nothing_that_nobody_compared(toy: Toy) -> None:
    path = toy.checkpoint()
    assert "compared    the snapshot 'default'" in toy.run("plan", path).out
    script = toy.script(4, "more", DROP.replace("scale", "head.bias"), revision="d4d4d4d4d4")
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", "new.safetensors", "--no-model")
    assert (ran.code, "error[CKM601]" in ran.err) == (6, True)
    assert "missing     head.bias [3] float32" in ran.err
    assert "record what they do now: ckmigrate lock" in ran.err
    assert toy.files() == before
    assert toy.run("lock").code == 0
    assert toy.run("upgrade", path, "-o", "new.safetensors", "--no-model").code == 0
    assert script.exists()


def test_before_the_head_the_scripts_alone_tell(toy: Toy) -> None:
    toy.script(4, "more", DROP.replace("scale", "head.bias"), revision="d4d4d4d4d4")
    ran = toy.run("plan", toy.checkpoint(), "--to", "0003")
    assert (ran.code, "compared    the snapshot 'default'" in ran.out) == (0, True)


def test_a_revision_that_is_not_recorded_yet_can_be_planned(toy: Toy) -> None:
    revision = toy.run("revision", "-m", "next", "--json").json["revision"]
    body = '    ck.drop("head.bias", reason="x")\n'
    (toy.root / "migrations" / "0005_next.py").unlink()
    toy.script(5, "next", body, revision=revision, revises="d4d4d4d4d4")
    ran = toy.run("plan", toy.checkpoint())
    assert (ran.code, "compared    the snapshot 'default'" in ran.out) == (0, True)


def test_a_file_of_another_size_is_not_compared(toy: Toy) -> None:
    path = toy.checkpoint("big.safetensors", **{"head.weight": (30, 4), "head.bias": (30,)})
    ran = toy.run("plan", path, "--from", "base")
    assert (ran.code, "no snapshot has this file's shapes" in ran.err + ran.out) == (0, True)
