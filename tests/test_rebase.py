"""Which scripts a rebase moves, what becomes of them, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckmigrate.errors import CkmigrateError, HistoryError, IdentifyError, UsageError
from ckmigrate.git_state import GitState
from ckmigrate.rebasing import find_sides
from ckmigrate.revisions.former import differing, fork_of_former
from ckmigrate.revisions.graph import History, build_history, read_history, read_scripts
from ckmigrate.revisions.lock import Conflict, Lock, LockLine
from ckmigrate.revisions.rebase import Moved, local_scripts, loose_history, moved
from ckmigrate.revisions.script import Script, parse_script
from ckmigrate.revisions.squashed import set_aside
from ckmigrate.revisions.targets import resolve

BASE, UP, UP2, MY, MY2 = (letter * 10 for letter in "0abcd")


def write(folder: Path, file: str, revision: str, revises: object, more: str = "") -> Path:
    path = folder / file
    text = f'"""{file}"""\nrevision = {revision!r}\nrevises = {revises!r}\napi = 1\n{more}\n'
    path.write_text(f"{text}\ndef upgrade(ck):\n    pass\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """base ── up ── up2, and base ── my ── my2."""
    write(tmp_path, "0001_base.py", BASE, None)
    write(tmp_path, "0002_up.py", UP, BASE)
    write(tmp_path, "0003_up2.py", UP2, UP)
    write(tmp_path, "0002_my.py", MY, BASE)
    write(tmp_path, "0003_my2.py", MY2, MY)
    return tmp_path


def loose(folder: Path) -> History:
    return loose_history(read_scripts(folder), folder=folder)


def rebased(folder: Path, onto: str = UP2, branch: str = MY2) -> tuple[Moved, ...]:
    """Carried out, as the command does it but for the proofs."""
    history = loose(folder)
    written = {script.id: script for script in set_aside(read_scripts(folder))[0]}
    moving = local_scripts(history, written, onto, branch)
    done = moved(moving, history, onto, new_ids(len(list(folder.iterdir()))))
    for each in done:
        each.old.path.unlink()
    for each in done:
        each.new.path.write_bytes(each.data)
    return done


def new_ids(start: int) -> Callable[[], str]:
    numbers = iter(range(start * 100, start * 100 + 100))
    return lambda: f"e{next(numbers):09d}"


def refusal(folder: Path, *arguments: str) -> CkmigrateError:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CkmigrateError) as caught:
        rebased(folder, *arguments)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    return caught.value


def test_a_branch_comes_after_the_other_under_new_ids(folder: Path) -> None:
    first, second = rebased(folder)
    history = read_history(folder)
    assert history.heads == (second.new.id,)
    assert history.parents(second.new.id) == (first.new.id,)
    assert history.parents(first.new.id) == (UP2,)
    assert first.new.formerly == ((MY, BASE),)
    assert second.new.formerly == ((MY2, MY),)
    assert [each.new.path.name for each in (first, second)] == ["0004_my.py", "0005_my2.py"]


def test_numbers_that_fit_already_stay(folder: Path) -> None:
    (folder / "0002_my.py").rename(folder / "0007_my.py")
    (folder / "0003_my2.py").rename(folder / "0009_my2.py")
    assert [each.new.path.name for each in rebased(folder)] == ["0007_my.py", "0009_my2.py"]


def test_files_without_a_number_keep_their_names(folder: Path) -> None:
    (folder / "0002_my.py").rename(folder / "my.py")
    assert [each.new.path.name for each in rebased(folder)] == ["my.py", "0004_my2.py"]


def test_a_branch_that_is_behind_already_stays(folder: Path) -> None:
    rebased(folder)
    (head,) = read_history(folder).heads
    assert rebased(folder, UP2, head) == ()


def test_a_first_script_of_its_own_is_moved_too(folder: Path) -> None:
    write(folder, "0002_my.py", MY, None)
    first, _ = rebased(folder)
    assert read_history(folder).roots == (BASE,)
    assert first.new.formerly == ((MY, None),)


def test_a_script_that_comes_later_finds_what_was_moved_before(folder: Path) -> None:
    """As `git rebase` does it: one commit of the branch after another."""
    text = (folder / "0003_my2.py").read_text()
    (folder / "0003_my2.py").unlink()
    (first,) = rebased(folder, UP2, MY)
    (folder / "0003_my2.py").write_text(text)
    with pytest.raises(HistoryError, match="no script has") as caught:
        read_history(folder)
    assert "ckmigrate rebase" in (caught.value.fix or "")
    (second,) = rebased(folder, first.new.id, MY2)
    history = read_history(folder)
    assert history.parents(second.new.id) == (first.new.id,)
    assert second.new.formerly == ((MY2, MY),)


def test_a_second_rebase_remembers_both_ids(folder: Path) -> None:
    first, _ = rebased(folder)
    write(folder, "0004_up3.py", "ee" * 5, UP2)
    (head,) = set(loose(folder).heads) - {"ee" * 5}
    again, _ = rebased(folder, "ee" * 5, head)
    assert again.new.formerly == ((MY, BASE), (first.new.id, UP2))
    history = read_history(folder)
    lacks, extra = differing(history, MY, again.new)
    assert [script.id for script in lacks] == [UP, UP2, "ee" * 5]
    assert extra == ()
    assert [script.id for script in differing(history, first.new.id, again.new)[0]] == ["ee" * 5]
    assert fork_of_former(history, first.new.id) == UP2


def test_what_a_former_checkpoint_lacks_is_known_through_former_parents(folder: Path) -> None:
    _, second = rebased(folder)
    history = read_history(folder)
    lacks, extra = differing(history, MY2, second.new)
    assert [script.id for script in lacks] == [UP, UP2]
    assert extra == ()
    assert fork_of_former(history, MY2) == BASE


def test_a_former_id_is_explained_where_a_revision_is_named(folder: Path) -> None:
    first, _ = rebased(folder)
    with pytest.raises(IdentifyError) as caught:
        resolve(read_history(folder), MY)
    assert (caught.value.code, first.new.id in (caught.value.fix or "")) == ("CKM404", True)


def test_a_released_script_is_not_moved(folder: Path) -> None:
    write(folder, "0003_my2.py", MY2, MY, 'release = "1.3"')
    error = refusal(folder)
    assert error.code == "CKM333"
    assert len(error.details) == 2
    assert f"--onto {MY2}" in (error.fix or "")
    assert [each.old.id for each in rebased(folder, MY2, UP2)] == [UP, UP2]


def test_what_comes_after_a_release_does_not_make_it_movable(folder: Path) -> None:
    write(folder, "0002_my.py", MY, BASE, 'release = "1.3"')
    error = refusal(folder)
    assert error.code == "CKM333"
    assert len(error.details) == 1


def test_a_branch_with_a_merge_in_it_is_not_moved(folder: Path) -> None:
    write(folder, "0002_side.py", "ee" * 5, BASE)
    write(folder, "0003_my2.py", MY2, (MY, "ee" * 5))
    assert refusal(folder).code == "CKM334"


def test_a_branch_with_a_squash_in_it_is_not_moved(folder: Path) -> None:
    write(folder, "0003_both.py", MY2, BASE, f"replaces = {(MY, MY2)!r}")
    error = refusal(folder)
    assert (error.code, "squash" in error.what) == ("CKM334", True)
    (folder / "0002_my.py").unlink()
    (folder / "0003_my2.py").unlink()
    assert refusal(folder).code == "CKM334"


def test_a_script_beside_what_was_made_of_it_is_refused(folder: Path) -> None:
    text = (folder / "0002_my.py").read_text()
    first, _ = rebased(folder)
    (folder / "0002_my.py").write_text(text)
    with pytest.raises(HistoryError) as caught:
        read_history(folder)
    assert caught.value.code == "CKM337"
    assert caught.value.details == (str(folder / "0002_my.py"), str(first.new.path))


def test_one_branch_that_two_people_moved_is_refused(folder: Path) -> None:
    scripts = [each.new for each in rebased(folder)]
    twin = parse_twin(folder, scripts[0].path)
    with pytest.raises(HistoryError, match="twice"):
        build_history([*read_scripts(folder), twin], folder=folder)


def parse_twin(folder: Path, path: Path) -> Script:
    text = path.read_text().replace(path.read_text().split('revision = "')[1][:10], "ff" * 5)
    return parse_script(text.encode(), folder / "0009_twin.py")


# -- sides ------------------------------------------------------------------------------------


def lock(*revisions: str) -> Lock:
    return Lock(tuple(LockLine(revision, "-", "-", "x") for revision in revisions))


CONFLICT = Conflict(lock(BASE, MY, MY2), lock(BASE, UP, UP2))
MERGE, REBASE = GitState("git merge", "ours"), GitState("git rebase", "theirs")


def sides(
    folder: Path,
    conflict: Conflict | None = None,
    git: GitState | None = None,
    onto: str | None = None,
    branch: str | None = None,
) -> tuple[str, str | None]:
    found = find_sides(loose(folder), conflict, git, onto=onto, branch=branch)
    return found.onto, found.branch


def test_in_a_merge_ours_moves_and_in_a_rebase_theirs(folder: Path) -> None:
    assert sides(folder, CONFLICT, MERGE) == (UP2, MY2)
    assert sides(folder, CONFLICT, REBASE) == (MY2, UP2)


def test_a_stash_is_told_by_the_names_of_the_sides(folder: Path) -> None:
    names = ("Updated upstream", "Stashed changes")
    stash = Conflict(CONFLICT.theirs, CONFLICT.ours, None, names)
    assert sides(folder, stash) == (UP2, MY2)


def test_onto_overrides_what_git_tells(folder: Path) -> None:
    assert sides(folder, CONFLICT, MERGE, onto=MY2) == (MY2, UP2)
    assert sides(folder, onto="0003_up2") == (UP2, MY2)


def test_one_head_has_nothing_to_move(folder: Path) -> None:
    rebased(folder)
    assert sides(folder)[1] is None


def test_without_git_the_head_that_stays_must_be_named(folder: Path) -> None:
    for conflict, git in [(None, None), (None, MERGE), (CONFLICT, None)]:
        with pytest.raises(UsageError) as caught:
            sides(folder, conflict, git)
        assert caught.value.code == "CKM244"
        assert f"--onto {MY2}" in (caught.value.fix or "")
        assert f"--onto {UP2}" in (caught.value.fix or "")


def test_of_three_heads_both_must_be_named(folder: Path) -> None:
    write(folder, "0002_third.py", "ee" * 5, BASE)
    with pytest.raises(UsageError, match="3 heads"):
        sides(folder, onto=UP2)
    assert sides(folder, onto=UP2, branch=MY2) == (UP2, MY2)


@pytest.mark.parametrize(
    ("onto", "branch", "words"),
    [
        ("base", None, "onto the base"),
        (UP2, UP, "already"),
        (UP2, MY, "not the end"),
        (UP, None, "2 heads"),
    ],
)
def test_sides_that_make_no_sense(folder: Path, onto: str, branch: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        sides(folder, onto=onto, branch=branch)
    assert caught.value.fix


def test_a_lock_that_names_missing_scripts_is_refused(folder: Path) -> None:
    odd = Conflict(lock(BASE, MY, MY2), lock(BASE, UP, "99" * 5))
    with pytest.raises(HistoryError) as caught:
        sides(folder, odd, MERGE)
    assert caught.value.code == "CKM335"
    assert "99" * 5 in caught.value.details[0]


def test_an_empty_history_has_nothing_to_move(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no revisions"):
        sides(tmp_path)
