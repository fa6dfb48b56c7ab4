"""One test for each trap that systems of this kind have fallen into, on real files.

Traps that a single module avoids are tested beside it; here are those of the whole pipeline.
"""

from __future__ import annotations

import json
import stat
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from ckmigrate.errors import MigrationError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from tests.projects import Script, Zoo, load, names_in, revision, same, tag_of

BATCH_NORM = """
def build():
    return nn.BatchNorm1d(4)
"""


# --- identity and order -----------------------------------------------------------------------


def test_nothing_is_converted_twice(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('layers.**', 'encoder.layers.**')")
    once = zoo.upgrade(zoo.save({"layers.0.w": torch.ones(1)}))
    twice = zoo.upgrade(once, "twice.pt")
    assert load(twice).keys() == {"encoder.layers.0.w"}
    assert len(tag_of(twice).history) == 1


def test_a_script_that_is_merged_late_is_not_skipped(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')", "ck.rename('b', 'c')")
    at_two = zoo.upgrade(zoo.save({"a": torch.ones(1), "x": torch.ones(1)}))
    scripts = tmp_path / "migrations"
    late = (scripts / "0002_step_2.py").read_text()
    late = late.replace(revision(2), "00000000aa").replace(
        "ck.rename('b', 'c')", "ck.rename('x', 'y')"
    )
    (scripts / "0001_from_another_branch.py").write_text(late)
    merge = late.replace("'00000000aa'", "'00000000bb'").replace("ck.rename('x', 'y')", "pass")
    merge = merge.replace(
        f"revises = {revision(1)!r}", f"revises = ({revision(2)!r}, '00000000aa')"
    )
    (scripts / "0003_merge.py").write_text(merge)
    new = zoo.upgrade(at_two, "merged.pt")
    assert load(new).keys() == {"c", "y"}
    assert tag_of(new).revision == "00000000bb"
    applied = [item.revision for item in tag_of(new).history]
    assert applied == [revision(1), revision(2), "00000000aa", "00000000bb"]


def test_what_is_stamped_is_what_ran(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *(f"ck.rename('{a}', '{b}')" for a, b in ("ab", "bc", "cd")))
    part = zoo.upgrade(zoo.save({"a": torch.ones(1)}), to="2")
    assert load(part).keys() == {"c"}
    assert tag_of(part).revision == revision(2)
    assert len(tag_of(part).history) == 2


def test_a_step_that_cannot_run_is_not_recorded(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('missing', 'b')")
    error = zoo.refusal(zoo.save({"a": torch.ones(1)}))
    assert isinstance(error, MigrationError)
    assert "missing" in error.what


@pytest.mark.parametrize("change", ["crlf", "comment", "format"])
def test_the_digest_of_a_script_is_of_what_it_does(tmp_path: Path, change: str) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.ones(1)})
    first = tag_of(zoo.upgrade(old)).history
    path = tmp_path / "migrations" / "0001_step_1.py"
    text = path.read_text()
    if change == "crlf":
        path.write_bytes(text.replace("\n", "\r\n").encode())
    elif change == "comment":
        path.write_text(f"# a comment\n{text}    # another\n")
    else:
        path.write_text(
            text.replace("ck.rename('a', 'b')", 'ck.rename(\n        "a",\n        "b",\n    )')
        )
    assert tag_of(zoo.upgrade(old, "again.pt")).history == first
    path.write_text(text.replace("'b'", "'c'"))
    assert tag_of(zoo.upgrade(old, "other.pt")).history != first


# --- the tag ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_tag_is_plain_json_and_survives_another_writer(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    new = zoo.upgrade(zoo.save({"a": torch.ones(1)}, f"old{suffix}"))
    text = open_checkpoint(new).tag
    assert text is not None
    assert json.loads(text)["revision"] == revision(1)
    assert text.isascii()


@pytest.mark.parametrize("way", [("x.pt", "y.safetensors"), ("x.safetensors", "y.pt")])
def test_the_tag_survives_a_conversion(tmp_path: Path, way: tuple[str, str]) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    first = zoo.upgrade(zoo.save({"a": torch.ones(1)}), way[0])
    second = zoo.upgrade(first, way[1])
    assert tag_of(second) == tag_of(first)


# --- operations -------------------------------------------------------------------------------


def test_uneven_parts_come_back_as_they_were(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.concat(['q', 'k', 'v'], 'qkv')")
    state = {"q": torch.randn(8, 3), "k": torch.randn(2, 3), "v": torch.randn(2, 3)}
    assert same(load(zoo.downgrade(zoo.upgrade(zoo.save(state)))), state)


def test_five_rows_are_not_four_parts(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.split('a', ['w', 'x', 'y', 'z'])")
    assert "5" in str(zoo.refusal(zoo.save({"a": torch.ones(5)})))


def test_two_names_can_be_swapped(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('{a,b}.w', '{b,a}.w')")
    state = {"a.w": torch.ones(2), "b.w": torch.zeros(2)}
    found = load(zoo.upgrade(zoo.save(state)))
    assert same(found, {"a.w": state["b.w"], "b.w": state["a.w"]})


def test_a_shift_of_indices_overwrites_nothing(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('l.{i:int}', 'l.{i+1}')")
    state = {f"l.{i}": torch.full((1,), float(i)) for i in range(12)}
    found = load(zoo.upgrade(zoo.save(state)))
    assert {name: tensor.item() for name, tensor in found.items()} == {
        f"l.{i + 1}": i for i in range(12)
    }


def test_the_tenth_expert_comes_after_the_ninth(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.stack('e.{i:int}', 'e')")
    found = load(zoo.upgrade(zoo.save({f"e.{i}": torch.tensor(i) for i in range(12)})))
    assert found["e"].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("ck.rename('{x}.a', 'c')", ["m.a", "n.a"]),
        ("ck.rename('a', 'b')", ["a", "b"]),
        ("ck.rename('nothing.**', 'b.**')", ["a"]),
        ("ck.concat('{m}.{q,k,v}', '{m}.qkv')", ["m.q", "m.k"]),
        ("ck.stack('e.{i:int}', 'e')", ["e.0", "e.2"]),
    ],
)
def test_collisions_empty_matches_and_incomplete_groups_are_errors(
    tmp_path: Path, script: str, state: list[str]
) -> None:
    zoo = Zoo(tmp_path, script)
    error = zoo.refusal(zoo.save({name: torch.ones(2) for name in state}))
    assert isinstance(error, MigrationError)
    assert "0001_step_1.py, line" in (error.where or "")


def test_names_are_matched_whole(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('{m}.weight', '{m}.w')")
    names = ["modulelist.weight", "modulelist.weight_scale_inv", "_orig_module.weight"]
    found = load(zoo.upgrade(zoo.save({name: torch.ones(1) for name in names})))
    assert list(found) == ["modulelist.w", "modulelist.weight_scale_inv", "_orig_module.w"]


def test_square_matrices_are_transposed_too(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.transpose('{m}.w', 0, 1)")
    state = {"a.w": torch.randn(3, 3), "b.w": torch.randn(2, 3)}
    found = load(zoo.upgrade(zoo.save(state)))
    assert same(found, {name: tensor.t() for name, tensor in state.items()})


def test_a_catastrophic_expression_ends_in_time(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "import re\nck.rename(re.compile('(a+)+b'), 'c')")
    begin = time.perf_counter()
    error = zoo.refusal(zoo.save({"a" * 39: torch.ones(1)}))
    assert time.perf_counter() - begin < 10
    assert isinstance(error, MigrationError)


def test_an_empty_downgrade_is_never_made_up(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('a', reason='unused')")
    new = zoo.upgrade(zoo.save({"a": torch.ones(1), "b": torch.ones(1)}))
    with pytest.raises(MigrationError, match="no way back"):
        zoo.downgrade(new)


# --- strictness -------------------------------------------------------------------------------


def test_a_counter_that_torch_would_make_up_is_missing(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""), model=BATCH_NORM)
    state = dict(torch.nn.BatchNorm1d(4).state_dict())
    zoo.upgrade(zoo.save(state), "whole.pt")
    del state["num_batches_tracked"]
    torch.nn.BatchNorm1d(4).load_state_dict(state, strict=True)  # it does make it up
    error = zoo.refusal(zoo.save(state))
    assert error.code == "CKM601"
    assert "num_batches_tracked" in error.details[0]


def test_a_dtype_that_torch_would_cast_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""), model=BATCH_NORM)
    state = dict(torch.nn.BatchNorm1d(4).state_dict())
    state["weight"] = state["weight"].int()
    torch.nn.BatchNorm1d(4).load_state_dict(state, strict=True)
    assert zoo.refusal(zoo.save(state)).code == "CKM601"


# --- training state ---------------------------------------------------------------------------


TWINS = """
class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

def build():
    return Twins()
"""


def test_moments_are_not_swapped_when_layers_are(tmp_path: Path) -> None:
    swap = "ck.rename('a', 't')\nck.rename('b', 'a')\nck.rename('t', 'b')"
    zoo = Zoo(tmp_path, swap, model=TWINS)
    parameters = [torch.nn.Parameter(torch.randn(2)) for _ in range(2)]
    optimizer = torch.optim.Adam(parameters)
    parameters[0].grad = torch.ones(2)
    optimizer.step()
    weights = {"a": parameters[0].data, "b": parameters[1].data}
    old = zoo.save({"model": weights, "optimizer": optimizer.state_dict()})
    found = torch.load(zoo.upgrade(old), weights_only=True)
    # What was a is b now, and counts as the second.
    assert list(found["optimizer"]["state"]) == [1]
    assert torch.equal(found["model"]["b"], weights["a"])
    error = zoo.refusal(old, "other.pt", use_model=False)
    assert error.code == "CKM566"


# --- reading and writing ----------------------------------------------------------------------


class Config:
    """A class of the project, in its checkpoints."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __setstate__(self, state: dict[str, int]) -> None:
        REVIVED.append(state)
        vars(self).update(state)


REVIVED: list[dict[str, int]] = []


def test_a_carried_class_comes_back_as_itself_and_is_never_made_on_the_way(tmp_path: Path) -> None:
    name = f"{Config.__module__}.{Config.__qualname__}"
    body = "ck.rename('a', 'b')\nck.meta.rename('config.width', 'config.n')"
    zoo = Zoo(tmp_path, body, config=f'carry = ["{name}"]')
    old = zoo.save({"model": {"a": torch.ones(1)}, "config": Config(4)})
    modules = dict(sys.modules)
    new = zoo.upgrade(old)
    assert REVIVED == []
    assert all(sys.modules[name] is module for name, module in modules.items())
    found = torch.load(new, weights_only=False)
    assert type(found["config"]) is Config
    assert vars(found["config"]) == {"n": 4}


def test_a_class_that_is_not_carried_is_named_with_the_way_to_allow_it(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"model": {"a": torch.ones(1)}, "config": Config(4)})
    with pytest.raises(Exception, match=r"test_traps\.Config"):
        zoo.upgrade(old, from_revision="base")


def test_permissions_of_a_file_are_those_that_it_had(tmp_path: Path) -> None:
    from ckmigrate.execute.commit import Destination
    from ckmigrate.migrate import carry_out

    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.ones(1)}, "old.safetensors")
    old.chmod(0o664)
    carry_out(zoo.prepare(old), Destination(old, in_place=True))
    assert stat.S_IMODE(old.stat().st_mode) == 0o664


def test_nothing_of_ours_stays_in_the_folder_of_a_model(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.ones(1)})
    before = names_in(tmp_path)
    zoo.upgrade(old)
    assert names_in(tmp_path) == sorted([*before, "new.pt"])


def test_a_record_that_torch_would_not_check_is_checked(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.ones(1000)})
    data = bytearray(old.read_bytes())
    offset = open_checkpoint(old).records["0"].offset
    data[offset : offset + 4] = b"\0\0\0\0"
    old.write_bytes(data)
    assert torch.load(old, weights_only=True)["a"][0] == 0
    assert zoo.refusal(old).code == "CKM760"


def test_two_readers_of_one_archive_see_the_same_pickle(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.ones(3)})
    with zipfile.ZipFile(old, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("old/data.pkl", archive.read("old/data.pkl"))
    with pytest.raises(Exception, match="twice"):
        zoo.upgrade(old, from_revision="base")


def test_a_file_that_claims_gigabytes_takes_none(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    header = {"a": {"dtype": "F32", "shape": [1 << 31], "data_offsets": [0, 1 << 33]}}
    raw = json.dumps(header).encode()
    path = tmp_path / "old.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(100))
    with pytest.raises(Exception, match=r"CKM70\d"):
        zoo.upgrade(path, from_revision="base")
