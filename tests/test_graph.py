"""The graph of revisions: order, ways, and every broken history."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.errors import HistoryError, IdentifyError, MigrationError
from ckmigrate.revisions.graph import History, build_history, read_history
from ckmigrate.revisions.script import Script

FOLDER = Path("migrations")


def name(index: int) -> str:
    return f"{index:02x}" * 5


def script(index: int, *parents: int, number: int | None = -1) -> Script:
    """Script `index`, revising others; its file number is its index unless told otherwise."""
    number = index if number == -1 else number
    ids = tuple(map(name, parents))
    revises = None if not ids else ids[0] if len(ids) == 1 else ids
    file = f"{number:04d}_step_{index}.py" if number is not None else f"step_{index}.py"
    return Script(FOLDER / file, name(index), revises, number=number, slug=f"step_{index}")


def history(*scripts: Script) -> History:
    return build_history(scripts, folder=FOLDER)


def indices(scripts: tuple[Script, ...]) -> list[int]:
    return [int(one.id[:2], 16) for one in scripts]


def write(folder: Path, file: str, index: int, revises: str = "None") -> Path:
    path = folder / file
    text = f'revision = "{name(index)}"\nrevises = {revises}\napi = 1\ndef upgrade(ck):\n    pass\n'
    path.write_text(text)
    return path


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any history with one base: forks, merges of merges, file numbers in any order."""
    size = draw(st.integers(0, 12))
    numbers = draw(st.lists(st.none() | st.integers(0, 5), min_size=size, max_size=size))
    scripts: list[Script] = []
    above: list[set[int]] = []
    for index in range(size):
        parents: list[int] = []
        for parent in draw(st.permutations(range(index)))[: draw(st.integers(1, 3))]:
            if not any(parent in above[p] or p in above[parent] for p in parents):
                parents.append(parent)
        above.append(set(parents).union(*(above[parent] for parent in parents)))
        scripts.append(script(index, *parents, number=numbers[index]))
    return history(*draw(st.permutations(scripts)))


def test_a_line_is_ordered_by_its_links_not_by_its_numbers() -> None:
    line = history(script(0, 1, number=1), script(1, 2, number=2), script(2, number=3))
    assert indices(line.order) == [2, 1, 0]
    assert (line.heads, line.roots) == ((name(0),), (name(2),))
    assert line.require_single_head() == name(0)


def test_ready_scripts_are_ordered_by_number_then_id_and_unnumbered_ones_last() -> None:
    fan = (script(4, 0, number=None), script(3, 0, number=7), script(2, 0, number=7))
    assert indices(history(*fan, script(1, 0, number=9), script(0)).order) == [0, 2, 3, 1, 4]


def test_an_empty_history_is_valid(tmp_path: Path) -> None:
    empty = read_history(tmp_path)
    assert (empty.order, empty.heads, empty.roots, len(empty)) == ((), (), (), 0)
    assert empty.require_single_head() is None
    assert empty.path_up(None, None) == ()


def test_children_parents_and_ancestors() -> None:
    diamond = history(script(0), script(1, 0), script(2, 0), script(3, 1, 2))
    assert diamond.children[name(0)] == (name(1), name(2))
    assert diamond.children[None] == (name(0),)
    assert diamond.parents(name(3)) == (name(1), name(2))
    assert diamond.ancestors(name(3)) == {name(0), name(1), name(2)}
    assert name(3) in diamond
    assert name(9) not in diamond


def test_a_branch_that_was_merged_late_is_not_skipped() -> None:
    """A high-water mark would think that 3 contains everything below it."""
    merged = history(script(0), script(1, 0), script(2, 0), script(3, 2), script(4, 3, 1))
    assert indices(merged.path_up(name(3), name(4))) == [1, 4]
    assert indices(merged.path_down(name(4), name(3))) == [4, 1]


def test_a_way_up_ends_where_it_was_asked_to() -> None:
    line = history(script(0), script(1, 0), script(2, 1))
    assert indices(line.path_up(None, name(1))) == [0, 1]
    assert line.path_up(name(1), name(1)) == ()
    assert indices(line.path_down(name(2), None)) == [2, 1, 0]


@pytest.mark.parametrize(
    ("current", "to", "down", "words"),
    [
        (2, 1, False, "already past"),
        (2, None, False, "already past"),
        (1, 2, True, "is before"),
        (None, 2, True, "is before"),
        (3, 2, False, "different branches"),
        (2, 3, True, "different branches"),
    ],
)
def test_a_way_that_does_not_exist_is_explained(
    current: int | None, to: int | None, *, down: bool, words: str
) -> None:
    fork = history(script(0), script(1, 0), script(2, 1), script(3, 0))
    ends = [None if end is None else name(end) for end in (current, to)]
    with pytest.raises(MigrationError) as caught:
        _ = fork.path_down(*ends) if down else fork.path_up(*ends)
    assert caught.value.code == "CKM511"
    assert words in caught.value.what


def test_the_other_branch_is_named_with_its_head_and_the_fork() -> None:
    fork = history(script(0), script(1, 0), script(2, 1), script(3, 0), script(4, 3))
    with pytest.raises(MigrationError) as caught:
        fork.path_up(name(3), name(2))
    assert name(0) in (caught.value.why or "")
    assert name(4) in caught.value.details[0]
    assert "merge" in (caught.value.fix or "")


def test_a_merge_that_contains_both_branches_is_proposed() -> None:
    merged = history(script(0), script(1, 0), script(2, 0), script(3, 1, 2))
    with pytest.raises(MigrationError) as caught:
        merged.path_up(name(1), name(2))
    assert name(3) in (caught.value.fix or "")


def test_an_unknown_revision_names_the_nearest() -> None:
    with pytest.raises(IdentifyError) as caught:
        history(script(0x77)).path_up("7777777778", None)
    assert caught.value.code == "CKM401"
    assert name(0x77) in (caught.value.why or "")


def test_two_heads_are_named_with_the_way_out() -> None:
    fork = history(script(0), script(1, 0), script(2, 0))
    with pytest.raises(HistoryError) as caught:
        fork.require_single_head()
    assert caught.value.code == "CKM316"
    assert [name(1) in caught.value.details[0], name(2) in caught.value.details[1]] == [True, True]
    assert f"ckmigrate rebase --onto {name(1)}" in (caught.value.fix or "")
    assert "ckmigrate merge" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("scripts", "code", "named"),
    [
        ((script(0), script(0, number=7)), "CKM311", ("0000_step_0.py", "0007_step_0.py")),
        ((script(0), script(1, 0), script(2, 9)), "CKM312", (name(9), "0002_step_2.py")),
        ((script(0), script(1, 3), script(2, 1), script(3, 2)), "CKM313", (name(1), name(3))),
        ((script(0), script(1, 1)), "CKM313", (name(1),)),
        ((script(0), script(1, 0, 0)), "CKM314", ("twice", "0001_step_1.py")),
        ((script(0), script(1, 0), script(2, 1, 0)), "CKM314", (name(0), "comes before")),
        ((script(0), script(1), script(2, 0, 1)), "CKM315", ("0000_step_0.py", "0001_step_1.py")),
    ],
)
def test_a_broken_history_is_refused_with_the_files(
    scripts: tuple[Script, ...], code: str, named: tuple[str, ...]
) -> None:
    with pytest.raises(HistoryError) as caught:
        history(*scripts)
    assert caught.value.code == code
    assert [word for word in named if word not in str(caught.value)] == []


def test_a_missing_parent_names_the_nearest_and_every_other() -> None:
    with pytest.raises(HistoryError) as caught:
        history(script(0x77), Script(FOLDER / "a.py", "aaaaaaaaaa", "7777777778"), script(5, 6))
    assert name(0x77) in (caught.value.why or "")
    assert name(6) in caught.value.details[0]


def test_a_ring_is_listed_without_the_scripts_that_hang_on_it() -> None:
    with pytest.raises(HistoryError) as caught:
        history(script(9), script(3, 2, 9), script(2, 3), script(1, 2), script(0, 1))
    ring = caught.value.details
    assert len(ring) == 2
    assert not any(name(1) in line for line in ring)


def test_a_folder_is_read_without_private_files(tmp_path: Path) -> None:
    write(tmp_path, "0001_first.py", 0)
    write(tmp_path, "0002_second.py", 1, f'"{name(0)}"')
    for file in ("__init__.py", "_helper.py", ".hidden.py", "notes.txt"):
        (tmp_path / file).write_text("not a script (")
    (tmp_path / "schema.py").mkdir()
    found = read_history(tmp_path)
    assert [one.path.name for one in found.order] == ["0001_first.py", "0002_second.py"]
    assert found.folder == tmp_path


def test_two_files_with_one_id_are_both_named(tmp_path: Path) -> None:
    paths = [write(tmp_path, "0001_a.py", 0), write(tmp_path, "0002_b.py", 0)]
    with pytest.raises(HistoryError) as caught:
        read_history(tmp_path)
    assert caught.value.details == tuple(map(str, paths))


def test_every_script_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def (")
    (tmp_path / "b.py").symlink_to(tmp_path / "gone")
    with pytest.raises(HistoryError) as caught:
        read_history(tmp_path)
    assert caught.value.code == "CKM302"
    assert "b.py" in caught.value.details[0]


@pytest.mark.parametrize("folder", ["gone", "file"])
def test_a_folder_that_is_not_there_is_no_empty_history(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError) as caught:
        read_history(tmp_path / folder)
    assert caught.value.code == "CKM310"


def test_a_long_history_is_walked_without_recursion() -> None:
    long = history(
        *(
            Script(FOLDER / f"{i}.py", f"{i:010x}", f"{i - 1:010x}" if i else None)
            for i in range(5000)
        )
    )
    assert len(long.path_up(f"{0:010x}", long.heads[0])) == 4999


@settings(deadline=None)
@given(histories(), st.data())
def test_successive_ways_run_every_ancestor_once_and_parents_first(
    random: History, data: st.DataObject
) -> None:
    here: str | None = None
    done: list[str] = []
    while True:
        ahead = [s.id for s in random.order if here is None or here in random.ancestors(s.id)]
        if not ahead:
            break
        to = data.draw(st.sampled_from(ahead))
        for step in random.path_up(here, to):
            assert set(step.parents) <= set(done)
            done.append(step.id)
        assert set(done) == random.ancestors(to) | {to}
        assert len(done) == len(set(done))
        here = to


@settings(deadline=None)
@given(histories())
def test_the_way_down_is_the_way_up_backwards(random: History) -> None:
    for to in random.order:
        for current in (None, *random.ancestors(to.id)):
            up = random.path_up(current, to.id)
            assert random.path_down(to.id, current) == tuple(reversed(up))


@settings(deadline=None)
@given(histories())
def test_the_order_depends_on_the_scripts_only(random: History) -> None:
    again = history(*reversed(random.order))
    assert again.order == random.order
    assert set(again.heads) == {s.id for s in again.order} - {
        parent for s in again.order for parent in s.parents
    }
