"""Squashing: one script for several, equal in every tensor, with the old ones beside it or gone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ckmigrate.errors import CkmigrateError, HistoryError, IdentifyError, MigrationError
from ckmigrate.execute.commit import Destination
from ckmigrate.file_set import replace_files
from ckmigrate.migrate import Request, carry_out, prepare, replays
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history
from ckmigrate.revisions.script import parse_script
from ckmigrate.squash.git import commit_of, uncommitted
from ckmigrate.squash.prune import plan_prune
from ckmigrate.squash.squash import Squash, prove, squash, stretch
from tests.projects import Script, Zoo, load, revision, tag_of

ROOT = Path(__file__).parents[1]
BASE = {
    "body.0.w": torch.arange(24.0).reshape(6, 4),
    "body.1.w": torch.arange(24.0).reshape(6, 4) + 100,
    "head.b": torch.arange(3.0),
    "head.w": torch.arange(12.0).reshape(3, 4),
}


def squashed(zoo: Zoo, first: int, last: int, **options: Any) -> Squash:
    """Squash the scripts with these numbers and write the result."""
    project, history = zoo.project, zoo.history
    scripts = stretch(history, revision(first), revision(last))
    path = project.migrations / f"{last:04}_squash.py"
    found = squash(
        scripts,
        replays(project, history, {}),
        project.params,
        message=options.get("message", "Both at once."),
        path=path,
    )
    path.write_text(found.text)
    return found


def upgrade_text(found: Squash) -> str:
    return found.text.partition("def upgrade(ck):\n")[2]


def calls(found: Squash) -> list[str]:
    """The lines of upgrade() but for comments."""
    lines = textwrap.dedent(upgrade_text(found)).splitlines()
    return [line for line in lines if not line.startswith("#")]


def both_ways(zoo: Zoo, first: int, last: int) -> tuple[Squash, Mapping[str, torch.Tensor]]:
    """What the chain and the squashed script make of one file; asserts that it is the same."""
    path = zoo.save(BASE)
    chain = load(zoo.upgrade(path, "chain.pt"))
    found = squashed(zoo, first, last)
    once = load(zoo.upgrade(path, "once.pt"))
    assert [(n, t.dtype, t.shape) for n, t in once.items() if n != "ckmigrate"] == [
        (n, t.dtype, t.shape) for n, t in chain.items() if n != "ckmigrate"
    ]
    for name, tensor in chain.items():
        assert torch.equal(tensor, once[name]), name
    return found, once


# -- what is written ---------------------------------------------------------------------------


def test_renames_become_the_fewest(tmp_path: Path) -> None:
    bodies = [
        "ck.rename('body.**', 'encoder.**')",
        "ck.rename('encoder.{i}.w', 'encoder.{i}.weight')",
        "ck.rename('encoder.**', 'model.blocks.**')",
        "ck.rename('head.**', 'top.**')",
        "ck.rename('top.**', 'model.classifier.**')",
    ]
    found, _ = both_ways(Zoo(tmp_path, *bodies, base=BASE), 1, 5)
    assert sorted(calls(found)) == [
        'ck.rename("body.**", "model.blocks.**", optional=True)',
        'ck.rename("body.{i}.w", "model.blocks.{i}.weight")',
        'ck.rename("head.**", "model.classifier.**")',
    ]


def test_calls_that_undo_each_other_go(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.split('body.{i}.w', ['body.{i}.q', 'body.{i}.k'], dim=0)",
        "ck.concat(['body.{i}.q', 'body.{i}.k'], 'body.{i}.w')",
        "ck.init('extra', shape=(2,))",
        "ck.drop('extra', reason='never used')",
        "ck.transpose('head.w', 0, 1)",
        base=BASE,
    )
    found, _ = both_ways(zoo, 1, 5)
    assert calls(found) == ["ck.transpose('head.w', 0, 1)"]


def test_scripts_that_undo_each_other_leave_nothing(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('head.**', 'x.**')", "ck.rename('x.**', 'head.**')", base=BASE)
    found, _ = both_ways(zoo, 1, 2)
    assert calls(found) == ["pass  # what these scripts did, they undid"]


def test_a_swap_stays_a_swap(tmp_path: Path) -> None:
    base = {"a": torch.ones(2), "b": torch.zeros(2), "c": torch.full((2,), 2.0)}
    bodies = "ck.rename('{a,b}', '{b,a}')", "ck.rename('{b,c}', '{c,b}')"
    zoo = Zoo(tmp_path, *bodies, base=base)
    path = zoo.save(base)
    chain = load(zoo.upgrade(path, "chain.pt"))
    squashed(zoo, 1, 2)
    once = load(zoo.upgrade(path, "once.pt"))
    assert all(torch.equal(chain[name], once[name]) for name in "abc")


def test_a_cast_there_and_back_is_not_undone(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.cast('head.w', 'float16')", "ck.cast('head.w', 'float32')", base=BASE)
    found, _ = both_ways(zoo, 1, 2)
    assert len(calls(found)) == 2


def test_random_values_stay_what_they_were(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.init('n', shape=(4, 4), value=init.normal())",
        "for i in (0, 1):\n    ck.init(f'o.{i}', shape=(3,), value=init.uniform(seed=3))",
        "ck.init('p', shape=(4, 4), value=init.orthogonal(\n    2.0,\n))\nck.rename('n', 'm')",
        base=BASE,
    )
    found, _ = both_ways(zoo, 1, 3)
    assert all(f'key="{revision(number)}"' in found.text for number in (1, 2, 3))


def test_random_values_under_another_name_for_ck_are_refused(tmp_path: Path) -> None:
    hidden = "make = ck.init\nmake('n', shape=(4,), value=init.normal())"
    zoo = Zoo(tmp_path, hidden, "ck.rename('head.w', 'h')", base=BASE)
    with pytest.raises(MigrationError) as caught:
        squashed(zoo, 1, 2)
    assert caught.value.code == "CKM513"
    assert any("'n' is made in another way" in line for line in caught.value.details)


def test_functions_and_constants_come_along(tmp_path: Path) -> None:
    first = Script(
        "ck.compute('head.w', 'head.w', twice)", rest="def twice(w):\n    return w * 2\n"
    )
    second = Script(
        "ck.compute('head.b', 'head.b', thrice)",
        rest="FACTOR = 3\n\ndef thrice(b):\n    return b * FACTOR\n",
    )
    found, once = both_ways(Zoo(tmp_path, first, second, base=BASE), 1, 2)
    assert torch.equal(once["head.w"], BASE["head.w"] * 2)
    assert torch.equal(once["head.b"], BASE["head.b"] * 3)
    assert "FACTOR = 3" in found.text


def test_one_name_for_two_things_is_kept_apart(tmp_path: Path) -> None:
    scripts = [
        Script(
            f"ck.compute('head.{n}', 'head.{n}', change)",
            rest=f"FACTOR = {factor}\n\ndef change(w):\n    return w * FACTOR\n",
        )
        for n, factor in (("w", 2), ("b", 5))
    ]
    _, once = both_ways(Zoo(tmp_path, *scripts, base=BASE), 1, 2)
    assert torch.equal(once["head.w"], BASE["head.w"] * 2)
    assert torch.equal(once["head.b"], BASE["head.b"] * 5)


def test_random_functions_draw_the_same(tmp_path: Path) -> None:
    noise = Script(
        "ck.compute('head.w', 'head.w', lambda w: w + torch.rand_like(w))", rest="import torch"
    )
    both_ways(Zoo(tmp_path, "ck.rename('head.b', 'b')", noise, base=BASE), 1, 2)


def test_claims_ties_and_parameters_stay(tmp_path: Path) -> None:
    base = {**BASE, "scale": torch.full((2,), 16.0)}
    zoo = Zoo(
        tmp_path,
        "ck.drop('scale', reason='constant', expect=16.0)",
        "ck.tie('head.w', 'exit.w')\nck.resize('head.b', (ck.params['size'],))",
        base=base,
        config="params = { size = 5 }",
    )
    path = zoo.save(base)
    squashed(zoo, 1, 2)
    assert load(zoo.upgrade(path, "once.pt"))["head.b"].shape == (5,)
    wrong = zoo.save({**base, "scale": torch.full((2,), 15.0)}, "wrong.pt")
    assert zoo.refusal(wrong).code == "CKM530"


def test_conditions_still_ask(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.rename('head.**', 'top.**')",
        "if 'top.scale' in ck:\n    ck.drop('top.scale', reason='idle')",
        "ck.init('top.extra', shape=(1,), if_missing=True)\nck.rename('old', 'new', optional=True)",
        base=BASE,
    )
    squashed(zoo, 1, 3)
    one = load(zoo.upgrade(zoo.save({**BASE, "head.scale": torch.ones(1)}), "a.pt"))
    two = load(zoo.upgrade(zoo.save({**BASE, "old": torch.ones(1)}), "b.pt"))
    assert "top.scale" not in one
    assert "new" in two


def test_metadata_edits_stay_in_order_and_are_undone(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.meta.rename('config.heads', 'config.num_heads')",
        "ck.meta.set('config.rotary', True)\nck.rename('head.w', 'head.weight')",
        base=BASE,
    )
    content = {"model": BASE, "config": {"heads": 2}}
    squashed(zoo, 1, 2)
    up = zoo.upgrade(zoo.save(content), "up.pt")
    assert torch.load(up)["config"] == {"num_heads": 2, "rotary": True}
    assert torch.load(zoo.downgrade(up))["config"] == {"heads": 2}


def test_a_pattern_is_not_made_wider_than_the_chain(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('head.w', 'top.w')", "ck.rename('head.b', 'top.b')", base=BASE)
    found = squashed(zoo, 1, 2)
    assert calls(found) == ['ck.rename("head.{b,w}", "top.{b,w}")']
    more = load(zoo.upgrade(zoo.save({**BASE, "head.scale": torch.ones(1)})))
    assert "head.scale" in more


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scripts", "code", "word"),
    [
        (["pass", Script("pass", rest="def verify(old, new): ...")], "CKM319", "verify"),
        (["pass", Script("pass", rest="def downgrade(ck): ...")], "CKM319", "downgrade"),
        (["pass", "ck.todo('later')"], "CKM319", "todo"),
        (["pass", "ck.reshape('head.w', (ck.meta['n'], -1))"], "CKM573", "metadata"),
    ],
)
def test_what_one_script_cannot_hold_is_refused(
    tmp_path: Path, scripts: list[str | Script], code: str, word: str
) -> None:
    zoo = Zoo(tmp_path, *scripts, base=BASE)
    with pytest.raises(CkmigrateError) as caught:
        squashed(zoo, 1, 2)
    assert caught.value.code == code
    assert word in str(caught.value)


def unproved(zoo: Zoo, text: str) -> str:
    """Why a script that somebody wrote does not stand for the two scripts of the project."""
    project, history = zoo.project, zoo.history
    chain = stretch(history, revision(1), revision(2))
    squash_text = f"revision = '{revision(2)}'\nrevises = None\napi = 1\n{text}"
    script = parse_script(squash_text.encode(), project.migrations / "0002_squash.py")
    with pytest.raises(MigrationError) as caught:
        prove(chain, replays(project, history, {}), project.params, script)
    assert caught.value.code == "CKM513"
    return "; ".join(caught.value.details)


def two_renames(tmp_path: Path) -> Zoo:
    bodies = ("ck.rename('body.{i}.w', 'mid.{i}.w')", "ck.rename('mid.**', 'end.**')")
    return Zoo(tmp_path, *bodies, base=BASE)


UP = "def upgrade(ck):\n    ck.rename('body.{i}.w', 'end.{i}.w')\n"


def test_what_is_the_same_on_the_snapshot_alone_is_not_the_same(tmp_path: Path) -> None:
    """Of one more layer the script knows nothing."""
    each = "".join(f"    ck.rename('body.{i}.w', 'end.{i}.w')\n" for i in (0, 1))
    why = unproved(two_renames(tmp_path), f"def upgrade(ck):\n{each}")
    assert "deeper" in why


def test_a_script_without_a_way_back_stands_for_none_that_has_one(tmp_path: Path) -> None:
    why = unproved(two_renames(tmp_path), f"irreversible = 'so it is'\n\n\n{UP}")
    assert "there is no way back, and the chain has one" in why


def test_another_way_back_is_noticed(tmp_path: Path) -> None:
    down = "\n\ndef downgrade(ck):\n    ck.rename('end.{i}.w', 'body.{i}.x')\n"
    why = unproved(two_renames(tmp_path), UP + down)
    assert "on the way back, 'body.0.w' is missing" in why


def test_without_a_snapshot_nothing_is_proved(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "pass", "pass")
    with pytest.raises(MigrationError) as caught:
        squashed(zoo, 1, 2)
    assert caught.value.code == "CKM514"


def test_a_stretch_is_one_line(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "pass", "pass", "pass", base=BASE)
    (zoo.folder / "migrations" / "0009_branch.py").write_text(
        f"revision = '00000000ff'\nrevises = {revision(2)!r}\napi = 1\ndef upgrade(ck): pass\n"
    )
    for first, last in ((1, 3), (3, 1), (2, 2)):
        with pytest.raises(HistoryError) as caught:
            stretch(zoo.history, revision(first), revision(last))
        assert caught.value.code == "CKM318"
    assert "is one script: there is nothing to squash" in caught.value.what
    assert "(2:REV)" in str(caught.value.fix)
    assert len(stretch(zoo.history, revision(1), revision(2))) == 2


def test_a_stretch_is_squashed_once(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "pass", "pass", "pass", base=BASE)
    squashed(zoo, 1, 2)
    with pytest.raises(HistoryError, match="cannot be squashed"):
        stretch(zoo.history, revision(2), revision(3))


# -- beside the originals ----------------------------------------------------------------------

RENAMES = ("ck.rename('head.w', 'a')", "ck.rename('a', 'b')", "ck.rename('b', 'c')")


def test_a_file_inside_goes_through_the_old_scripts(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, "ck.rename('c', 'd')", base=BASE)
    inside = zoo.upgrade(zoo.save(BASE), "inside.pt", to=revision(2))
    squashed(zoo, 1, 3)
    first, second = zoo.upgrade(inside, "first.pt"), zoo.upgrade(zoo.save(BASE), "second.pt")
    assert [a.name for a in tag_of(first).history] == ["step_1", "step_2", "step_3", "step_4"]
    assert [a.name for a in tag_of(second).history] == ["squash", "step_4"]
    assert tag_of(first).revision == tag_of(second).revision == revision(4)
    assert torch.equal(load(first)["d"], load(second)["d"])


def test_a_file_goes_back_to_before_and_into_the_stretch(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, "ck.rename('c', 'd')", base=BASE)
    squashed(zoo, 1, 3)
    up = zoo.upgrade(zoo.save(BASE), "up.pt")
    assert "head.w" in load(zoo.downgrade(up, "all.pt"))
    inside = zoo.downgrade(up, "inside.pt", to=revision(2))
    assert "b" in load(inside)
    assert tag_of(inside).revision == revision(2)
    assert "head.w" in load(zoo.downgrade(inside, "base.pt"))


def test_the_graph_says_what_is_half_there(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, base=BASE)
    squashed(zoo, 1, 3)
    assert zoo.history.heads == (revision(3),)
    (zoo.folder / "migrations" / "0003_step_3.py").unlink()
    with pytest.raises(HistoryError) as caught:
        _ = zoo.history
    assert caught.value.code == "CKM317"


def test_replaces_ends_in_the_own_revision(tmp_path: Path) -> None:
    text = f"revision = {revision(9)!r}\nrevises = None\napi = 1\ndef upgrade(ck): pass\n"
    zoo = Zoo(tmp_path)
    for value in (f"({revision(1)!r}, {revision(2)!r})", "('x',)", "3"):
        (zoo.folder / "migrations" / "0001_x.py").write_text(f"replaces = {value}\n{text}")
        with pytest.raises(HistoryError) as caught:
            _ = zoo.history
        assert caught.value.code == "CKM305"


# -- pruned ------------------------------------------------------------------------------------


def pruned(zoo: Zoo) -> None:
    project, history = zoo.project, zoo.history
    for found in history.squashed.values():
        plan = plan_prune(project, history, found, replays(project, history, {}), {}, force=True)
        replace_files(plan.files, folder=history.folder)


def test_a_file_inside_a_pruned_stretch_is_told_where_to_go(tmp_path: Path) -> None:
    scripts = [Script(RENAMES[0], release="1.0"), Script(RENAMES[1], release="1.1")]
    zoo = Zoo(tmp_path, *scripts, RENAMES[2], base=BASE, config='release-key = "version"')
    (zoo.folder / "pyproject.toml").write_text('[project]\nname = "zoo"\nversion = "7.1"\n')
    inside = zoo.upgrade(zoo.save(BASE), "inside.pt", to=revision(2))
    squashed(zoo, 1, 3)
    pruned(zoo)
    error = zoo.refusal(inside)
    assert (type(error), error.code) == (IdentifyError, "CKM415")
    for word in ("version 7.1", "release 1.1", revision(2), revision(3)):
        assert word in str(error)
    # An untagged file of a release inside: not the base, for all that no script says so any more.
    state = {"model": {k: v for k, v in load(inside).items() if k != "ckmigrate"}, "version": "1.1"}
    with pytest.raises(IdentifyError) as caught:
        zoo.prepare(zoo.save(state, "untagged.pt"), Request(use_model=False))
    assert caught.value.code == "CKM415"
    assert "c" in load(zoo.upgrade(zoo.save(BASE), "whole.pt"))
    with pytest.raises(IdentifyError) as other:
        zoo.prepare(zoo.save(BASE), Request(to=revision(1), from_revision="base", use_model=False))
    assert other.value.code == "CKM415"


def test_a_file_at_the_end_goes_on_and_back(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, "ck.rename('c', 'd')", base=BASE)
    at_end = zoo.upgrade(zoo.save(BASE), "end.pt", to=revision(3))
    squashed(zoo, 1, 3)
    pruned(zoo)
    assert [s.path.name for s in zoo.history.order] == ["0003_squash.py", "0004_step_4.py"]
    up = zoo.upgrade(at_end, "up.pt")
    assert "d" in load(up)
    assert "head.w" in load(zoo.downgrade(up))


def test_what_was_squashed_is_squashed_again(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, "ck.rename('c', 'd')", base=BASE)
    squashed(zoo, 1, 2)
    pruned(zoo)
    found = squashed(zoo, 2, 4)
    assert found.script.replaces == tuple(map(revision, (1, 2, 3, 4)))
    assert calls(found) == ['ck.rename("head.w", "d")']
    inside = zoo.upgrade(zoo.save(BASE), "inside.pt", to=revision(3))
    pruned(zoo)
    assert zoo.refusal(inside).code == "CKM415"
    assert "d" in load(zoo.upgrade(zoo.save(BASE)))


def test_an_edited_original_is_not_pruned(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, base=BASE)
    squashed(zoo, 1, 3)
    zoo.add(3, "ck.rename('b', 'other')")
    with pytest.raises(MigrationError) as caught:
        pruned(zoo)
    assert caught.value.code == "CKM513"


def test_git_must_have_what_goes(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *RENAMES, base=BASE)
    squashed(zoo, 1, 3)
    project, history = zoo.project, zoo.history
    (found,) = history.squashed.values()
    known = replays(project, history, {})

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    with pytest.raises(HistoryError, match="kept nowhere else"):
        plan_prune(project, history, found, known, {})
    git("init", "-q")
    git("add", "migrations")
    git("commit", "-q", "-m", "all")
    assert uncommitted(project.migrations, [s.path for s in history.order]) == ()
    plan = plan_prune(project, history, found, known, {})
    assert plan.record["commit"] == commit_of(tmp_path)
    zoo.add(2, RENAMES[1] + "  # again")
    assert uncommitted(project.migrations, [s.path for s in history.order]) == ("0002_step_2.py",)


# -- the example -------------------------------------------------------------------------------


def is_formatted(path: Path) -> bool:
    command = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    return done.returncode == 0 or "No module named" in done.stderr


@pytest.mark.parametrize(("first", "last"), [(0, 15), (0, 5), (3, 9), (7, 12), (12, 15)])
def test_the_examples_chain_squashed_is_equal_on_release_1_0(
    tmp_path: Path, first: int, last: int
) -> None:
    project = find_project(ROOT)
    history = read_history(project.migrations)
    scripts = stretch(history, history.order[first].id, history.order[last].id)
    folder = tmp_path / "migrations"
    folder.mkdir()
    for script in history.order:
        (folder / script.path.name).write_text(script.source)
    path = folder / "0099_squash.py"
    found = squash(scripts, replays(project, history, {}), {}, message="A stretch.", path=path)
    path.write_text(found.text)
    assert found.calls[0] <= found.calls[1]
    assert is_formatted(path)
    old = ROOT / "examples" / "digits" / "checkpoints" / "digits-1.0.pt"
    request, made = Request(weights_only=True, use_model=False), []
    for name, scripts_read in (("chain", history), ("once", read_history(folder))):
        out = tmp_path / f"{name}.safetensors"
        outcome = carry_out(prepare(project, scripts_read, old, request), Destination(out))
        made.append((load_file(out), len(outcome.prepared.plan.trace.scripts)))
    (chain, many), (once, few) = made
    assert (many, few) == (16, 16 - (last - first))
    assert chain.keys() == once.keys()
    assert all(torch.equal(chain[name], once[name]) for name in chain)
