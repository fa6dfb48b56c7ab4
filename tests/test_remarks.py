"""Remarks on a plan: what is no obstacle, and what somebody should know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.projects import Zoo, load, tag_of

SMALL = {"a.weight": torch.ones(2, 2)}


def test_a_script_that_was_edited_after_it_ran_on_the_file_is_told(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a.{p}', 'b.{p}')", "ck.rename('b.{p}', 'c.{p}')", base=SMALL)
    new = zoo.upgrade(zoo.save(SMALL), to="0001")
    assert not any("edited" in note for note in zoo.prepare(new).notes)
    zoo.add(1, "ck.rename('a.weight', 'b.weight')")
    (note,) = [note for note in zoo.prepare(new).notes if "edited" in note]
    assert "0001_step_1" in note


def test_a_comment_or_another_layout_of_a_script_is_no_edit(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a.{p}', 'b.{p}')", "ck.rename('b.{p}', 'c.{p}')", base=SMALL)
    new = zoo.upgrade(zoo.save(SMALL), to="0001")
    zoo.add(1, "# the same\nck.rename(\n    'a.{p}',\n    'b.{p}',\n)")
    assert not any("edited" in note for note in zoo.prepare(new).notes)


def test_a_digest_of_another_algorithm_says_nothing_of_an_edit(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a.{p}', 'b.{p}')", "ck.rename('b.{p}', 'c.{p}')", base=SMALL)
    new = zoo.upgrade(zoo.save(SMALL, "old.safetensors"), to="0001")
    tag = tag_of(new)
    for digest in ("9:0123456789abcdef", "2:0123456789abcdef"):
        applied = tuple(replace(item, digest=digest) for item in tag.history)
        text = replace(tag, history=applied).to_json()
        again = zoo.save(load(new), "again.safetensors", metadata={"ckmigrate": text})
        notes = [note for note in zoo.prepare(again).notes if "edited" in note]
        assert len(notes) == digest.startswith("2:")


def test_a_name_that_a_condition_asks_for_in_vain_is_told_with_the_nearest(tmp_path: Path) -> None:
    body = (
        "if 'a.wieght' in ck:\n    ck.permute('a.wieght', (1, 0))\nif 'a.weight' in ck:\n    pass"
    )
    zoo = Zoo(tmp_path, body)
    (note,) = [note for note in zoo.prepare(zoo.save(SMALL)).notes if "asks for" in note]
    assert "0001_step_1.py, line" in note
    assert "'a.wieght'" in note
    assert "'a.weight'" in note


def test_of_several_models_the_one_of_the_files_size_is_compared_with(tmp_path: Path) -> None:
    source = "from torch import nn\n\n\ndef {0}():\n    return nn.Linear({1}, 2, bias=False)\n"
    text = source.format("small", 2) + "\n\n" + source.format("large", 4).split("\n\n\n", 1)[1]
    (tmp_path / "sizes_of_zoo.py").write_text(text)
    models = 'models = { small = "sizes_of_zoo:small", large = "sizes_of_zoo:large" }'
    sizes = {
        "small": {"old.weight": torch.ones(2, 2)},
        "large": {"old.weight": torch.ones(2, 4)},
    }
    (tmp_path / "zoo").mkdir()
    zoo = Zoo(tmp_path / "zoo" / "x", "ck.rename('old.{p}', '{p}')", base=sizes, config=models)
    (tmp_path / "sizes_of_zoo.py").rename(zoo.folder / "sizes_of_zoo.py")
    for name, state in sizes.items():
        path = zoo.save(state, f"{name}.pt")
        prepared = zoo.prepare(path)
        assert prepared.target is not None
        assert prepared.target.model == name
        zoo.upgrade(path, f"{name}-new.pt")


def test_a_downgrade_tells_which_values_it_leaves_behind(tmp_path: Path) -> None:
    body = """
    ck.resize("a.weight", (4, 2))
    ck.init("scale", shape=(3,))
    ck.copy("b", "c")
    """
    zoo = Zoo(tmp_path, body, base={"a.weight": torch.ones(2, 2), "b": torch.ones(2)})
    old = zoo.save({"a.weight": torch.ones(2, 2), "b": torch.ones(2)}, "old.safetensors")
    new = zoo.upgrade(old, "new.safetensors")
    assert not any("place" in note or "part" in note for note in zoo.prepare(old).notes)
    notes = zoo.prepare(new, zoo.request(new, to="base"), direction="down").notes
    assert "values that the result has no place for: scale" in notes
    assert "only a part is kept of: a.weight" in notes
