"""The digest of a revision changes with what it does, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.compile import start, trace
from ckmigrate.digest import comparable_digest, digest
from ckmigrate.revisions.script import read_script
from tests.scripted import schema, script

SPECS = {
    **{f"layers.{i}.qkv.weight": (12, 4) for i in range(3)},
    "head.weight": (3, 4),
    "head.bias": (3,),
    "twin": (3, 4),
    "old.counter": (1,),
}
BODY = """
ck.rename("layers.{i}.**", "blocks.{i}.**")
ck.split("blocks.{i}.qkv.weight", "blocks.{i}.{q,k,v}.weight", dim=0)
ck.reshape("head.weight", lambda t: (*t.shape, 1, 1))
ck.init("gain", shape=(3,), value=init.full(1e-5))
ck.drop("old.**", reason="idle")
ck.compute("head.bias", "head.bias", lambda bias: bias * 2, specs=[("float32", (3,))])
"""
FREE = """
ck.rename(  # everything moves
    'layers.{i}.**',
    'blocks.{i}.**',
)
# three parts
ck.split("blocks.{i}.qkv.weight", "blocks.{i}.{q,k,v}.weight", dim=-2)


def square(t):
    first, second = t.shape
    return first, second, 1, 1


ck.reshape("head.weight", square)
ck.init("gain", shape=[3], value=init.full(0.00001))
ck.drop("old.**", reason="nobody reads it")
ck.compute(
    "head.bias",
    "head.bias",
    lambda bias: (  # twice
        bias
        * 2
    ),
    specs=[("float32", (3,))],
)
"""


def digest_of(folder: Path, body: str, *, after: str = "", **more: tuple[int, ...]) -> str:
    specs = schema({**SPECS, **more})
    folder.mkdir(exist_ok=True)
    done = trace([script(folder, body, after=after)], start(specs), {"n": 3})
    return digest(done.scripts[0], {"n": 3})


def test_layout_and_prose_do_not_matter(tmp_path: Path) -> None:
    assert digest_of(tmp_path / "a", BODY) == digest_of(tmp_path / "b", FREE)


def test_line_ends_do_not_matter(tmp_path: Path) -> None:
    plain = script(tmp_path, BODY)
    found = digest(trace([plain], start(schema(SPECS)), {}).scripts[0], {})
    plain.path.write_bytes(plain.path.read_bytes().replace(b"\n", b"\r\n"))
    again = read_script(plain.path)
    assert digest(trace([again], start(schema(SPECS)), {}).scripts[0], {}) == found


def test_the_digest_is_the_same_everywhere(tmp_path: Path) -> None:
    """Committed files hold it: another value needs another number in front."""
    assert digest_of(tmp_path, BODY) == "2:9497b572b02ca9ec"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blocks.{i}.**", "block.{i}.**"),
        ("{q,k,v}", "{q,v,k}"),
        ("dim=0)", "dim=0, sizes=(4, 6, 2))"),
        ("1, 1)", "1)"),
        ("1e-5", "2e-5"),
        ("shape=(3,)", "shape=(4,)"),
        ('"gain"', '"gains"'),
        ('ck.drop("old.**", reason="idle")', "pass"),
        ("bias * 2", "bias * 3"),
        ("bias * 2", "bias * 2.0"),
        ('drop("old.**", reason="idle")', 'drop("old.**", reason="idle", expect=0)'),
        ("specs=[", "moments='same', specs=["),
        ("specs=[", "moments=lambda name, bias: bias, specs=["),
        ("ck.compute", "ck.rename('nothing', 'else', optional=True)\nck.compute"),
        ("ck.compute", "ck.meta.set('version', 2)\nck.compute"),
        ("ck.compute", "'nothing' in ck\nck.compute"),
    ],
)
def test_what_it_does_matters(tmp_path: Path, old: str, new: str) -> None:
    body = BODY.replace(old, new)
    if new.startswith("block."):
        body = body.replace("blocks.", "block.")
    assert body != BODY
    assert digest_of(tmp_path / "a", body) != digest_of(tmp_path / "b", BODY)


def test_the_way_to_say_it_does_not_matter(tmp_path: Path) -> None:
    one = digest_of(tmp_path / "a", 'ck.unsqueeze("head.bias", 0)')
    assert one == digest_of(tmp_path / "b", 'ck.reshape("head.bias", (1, 3))')
    ways = [
        'ck.rename("head.{p}", "top.{p}")',
        'ck.rename("head.**", "top.**")',
        'import re\nck.rename(re.compile(r"head\\.(?P<p>.*)"), "top.{p}")',
    ]
    assert len({digest_of(tmp_path / "c", way) for way in ways}) == 1


HELPED = """
SCALE = 2


def helper(t):
    '''Doubles.'''
    return t * SCALE


def outer(t: object, n: int = 1) -> object:
    # adds n
    return helper(t) + n


class Callable:
    def __call__(self, t):
        return helper(t)
"""


@pytest.mark.parametrize(
    "function",
    ["outer", "lambda t: outer(t)", "Callable()", "__import__('functools').partial(outer)"],
)
@pytest.mark.parametrize(
    ("old", "new", "matters"),
    [
        ("SCALE = 2", "SCALE = 3", True),
        ("t * SCALE", "t / SCALE", True),
        ("'''Doubles.'''", '"""Makes it twice as large."""', False),
        ("# adds n", "# adds whatever n is", False),
        (": object", "", False),
        (" -> object", "", False),
        ("SCALE = 2", "OTHER = 5\nSCALE = 2", False),
    ],
)
def test_what_a_function_refers_to_matters(
    tmp_path: Path, function: str, old: str, new: str, matters: bool
) -> None:
    body = f'ck.compute("twin", "twin", {function}, specs=[("float32", (3, 4))])'
    plain = digest_of(tmp_path / "a", body, after=HELPED)
    assert (digest_of(tmp_path / "b", body, after=HELPED.replace(old, new)) != plain) is matters


EVERY_KIND = """
def fancy(t, *, k: int = 3):
    with open("x") as f, open("y") as g: pass
    try:
        y = [a for a in t if (b := a) > 1e-7]
    except* ValueError as e:
        raise
    match t:
        case [1, *rest]: return f"{t!r:>{k}} {'x'}" "abc"
        case _: return lambda z, /, q=1: {**z, -1: 0xFF, 1j: ...}
    return t[1:2, ::3]
"""


def test_the_text_of_a_function_is_the_same_in_every_version_of_python(tmp_path: Path) -> None:
    body = 'ck.compute("twin", "twin", fancy, specs=[("float32", (3, 4))])'
    assert digest_of(tmp_path, body, after=EVERY_KIND) == "2:10982f067379d57c"


def test_values_that_a_function_closes_over_matter(tmp_path: Path) -> None:
    call = 'ck.compute("twin", "twin", lambda t, d=DEFAULT: t * n, specs=[("float32", (3, 4))])'
    bodies = [
        f"n = {n}\n{call}".replace("DEFAULT", default)
        for n, default in (("2", "1"), ("3", "1"), ("2", "0"), ("ck.params['n']", "1"))
    ]
    found = [digest_of(tmp_path / str(i), body) for i, body in enumerate(bodies)]
    assert len(set(found)) == 3
    assert found[1] == found[3]


def test_two_functions_on_one_line_are_told_apart(tmp_path: Path) -> None:
    body = "for f in (lambda t: t + 1, lambda t: t + 2)[{}]:\n    ck.compute('twin', 'twin', f)"
    body = body.replace("'twin', f", "'twin', f, specs=[('float32', (3, 4))]")
    assert digest_of(tmp_path / "a", body.format(":1")) != digest_of(
        tmp_path / "b", body.format("1:")
    )
    assert digest_of(tmp_path / "a", body.format(":1")) == digest_of(
        tmp_path / "b", body.format(":1").replace("t + 2", "t + 3")
    )


def test_expressions_do_not_hold_what_earlier_scripts_did(tmp_path: Path) -> None:
    """An edit of one script changes its own digest and no other's."""
    specs = schema(SPECS)
    last = script(tmp_path, 'ck["both"] = concat([ck["head.weight"], ck["twin"]], dim=0)')
    found = []
    for number, body in enumerate(
        (
            "pass",
            'ck.permute("twin", (1, 0))\nck.permute("twin", (1, 0))',
            'ck.slice("twin", dim=0)\nck.copy("twin", "copied")',
        )
    ):
        first = script(tmp_path, body, name=f"000{number}_first.py")
        found.append(digest(trace([first, last], start(specs), {}).scripts[1], {}))
    flipped = script(tmp_path, 'ck.gather("twin", [2, 1, 0])', name="0009_flip.py")
    found.append(digest(trace([flipped, last], start(specs), {}).scripts[1], {}))
    assert len(set(found)) == 1


def test_a_recorded_digest_is_compared_by_its_own_algorithm(tmp_path: Path) -> None:
    traced = trace([script(tmp_path, BODY)], start(schema(SPECS)), {}).scripts[0]
    assert comparable_digest(traced, {}, traced.digest) == traced.digest
    assert comparable_digest(traced, {}, "2:0000") == digest(traced, {})
    assert comparable_digest(traced, {}, "9:0000") is None
