"""history.lock and the head snapshots: written from the scripts, and compared with them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ckmigrate.committed_head import committed_head
from ckmigrate.errors import CkmigrateError, HistoryError
from ckmigrate.identify import Replay
from ckmigrate.locking import (
    edited,
    lock_problems,
    make_lock,
    released,
    stale_files,
    write_lock_and_snapshots,
)
from ckmigrate.opened import replays
from ckmigrate.project import Project, find_project
from ckmigrate.revisions.graph import History, read_history
from ckmigrate.revisions.lock import Lock, LockLine, parse_conflicted, parse_lock, read_lock
from ckmigrate.snapshot import Snapshot, read_snapshot, render_snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from tests.cli_inside import InsideToy
from tests.cli_project import BASE, BODIES, IDS, Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


def parts(toy: Toy) -> tuple[Project, History, dict[str, Replay]]:
    project = find_project(toy.root)
    history = read_history(project.migrations)
    return project, history, replays(project, history, {})


def written(toy: Toy, *allowed: str) -> list[str]:
    """Brings the files up to date; the names of those that were not."""
    return [path.name for path in write_lock_and_snapshots(*parts(toy), allow_edited=allowed)]


def lock_of(toy: Toy) -> Lock:
    lock = read_lock(toy.root / "migrations" / "history.lock")
    assert lock is not None
    return lock


def fresh(toy: Toy) -> Lock:
    _, history, known = parts(toy)
    return make_lock(history, known)


def rewrite(toy: Toy, number: int, old: str, new: str) -> None:
    (path,) = toy.root.glob(f"migrations/{number:04}_*.py")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def problems(toy: Toy) -> list[tuple[str, str | None]]:
    _, history, known = parts(toy)
    found = lock_problems(history, lock_of(toy), make_lock(history, known))
    return [(problem.kind, problem.revision) for problem in found]


def second_model(toy: Toy, layers: int = 2) -> None:
    shapes = {**BASE, **{f"body.layers.{i}.qkv.weight": (12, 4) for i in range(layers)}}
    schema = Schema({n: TensorSpec(DType.F32, shape) for n, shape in shapes.items()})
    text = render_snapshot(Snapshot(schema, (), "large"))
    (toy.root / "migrations" / "schema" / "base" / "large.json").write_text(text)


def test_every_revision_gets_a_line_and_every_model_a_head_snapshot(toy: Toy) -> None:
    assert written(toy) == ["history.lock", "default.json"]
    assert lock_of(toy).revisions == IDS
    assert lock_of(toy).lines[0].slug == "call_it_encoder"
    snapshot = read_snapshot(toy.root / "migrations" / "schema" / "default.json")
    assert snapshot.schema["encoder.layers.1.q.weight"].shape == (4, 4)
    assert "old.counter" not in snapshot.schema
    assert (written(toy), problems(toy)) == ([], [])


def test_line_ends_that_git_changed_are_no_difference(toy: Toy) -> None:
    written(toy)
    path = toy.root / "migrations" / "history.lock"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert (written(toy), problems(toy)) == ([], [])


def test_what_happened_to_scripts_is_told_apart(toy: Toy) -> None:
    written(toy)
    rewrite(toy, 2, "q,k,v", "q,v,k")
    rewrite(toy, 3, "init.ones()", "init.zeros()")
    toy.script(4, "more", '    ck.drop("scale", reason="x")\n', revision="d4d4d4d4d4")
    # 0002 comes before a release, and what 0003 does may follow from it.
    assert problems(toy) == [("missing", "d4d4d4d4d4"), ("released", IDS[1]), ("digest", IDS[2])]
    (toy.root / "migrations" / "0004_more.py").unlink()
    (toy.root / "migrations" / "0003_scale_the_head.py").unlink()
    rewrite(toy, 2, "q,v,k", "q,k,v")
    assert problems(toy) == [("unknown", IDS[2])]


def test_the_order_of_the_lines_is_that_of_the_scripts(toy: Toy) -> None:
    written(toy)
    _, history, known = parts(toy)
    now = make_lock(history, known)
    found = lock_problems(history, Lock(now.lines[::-1]), now)
    assert [problem.kind for problem in found] == ["order"]


def test_another_schema_with_the_same_operations_is_noticed(toy: Toy) -> None:
    _, history, known = parts(toy)
    now = make_lock(history, known)
    line = now.lines[1]
    old = LockLine(line.revision, line.digest, "1:0000000000000000", "other_slug")
    found = lock_problems(history, Lock((now.lines[0], old, now.lines[2])), now)
    assert [(problem.kind, problem.revision) for problem in found] == [("signature", IDS[1])]


def test_a_released_script_is_not_recorded_anew(toy: Toy) -> None:
    written(toy)
    rewrite(toy, 1, '"encoder.**"', '"coder.**"')
    rewrite(toy, 2, "encoder", "coder")
    before = (toy.root / "migrations" / "history.lock").read_bytes()
    with pytest.raises(HistoryError) as caught:
        written(toy)
    assert caught.value.code == "CKM325"
    assert f"--allow-edited {IDS[0]}." in str(caught.value.fix)
    assert (toy.root / "migrations" / "history.lock").read_bytes() == before
    assert written(toy, IDS[0]) == ["history.lock", "default.json"]
    assert problems(toy) == []


def test_an_unreleased_script_may_be_edited(toy: Toy) -> None:
    toy.script(4, "more", '    ck.drop("scale", reason="x")\n', revision="d4d4d4d4d4")
    written(toy)
    rewrite(toy, 4, "ck.drop", 'ck.rename("head.{p}", "top.{p}")\n    ck.drop')
    assert problems(toy) == [("digest", "d4d4d4d4d4")]
    assert written(toy) == ["history.lock", "default.json"]


def test_released_is_what_declares_a_release_or_comes_before_one(toy: Toy) -> None:
    toy.script(4, "more", "", revision="d4d4d4d4d4")
    assert released(parts(toy)[1]) == set(IDS)


def test_a_draft_and_a_reader_of_metadata_are_unknown(toy: Toy) -> None:
    toy.script(4, "reads", '    ck.meta["x"]\n', revision="d4d4d4d4d4")
    toy.script(5, "draft", '    ck.todo("x")\n', revision="e5e5e5e5e5", revises="d4d4d4d4d4")
    written(toy)
    assert [line.digest for line in lock_of(toy).lines[3:]] == ["-", "-"]
    # The head cannot be told, so that nothing is said about it.
    assert not (toy.root / "migrations" / "schema" / "default.json").exists()
    rewrite(toy, 4, 'ck.meta["x"]', "pass")
    assert problems(toy) == [("digest", "d4d4d4d4d4")]


def test_a_script_that_fails_is_not_recorded(toy: Toy) -> None:
    written(toy)
    rewrite(toy, 3, '"old.**"', '"none.**"')
    with pytest.raises(CkmigrateError) as caught:
        written(toy)
    assert "0003_scale_the_head.py" in str(caught.value.where)


def test_models_that_differ_have_values_of_their_own(toy: Toy) -> None:
    written(toy)
    second_model(toy, layers=3)
    lines = fresh(toy).lines
    assert all(len(line.digests) == 2 for line in lines[:2])
    # The last script does the same to both, and the depth is folded away in a signature.
    assert [len(lines[2].digests), *(len(line.signatures) for line in lines)] == [1, 1, 1, 1]
    # That a model was added is no edit.
    assert edited(lock_of(toy), fresh(toy)) == ()
    assert written(toy) == ["history.lock", "large.json"]
    rewrite(toy, 2, "q,k,v", "q,v,k")
    assert edited(lock_of(toy), fresh(toy)) == (IDS[1],)


def test_a_digest_of_another_algorithm_is_not_compared(toy: Toy) -> None:
    written(toy)
    path = toy.root / "migrations" / "history.lock"
    path.write_text(path.read_text().replace("  2:", "  3:"))
    assert edited(lock_of(toy), fresh(toy)) == ()
    assert written(toy) == ["history.lock"]


def test_the_head_snapshot_counts_only_where_the_lock_knows_the_head(toy: Toy) -> None:
    project, history, _ = parts(toy)
    assert committed_head(project, history, "default") is None
    written(toy)
    found = committed_head(project, history, "default")
    assert found is not None
    assert "scale" in found.schema
    toy.script(4, "more", '    ck.drop("scale", reason="x")\n', revision="d4d4d4d4d4")
    assert committed_head(project, read_history(project.migrations), "default") is None


def test_what_is_out_of_date_is_named_and_nothing_written(toy: Toy) -> None:
    assert [path.name for path in stale_files(*parts(toy))] == ["history.lock", "default.json"]
    assert not (toy.root / "migrations" / "history.lock").exists()


# -- the command ---------------------------------------------------------------------------


def test_the_command_writes_and_tells_what_changed(toy: Toy) -> None:
    ran = toy.run("lock", "--check")
    assert (ran.code, ran.out.count("out of date")) == (1, 2)
    ran = toy.run("lock")
    assert (ran.code, ran.err.count("\n")) == (0, 1)
    assert f"new  {IDS[0]} (0001_call_it_encoder.py)" in ran.out
    ran = toy.run("lock", "--check")
    assert (ran.code, ran.out[:3]) == (0, "ok:")
    rewrite(toy, 3, "init.ones()", "init.zeros()")
    ran = toy.run("lock")
    assert (ran.code, "error[CKM325]" in ran.err) == (3, True)
    ran = toy.run("lock", "--allow-edited", "head", "--json")
    assert ran.json["changes"] == [f"changed {IDS[2]} (0003_scale_the_head.py)"]


def test_a_new_revision_has_its_line_at_once(toy: Toy) -> None:
    toy.run("revision", "-m", "without a lock")
    assert not (toy.root / "migrations" / "history.lock").exists()
    toy.run("lock")
    revision = toy.run("revision", "-m", "Ünd more", "--json").json["revision"]
    assert lock_of(toy).lines[-1] == LockLine(revision, "-", "-", "und_more")
    assert len(lock_of(toy).lines) == 5


def test_init_begins_a_lock(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", scripts=0, snapshot=False)
    (toy.root / "ckmigrate.toml").unlink()
    ran = toy.run("init", "--model", "toy_model:build")
    assert "wrote migrations/history.lock, migrations/schema/default.json: " in ran.out
    assert lock_of(toy) == Lock()
    head, base = (toy.root / "migrations" / "schema" / p for p in ("default.json", "base"))
    assert head.read_bytes() == (base / "default.json").read_bytes()


def test_a_lock_that_cannot_be_read_is_not_added_to(toy: Toy) -> None:
    path = toy.root / "migrations" / "history.lock"
    path.write_text("nonsense")
    ran = toy.run("revision", "-m", "more")
    assert (ran.code, "error[CKM321]" in ran.err) == (3, True)
    assert len(list(toy.root.glob("migrations/*.py"))) == 3


def damage(toy: Toy, kind: str) -> Path:
    path = toy.root / "migrations" / "history.lock"
    text = path.read_text()
    if kind == "character":
        path.write_text(text.replace(IDS[0], f"{IDS[0]}?"))
    elif kind == "bytes":
        path.write_bytes(text.encode().replace(b"call_it", b"call\xffit"))
    elif kind == "half a conflict":
        path.write_text(text.replace(IDS[1], f"=======\n{IDS[1]}"))
    else:
        first = text.splitlines()[-1]
        path.write_text(text.replace(first, f"<<<<<<< HEAD\n{first}\n=======\n>>>>>>> left"))
    return path


@pytest.mark.parametrize(
    ("kind", "code", "way_out"),
    [
        ("character", "CKM321", "delete it"),
        ("bytes", "CKM320", "delete it"),
        ("half a conflict", "CKM321", "git checkout --merge"),
        ("conflict", "CKM322", "ckmigrate rebase"),
    ],
)
def test_a_lock_that_is_damaged_or_in_conflict_is_not_written_anew(
    toy: Toy, kind: str, code: str, way_out: str
) -> None:
    """The record of released scripts would be gone, and an edit with it."""
    written(toy)
    path = damage(toy, kind)
    before = path.read_bytes()
    for arguments in (["lock"], ["lock", "--check"], ["lock", "--allow-edited", IDS[0]]):
        ran = toy.run(*arguments)
        assert (ran.code, f"error[{code}]" in ran.err, way_out in ran.err) == (3, True, True)
    if code != "CKM322":
        with pytest.raises(HistoryError, match="cannot be read"):
            written(toy)
    assert path.read_bytes() == before


def test_a_first_record_of_released_scripts_is_loud(toy: Toy) -> None:
    assert "3 released scripts are recorded without comparison" in toy.run("lock").err
    assert toy.run("lock").err == ""
    (toy.root / "migrations" / "history.lock").unlink()
    assert "nothing was recorded before" in toy.run("lock").err
    assert lock_of(toy).revisions == IDS


def test_a_first_record_without_a_release_is_silent(toy: Toy) -> None:
    for path in toy.root.glob("migrations/*.py"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("release")))
    assert toy.run("lock").err == ""


# -- git ----------------------------------------------------------------------------------


def git(toy: Toy, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
    env = {**os.environ, **dict.fromkeys(names, "x"), "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "core.autocrlf=false", *arguments]
    return subprocess.run(
        command, cwd=toy.root, env=env, capture_output=True, text=True, check=check
    )


@pytest.mark.parametrize("style", ["merge", "diff3", "zdiff3"])
def test_two_branches_that_add_a_revision_conflict_in_git(toy: Toy, style: str) -> None:
    toy.run("lock")
    git(toy, "init", "-q", "-b", "main")
    git(toy, "add", "migrations")
    git(toy, "commit", "-qm", "base")
    made = {}
    for branch in ("left", "right"):
        git(toy, "checkout", "-q", "-b", branch, "main")
        made[branch] = toy.run("revision", "-m", branch, "--json").json["revision"]
        git(toy, "add", "migrations")
        git(toy, "commit", "-qm", branch)
    merged = git(toy, "-c", f"merge.conflictStyle={style}", "merge", "left", check=False)
    assert merged.returncode != 0
    assert "CONFLICT (content): Merge conflict in migrations/history.lock" in merged.stdout
    text = (toy.root / "migrations" / "history.lock").read_text()
    found = parse_conflicted(text)
    assert found.ours.revisions == (*IDS, made["right"])
    assert found.theirs.revisions == (*IDS, made["left"])
    assert found.names == ("HEAD", "left")
    if style != "merge":
        assert found.base is not None
        assert found.base.revisions == IDS
    with pytest.raises(HistoryError, match="two branches"):
        parse_lock(text, "x")


def test_a_conflict_hides_no_edit_of_a_released_script(toy: Toy) -> None:
    written(toy)
    path = toy.root / "migrations" / "history.lock"
    line = path.read_text().splitlines()[-1]
    marked = f"<<<<<<< HEAD\n{line}\n=======\n>>>>>>> left"
    path.write_text(path.read_text().replace(line, marked))
    rewrite(toy, 3, "init.ones()", "init.zeros()")
    with pytest.raises(HistoryError) as caught:
        written(toy)
    assert caught.value.code == "CKM325"
    rewrite(toy, 3, "init.zeros()", "init.ones()")
    assert written(toy) == ["history.lock"]
    assert BODIES[2] in (toy.root / "migrations" / "0003_scale_the_head.py").read_text()


# -- identification ------------------------------------------------------------------------


def test_the_lock_tells_the_revision_where_nothing_can_be_replayed(toy: Toy) -> None:
    """A script that wants a parameter: its effect is recorded, and not known without one."""
    body = (
        '    ck.slice("head.weight", dim=0, stop=ck.params["n"])\n    ck.rename("scale", "gain")\n'
    )
    toy.script(4, "param", body, revision="d4d4d4d4d4")
    assert toy.run("lock", "--param", "n=2").code == 0
    old, new = toy.checkpoint(), toy.root / "new.safetensors"
    ran = toy.run("upgrade", old, "-o", new, "--no-model", "--param", "n=2")
    assert ran.code == 0, ran.err
    untagged = toy.root / "untagged.safetensors"
    save_file(load_file(new), untagged)
    ran = toy.run("current", untagged)
    assert "d4d4d4d4d4 (0004_param) — by names of its tensors, as history.lock records" in ran.out
    assert "base — by names and shapes" in toy.run("current", old).out
    (toy.root / "migrations" / "history.lock").unlink()
    assert (toy.run("current", untagged).code, toy.run("current", old).code) == (4, 0)


def without_line(toy: Toy, revision: str) -> None:
    path = toy.root / "migrations" / "history.lock"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(revision)))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_released_script_whose_line_is_gone_is_not_recorded_anew(toy: Toy, number: int) -> None:
    written(toy)
    without_line(toy, IDS[number])
    before = (toy.root / "migrations" / "history.lock").read_bytes()
    assert problems(toy) == [("unrecorded", IDS[number])]
    with pytest.raises(HistoryError) as caught:
        written(toy)
    assert caught.value.code == "CKM327"
    assert f"--allow-edited {IDS[number]}." in str(caught.value.fix)
    assert (toy.root / "migrations" / "history.lock").read_bytes() == before
    assert written(toy, IDS[number]) == ["history.lock"]
    assert problems(toy) == []


def test_an_unreleased_script_without_a_line_gets_one(toy: Toy) -> None:
    toy.script(4, "more", '    ck.drop("scale", reason="x")\n', revision="d4d4d4d4d4")
    written(toy)
    without_line(toy, "d4d4d4d4d4")
    assert written(toy) == ["history.lock"]


def test_check_and_lock_say_that_a_line_is_gone(toy: Toy) -> None:
    written(toy)
    without_line(toy, IDS[0])
    ran = toy.run("check", "--no-model")
    assert (ran.code, "was released and has no line" in ran.out) == (1, True)
    assert f"ckmigrate lock --allow-edited {IDS[0]}" in ran.out
    assert "error[CKM327]" in toy.run("lock").err
    assert toy.run("lock", "--allow-edited", IDS[0]).code == 0
    assert toy.run("check", "--no-model").code == 0
