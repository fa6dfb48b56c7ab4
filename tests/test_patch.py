"""A change in place gives what the copy gives, bit for bit, or it is refused with the reasons."""

from __future__ import annotations

import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ckmigrate.errors import MigrationError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.patch import obstacles
from tests.fast import change, refusal, snapshot, take_back
from tests.projects import Script, Zoo, load, same, tag_of
from tests.room import can_insert, with_room
from tests.shards import content, folder, shards_of

SUFFIXES = [".pt", ".safetensors"]
LAYERS = (
    "ck.rename('body.**', 'encoder.**')",
    "ck.split('encoder.{i}.qkv', 'encoder.{i}.{q,k,v}', dim=0)",
    "ck.reshape('head', (3, 4, 1, 1))",
)
JOINED = (
    "ck.split('body.{i}.qkv', 'body.{i}.{q,k,v}')\n"
    "ck.concat('body.{i}.{q,k}', 'body.{i}.qk', dim=1)"
)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    layers = {f"body.{i}.qkv": torch.randn(12, 4) for i in range(3)}
    return {**layers, "head": torch.randn(3, 4), "steps": torch.tensor(7)}


# --- equal to the copy ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_splits_and_shapes_change_in_place_as_in_a_copy(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, *LAYERS)
    old = zoo.save(state(), f"old{suffix}")
    copied = load(zoo.upgrade(old, f"copy{suffix}"))
    inode = old.stat().st_ino
    outcome = change(zoo, old)
    assert outcome.fast
    assert old.stat().st_ino == inode
    assert same(load(old), copied)
    assert list(open_checkpoint(old).tree) == list(open_checkpoint(tmp_path / f"copy{suffix}").tree)  # type: ignore[call-overload]
    assert tag_of(old) == tag_of(tmp_path / f"copy{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back_again_is_the_first_content(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, *LAYERS)
    old = zoo.save(state(), f"old{suffix}")
    change(zoo, old)
    change(zoo, old, "down", to="base")
    assert same(load(old), state())
    assert tag_of(old).revision is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_changes_are_undone_one_after_the_other_to_the_last_byte(
    tmp_path: Path, suffix: str
) -> None:
    zoo = Zoo(tmp_path, *LAYERS)
    old = zoo.save(state(), f"old{suffix}")
    states = []
    for to in ("1", "2", "head"):
        states.append((old.read_bytes(), old.stat().st_mtime_ns))
        change(zoo, old, to=to)
    for content_before, mtime in reversed(states):
        take_back(old)
        assert old.read_bytes() == content_before
        assert old.stat().st_mtime_ns == mtime
    assert [path.name for path in tmp_path.glob("*.undo*")] == []


def test_torch_reads_what_was_added_in_every_way(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *LAYERS)
    old = zoo.save({"state_dict": state(), "epoch": 3}, "old.pt")
    copied = torch.load(zoo.upgrade(old), weights_only=True)
    change(zoo, old)
    for mmap in (True, False):
        for weights_only in (True, False):
            found = torch.load(old, mmap=mmap, weights_only=weights_only)
            assert same(found["state_dict"], copied["state_dict"])
            assert {k: v for k, v in found.items() if k != "state_dict"} == {
                k: v for k, v in copied.items() if k != "state_dict"
            }
    with zipfile.ZipFile(old) as archive:
        assert archive.testzip() is None
        assert len(set(archive.namelist())) == len(archive.namelist())


def test_a_torch_file_only_grows_and_its_old_bytes_are_its_beginning(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *LAYERS)
    old = zoo.save(state(), "old.pt")
    before = old.read_bytes()
    change(zoo, old)
    assert old.read_bytes()[: len(before)] == before


def test_new_entries_of_a_safetensors_file_are_added_behind_the_others(tmp_path: Path) -> None:
    body = (
        "ck.init('flags', shape=(3,), dtype='int8')\n"
        "ck.init('scale', shape=(5,), value=init.full(2.5))\n"
        "ck.init('noise', shape=(3, 3), value=init.normal())\nck.init('none', shape=(0, 2))"
    )
    zoo = Zoo(tmp_path, body)
    old = zoo.save(state(), "old.safetensors")
    copied = load(zoo.upgrade(old, "copy.safetensors"))
    before = old.read_bytes()
    change(zoo, old)
    assert same(load(old), copied)
    take_back(old)
    assert old.read_bytes() == before


def test_new_and_dropped_entries_of_a_torch_file_need_no_copy(tmp_path: Path) -> None:
    body = (
        "ck.init('scale', shape=(5,), value=init.full(2.5))\n"
        "ck.init('noise', shape=(3, 3), value=init.normal())\n"
        "ck.drop('head', reason='idle')"
    )
    zoo = Zoo(tmp_path, body)
    old = zoo.save(state(), "old.pt")
    copied = load(zoo.upgrade(old))
    outcome = change(zoo, old)
    assert same(load(old), copied)
    assert outcome.spare == 3 * 4 * 4


def test_offsets_that_torch_could_work_out_are_not_promised_any_more(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('body.0.qkv', reason='idle')")
    old = zoo.save(state(), "old.pt")
    change(zoo, old)
    with zipfile.ZipFile(old) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert not names & {".format_version", ".storage_alignment", ".data/serialization_id"}


def test_tied_and_strided_tensors_of_a_torch_file_stay_what_they_are(tmp_path: Path) -> None:
    shared, wide = torch.randn(4, 4), torch.randn(6, 8)
    zoo = Zoo(tmp_path, "ck.rename('emb', 'embed')\nck.rename('left', 'first')")
    content_before = {"emb": shared, "out": shared, "left": wide[:, :3], "right": wide[:, 3:]}
    old = zoo.save(content_before, "old.pt")
    change(zoo, old)
    found = load(old)
    renamed = {"embed": shared, "out": shared, "first": wide[:, :3], "right": wide[:, 3:]}
    assert same(found, renamed)
    assert found["embed"].data_ptr() == found["out"].data_ptr()


def test_parameters_and_ordered_dicts_stay_what_they_are(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('w', 'weight')")
    parameter = torch.nn.Parameter(torch.randn(3))
    old = zoo.save(OrderedDict(w=parameter, b=torch.ones(2, dtype=torch.bfloat16)), "old.pt")
    change(zoo, old)
    found = torch.load(old, weights_only=True)
    assert isinstance(found, OrderedDict)
    assert isinstance(found["weight"], torch.nn.Parameter)
    assert found["b"].dtype == torch.bfloat16


def test_metadata_of_a_safetensors_file_changes_too(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.meta.rename('n_head', 'num_heads')\nck.rename('a', 'b')")
    old = tmp_path / "old.safetensors"
    save_file({"a": torch.ones(3)}, old, metadata={"n_head": "4"})
    with_room(old)
    copy = zoo.upgrade(old, "copy.safetensors")
    change(zoo, old)
    assert open_checkpoint(old).metadata == open_checkpoint(copy).metadata == {"num_heads": "4"}


def test_wrapper_prefixes_stay_unless_they_are_taken_off(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    for suffix in SUFFIXES:
        old = zoo.save({"module.a": torch.ones(3), "module.c": torch.zeros(2)}, f"old{suffix}")
        change(zoo, old)
        assert set(load(old)) == {"module.b", "module.c"}
        other = zoo.save({"module.a": torch.ones(3), "module.c": torch.zeros(2)}, f"x{suffix}")
        change(zoo, other, unwrap=True)
        assert set(load(other)) == {"b", "c"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_tensors_and_scalars_pass(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')\nck.reshape('none', (0, 7))")
    content_before = {"a": torch.tensor(3.5), "none": torch.empty(0, 2), "z": torch.arange(4)}
    old = zoo.save(content_before, f"old{suffix}")
    copied = load(zoo.upgrade(old, f"copy{suffix}"))
    change(zoo, old)
    assert same(load(old), copied)


# --- the room in the header -------------------------------------------------------------------


def test_a_header_with_room_is_rewritten_and_the_data_stays_where_it_is(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('head', 'tail')", "ck.rename('tail', 'last')")
    first = zoo.save(state(), "first.safetensors")
    ours = zoo.upgrade(first, "ours.safetensors", to="1")
    before = open_checkpoint(ours)
    change(zoo, ours)
    after = open_checkpoint(ours)
    assert after.records["last"] == before.records["tail"]
    assert after.size == before.size


def test_a_header_without_room_grows_by_whole_blocks(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('head', 'tail')")
    old = zoo.folder / "old.safetensors"
    save_file(state(), old)
    before = open_checkpoint(old)
    if not can_insert(tmp_path):
        assert refusal(zoo, old).code == "CKM776"
        return
    change(zoo, old)
    after = open_checkpoint(old)
    assert (after.size - before.size) % 4096 == 0
    assert int(after.details["header room"]) >= 512
    assert take_back(old) == "base"
    assert open_checkpoint(old).size == before.size


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_invariants_of_scripts_see_the_old_values_and_a_broken_one_changes_nothing(
    tmp_path: Path, suffix: str
) -> None:
    right = (
        "def verify(old, new):\n"
        "    assert torch.equal(old['head'], new['tail'])\n"
        "    assert torch.equal(old['body.0.qkv'][:4], new['q'])"
    )
    body = "ck.rename('head', 'tail')\nck.split('body.0.qkv', ['q', 'k', 'v'], dim=0)"
    zoo = Zoo(tmp_path / "right", Script(body, rest=right))
    change(zoo, zoo.save(state(), f"old{suffix}"), full_verify=True)
    wrong = right.replace("[:4]", "[4:8]")
    zoo = Zoo(tmp_path / "wrong", Script(body, rest=wrong))
    assert refusal(zoo, zoo.save(state(), f"old{suffix}"), full_verify=True).code == "CKM604"


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("ck.transpose('head', 0, 1)", "1 entry takes its elements in another order"),
        ("ck.cast('head', 'float16')", "1 entry is cast: head"),
        ("ck.compute('head', 'head', lambda t: t * 2)", "1 entry is computed: head"),
        ("ck.copy('head', 'twin')", "1 entry needs a copy of its own"),
        ("ck.resize('head', (5, 4))", "1 entry is grown by a constant: head"),
        (JOINED, "3 entries are joined along dim 1: body.{0…2}.qk"),
        (
            "ck.concat(['body.0.qkv', 'body.2.qkv'], 'both', dim=0)",
            "1 entry is joined from parts that do not lie beside each other: both",
        ),
    ],
)
def test_what_would_move_bytes_is_refused_with_the_entries(
    tmp_path: Path, suffix: str, body: str, told: str
) -> None:
    zoo = Zoo(tmp_path, body)
    error = refusal(zoo, zoo.save(state(), f"old{suffix}"))
    assert isinstance(error, MigrationError)
    assert error.code == "CKM580"
    assert any(line.startswith(told) for line in error.details), error.details
    assert "--in-place" in str(error.fix)


def test_a_hole_in_a_safetensors_file_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('body.1.qkv', reason='idle')\nck.slice('head', dim=0, stop=2)")
    error = refusal(zoo, zoo.save(state(), "old.safetensors"))
    assert error.details == (
        "2 entries leave bytes behind, and a safetensors file has no holes: body.1.qkv, head",
    )


def test_a_legacy_file_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('head', 'tail')")
    old = zoo.save(state(), "old.pt", _use_new_zipfile_serialization=False)
    assert "before 1.6" in refusal(zoo, old).details[0]


def test_large_new_tensors_are_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.init('big', shape=(3000, 3000))")
    assert "more than 16 MiB" in refusal(zoo, zoo.save(state(), "old.pt")).details[0]


def test_the_plan_knows_beforehand(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('head', 'tail')", "ck.transpose('tail', 0, 1)")
    old = zoo.save(state(), "old.pt")
    assert obstacles(zoo.prepare(old, zoo.request(old, to="1"))) == ()
    assert len(obstacles(zoo.prepare(old))) == 1


# --- folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_folder_changes_all_its_shards_and_its_index(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.rename('a', 'x')\nck.split('b', ['q', 'k'], dim=0)",
        "ck.meta.rename('config.n_head', 'config.num_heads')",
    )
    shards = [{"a": torch.randn(3), "c": torch.ones(2)}, {"b": torch.randn(4, 2)}]
    old = folder(
        tmp_path / "old", shards, config={"n_head": 2}, others={"sub/t.txt": "t"}, suffix=suffix
    )
    before = snapshot(old)
    zoo.run(old, "copy")
    change(zoo, old)
    assert same(content(old), content(tmp_path / "copy"))
    assert list(shards_of(old)) == list(shards_of(tmp_path / "copy"))
    assert (old / "config.json").read_bytes() == (tmp_path / "copy/config.json").read_bytes()
    assert set(snapshot(old)) == set(before)
    assert take_back(old) == "base"
    assert snapshot(old) == before


def test_a_link_in_a_folder_is_not_written_through(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'x')")
    old = folder(tmp_path / "old", [{"a": torch.randn(3)}, {"b": torch.randn(4)}])
    shard = sorted(old.glob("*.safetensors"))[0]
    blob = tmp_path / "blob"
    shard.rename(blob)
    shard.symlink_to(blob)
    assert refusal(zoo, old).code == "CKM777"


def test_a_shard_that_becomes_empty_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('b', reason='idle')")
    old = folder(tmp_path / "old", [{"a": torch.randn(3)}, {"b": torch.randn(4)}], suffix=".bin")
    assert refusal(zoo, old).code == "CKM580"


# --- any chain --------------------------------------------------------------------------------


@dataclass
class World:
    """Names and shapes while a random script is written."""

    shapes: dict[str, tuple[int, ...]]
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"n{self.count}"


@st.composite
def scripts(draw: st.DrawFn) -> tuple[dict[str, tuple[int, ...]], str]:
    sizes = st.integers(0, 4)
    start = {f"t{i}": tuple(draw(st.lists(sizes, max_size=3))) for i in range(draw(sizes) + 1)}
    world = World(dict(start))
    kinds = ("rename", "split", "concat", "reshape", "flatten", "transpose", "drop", "init", "copy")
    weights = (4, 5, 5, 3, 3, 1, 1, 1, 1)
    kind = st.sampled_from([k for k, w in zip(kinds, weights, strict=True) for _ in range(w)])
    for _ in range(draw(st.integers(1, 6))):
        if world.shapes:
            _step(draw, world, draw(kind), draw(st.sampled_from(sorted(world.shapes))))
    return start, "\n".join(world.lines) or "pass"


def _step(draw: st.DrawFn, world: World, kind: str, name: str) -> None:
    shape, new = world.shapes[name], world.fresh()
    if kind == "split" and shape and shape[0] > 1:
        cut = draw(st.integers(1, shape[0] - 1))
        world.lines.append(
            f"ck.split('{name}', ['{new}', '{new}b'], sizes=[{cut}, {shape[0] - cut}])"
        )
        del world.shapes[name]
        world.shapes |= {new: (cut, *shape[1:]), f"{new}b": (shape[0] - cut, *shape[1:])}
    elif kind == "concat":
        others = [n for n, s in world.shapes.items() if n != name and s[1:] == shape[1:] and s]
        if shape and others:
            other = draw(st.sampled_from(others))
            world.lines.append(f"ck.concat(['{name}', '{other}'], '{new}', dim=0)")
            total = shape[0] + world.shapes[other][0]
            del world.shapes[name], world.shapes[other]
            world.shapes[new] = (total, *shape[1:])
    elif kind == "transpose" and len(shape) > 1:
        world.lines.append(f"ck.transpose('{name}', 0, 1)")
        world.shapes[name] = (shape[1], shape[0], *shape[2:])
    elif kind == "flatten" and shape:
        world.lines.append(f"ck.flatten('{name}')")
        world.shapes[name] = (torch.empty(shape).numel(),)
    elif kind == "reshape":
        world.lines.append(f"ck.reshape('{name}', {(1, *shape)})")
        world.shapes[name] = (1, *shape)
    elif kind == "drop" and len(world.shapes) > 1:
        world.lines.append(f"ck.drop('{name}', reason='idle')")
        del world.shapes[name]
    elif kind == "init":
        world.lines.append(f"ck.init('{new}', shape=(2,), value=init.full(1.5))")
        world.shapes[new] = (2,)
    elif kind == "copy":
        world.lines.append(f"ck.copy('{name}', '{new}')")
        world.shapes[new] = shape
    else:
        world.lines.append(f"ck.rename('{name}', '{new}')")
        world.shapes[new] = world.shapes.pop(name)


def _attempts(
    start: dict[str, tuple[int, ...]], body: str, root: Path, suffix: str
) -> Iterator[bool]:
    zoo = Zoo(root, body)
    data = {name: torch.randn(shape) for name, shape in start.items()}
    old = zoo.save(data, f"old{suffix}")
    copied = load(zoo.upgrade(old, f"copy{suffix}"))
    before = old.read_bytes()
    if obstacles(zoo.prepare(old)):
        assert refusal(zoo, old).code == "CKM580"
        yield False
        return
    change(zoo, old)
    assert same(load(old), copied)
    take_back(old)
    assert old.read_bytes() == before
    yield True


TRIED: list[bool] = []


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(scripts())
@settings(max_examples=40, deadline=None)
def test_any_structural_chain_is_refused_or_gives_the_tensors_of_the_copy(
    suffix: str, case: tuple[dict[str, tuple[int, ...]], str]
) -> None:
    if suffix == ".safetensors" and not can_insert(Path(tempfile.gettempdir())):
        pytest.skip("the file system cannot insert blocks, so that most headers have no room")
    with tempfile.TemporaryDirectory() as root:
        TRIED.extend(_attempts(*case, Path(root), suffix))


def test_some_chains_were_refused_and_some_were_not() -> None:
    assert not TRIED or set(TRIED) == {True, False}


def test_a_file_whose_names_need_the_whole_header_is_read_by_its_library(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *(f"ck.rename('{'x' * n}', '{'x' * (n * 3)}')" for n in (1, 3, 9, 27, 81)))
    old = zoo.upgrade(zoo.save({"x": torch.ones(2)}, "a.safetensors"), "b.safetensors", to="1")
    for to in ("2", "3", "4", "head"):
        if to != "2" and not can_insert(tmp_path):
            break
        change(zoo, old, to=to)
        assert [t.tolist() for t in load_file(old).values()] == [[1, 1]]
