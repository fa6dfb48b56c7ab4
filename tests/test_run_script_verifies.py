"""What a script promises of values holds, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.projects import Script, Zoo, load, same

STATE = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
CHAIN = (
    Script(
        "ck.rename('weight', 'w')\nck.transpose('w', 0, 1)",
        rest="def verify(old, new):\n    assert torch.equal(old['weight'].t(), new['w'])",
    ),
    Script(
        "ck.compute('w', 'v', lambda t: t * 2)",
        rest="""
        def verify(old, new):
            assert set(old) == {'w', 'bias'}
            assert len(new) == 2
            return torch.equal(old['w'] * 2, new['v'])
        """,
    ),
    Script(
        "ck.split('v', ['x', 'y', 'z'], dim=0)",
        rest="def verify(old, new):\n    return torch.equal(old['v'][1:2], new['y'])",
    ),
)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_script_verifies_its_own_step_of_a_chain(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    new = zoo.upgrade(zoo.save(STATE, f"old{suffix}"), full_verify=True)
    assert torch.equal(load(new)["z"], STATE["weight"].t()[2:] * 2)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_promise_that_does_not_hold_writes_nothing(tmp_path: Path, step: int) -> None:
    scripts = list(CHAIN)
    scripts[step] = Script(
        CHAIN[step].body, rest="def verify(old, new):\n    return bool(old['bias'].sum() > 1e9)"
    )
    zoo = Zoo(tmp_path, *scripts)
    error = zoo.refusal(zoo.save(STATE), full_verify=True)
    assert error.code == "CKM604"
    assert f"{step + 1:04}_step" in error.what


@pytest.mark.parametrize(
    "body", ["assert False, 'no'", "raise SystemExit(0)", "new['nothing']", "1 / 0", "return False"]
)
def test_a_check_that_fails_in_any_way_is_a_check_that_fails(tmp_path: Path, body: str) -> None:
    zoo = Zoo(tmp_path, Script("ck.rename('bias', 'b')", rest=f"def verify(old, new):\n    {body}"))
    old = zoo.save(STATE)
    assert zoo.refusal(old, full_verify=True).code == "CKM604"
    zoo.upgrade(old)


def test_going_back_the_newer_side_is_still_new(tmp_path: Path) -> None:
    body = "def verify(old, new):\n    return torch.equal(old['weight'].t(), new['w'])"
    zoo = Zoo(tmp_path, Script(CHAIN[0].body, rest=body))
    new = zoo.upgrade(zoo.save(STATE), full_verify=True)
    assert same(load(zoo.downgrade(new, full_verify=True)), STATE)
