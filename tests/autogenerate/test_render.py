"""The body of a drafted script: its text, and that loading it gives the same operations."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.autogenerate.decide import (
    Choice,
    Questioner,
    accept_all,
    accept_certain,
    accept_likely,
)
from ckmigrate.autogenerate.render import WIDTH, count_todos, format_call, render_body
from ckmigrate.autogenerate.replay import replay, start_of
from ckmigrate.autogenerate.settle import Settled, settle
from ckmigrate.compile import trace
from ckmigrate.revisions.script import Script, read_script
from ckmigrate.revisions.template import render
from tests.autogenerate.drafts import DRAFT, SIDE, proposal

GOLDEN = Path(__file__).parent / "golden"
ID = "0123456789ab"


def script_text(questioner: Questioner) -> str:
    choices = questioner(DRAFT)
    assert choices is not None
    body = render_body(settle(choices, [SIDE]))
    return render("Move and split", revision=ID, revises=None, body=body)


def test_the_script_of_an_accepted_draft() -> None:
    assert script_text(accept_all) == (GOLDEN / "accepted.py.txt").read_text()


def test_the_script_of_a_draft_with_todos() -> None:
    assert script_text(accept_certain) == (GOLDEN / "certain.py.txt").read_text()


def test_loading_a_rendered_script_gives_the_same_operations() -> None:
    script = Script(path=Path("x.py"), id=ID, source=script_text(accept_all))
    end = trace((script,), start_of(SIDE.old), {}).end
    wanted = replay([p.call for p in DRAFT.proposals], SIDE.old)
    assert end.schema == wanted.schema == SIDE.new.schema
    # The random key of an init is the revision; DRAFT's only one is constant.
    assert end.entries == wanted.entries


def test_todos_are_seen_without_running_the_script(tmp_path: Path) -> None:
    path = tmp_path / "0001_x.py"
    path.write_text(script_text(accept_likely))
    (line,) = read_script(path).todo_lines
    assert "ck.todo(" in path.read_text().splitlines()[line - 1]


def test_a_comment_of_a_todo_can_be_used_as_it_stands() -> None:
    lines = script_text(accept_certain).splitlines()
    call = [line.strip().removeprefix("# ") for line in lines if "# ck.split" in line]
    body = "\n".join(
        line.replace("# ck.", "ck.").replace("#     ", "    ").replace("# )", ")")
        for line in lines
        if "ck.todo" not in line and "ck.rename(" not in line
    )
    assert call
    ast.parse(body)


_NAMES = st.text(st.characters(codec="utf-8"), max_size=120)


@given(_NAMES, _NAMES, st.integers(0, 60))
def test_no_name_breaks_out_of_a_string_or_a_comment(name: str, why: str, more: int) -> None:
    names = tuple(f"{name}.{i}" * 3 for i in range(more + 1))
    odd = proposal(
        "rename", f"ck.rename({name!r}, 'b')", "ambiguous", sources=names, targets=names, why=why
    )
    todo = proposal("todo", f"ck.todo({why!r})", "ambiguous", why=why)
    choices = (Choice(odd, None, why), Choice(todo, None), Choice(odd, odd))
    body = render_body(Settled(choices, (name, why)))
    calls = [ast.unparse(node) for node in ast.parse(body).body]
    assert [call.partition("(")[0] for call in calls] == [
        "ck.todo",
        "ck.todo",
        "ck.rename",
        "ck.todo",
    ]
    assert calls[2] == ast.unparse(ast.parse(odd.call))
    read_back = ast.literal_eval(calls[0].removeprefix("ck.todo"))
    assert isinstance(read_back, str)


@given(st.lists(st.text("abc.{}*", min_size=1, max_size=50), min_size=1, max_size=9))
def test_a_long_call_is_broken_where_a_formatter_breaks_it(arguments: list[str]) -> None:
    call = f"ck.compute({', '.join(map(repr, arguments))}, dim=0)"
    text = format_call(call)
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(call))
    longest = max(map(len, text.splitlines()))
    assert longest <= max(WIDTH, 4 + max(map(len, map(repr, arguments))) + 1)


def test_a_call_of_several_statements_keeps_them() -> None:
    assert format_call('  ck.rename("a", "b")\n  ck.drop("c", reason="x")') == (
        'ck.rename("a", "b")\nck.drop("c", reason="x")'
    )
    loop = 'for i in range(3):\n    ck.drop(f"a.{i}", reason="x")'
    assert format_call(loop) == loop


def test_nothing_to_write_is_pass() -> None:
    assert render_body(Settled(())) == "pass"


def test_open_calls_for_one_reason_share_a_todo() -> None:
    news = [proposal("init", f'ck.init("{n}", shape=(1,))', "guess", targets=(n,)) for n in "abc"]
    settled = Settled(tuple(Choice(p, None) for p in news), ("missing x",))
    body = render_body(settled)
    assert body.count("ck.todo(") == count_todos(settled) == 2
    assert body.startswith('# names kept\nck.todo("init: a, b, … 1 more")\n# ck.init("a"')
    assert count_todos(Settled((Choice(DRAFT.proposals[2], None),) * 2)) == 1


def test_one_reason_of_several_guesses_is_given_once() -> None:
    news = [proposal("init", f'ck.init("{n}", shape=(1,))', "guess", targets=(n,)) for n in "abc"]
    body = render_body(Settled(tuple(Choice(p, p) for p in news)))
    assert body.count("# a guess that was accepted: names kept") == 1
