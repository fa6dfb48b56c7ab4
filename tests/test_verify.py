"""What is read again before the result gets its name: tag, tensors, strict load, promises."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from ckmigrate import verify
from ckmigrate.errors import CkmigrateError, VerificationError
from ckmigrate.execute.commit import Destination
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.migrate import carry_out
from ckmigrate.spec import DType
from ckmigrate.training.layouts import find_weights
from tests.projects import Script, Zoo, load, names_in, same

LINEAR = """
def build():
    return nn.Linear(3, 2)
"""
STATE = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}


# --- the model --------------------------------------------------------------------------------


def test_a_result_loads_strictly_into_the_model_of_today(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('w', 'weight')\nck.rename('b', 'bias')", model=LINEAR)
    new = zoo.upgrade(zoo.save({"w": STATE["weight"], "b": STATE["bias"]}))
    torch.nn.Linear(3, 2).load_state_dict(torch.load(new, weights_only=True), strict=True)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("ck.rename('bias', 'offset')", "offset"),
        ("ck.drop('bias', reason='no')", "bias"),
        ("ck.unsqueeze('bias', 0)", "[1,2]"),
        ("ck.init('more', shape=())", "more"),
        ("ck.cast('bias', 'int64')", "int64"),
    ],
)
def test_every_difference_from_the_model_is_refused_before_anything_is_read(
    tmp_path: Path, script: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckmigrate.migrate.open_source", None)
    zoo = Zoo(tmp_path, script, model=LINEAR)
    error = zoo.refusal(zoo.save(STATE))
    assert isinstance(error, VerificationError)
    assert error.code == "CKM601"
    assert any(word in line for line in error.details)


def test_a_scalar_is_not_a_vector_of_one(tmp_path: Path) -> None:
    model = """
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

    def build():
        return M()
    """
    zoo = Zoo(tmp_path, Script(""), model=model)
    assert zoo.refusal(zoo.save({"scale": torch.ones(1)})).code == "CKM601"
    zoo.upgrade(zoo.save({"scale": torch.ones(())}))


def test_half_precision_loads_and_stays_half(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""), model=LINEAR)
    state = {name: tensor.bfloat16() for name, tensor in STATE.items()}
    assert same(load(zoo.upgrade(zoo.save(state))), state)


def test_a_hook_of_the_model_that_refuses_stops_the_commit(tmp_path: Path) -> None:
    model = """
    class M(nn.Linear):
        def _load_from_state_dict(self, *args):
            raise ValueError("not today")

    def build():
        return M(3, 2)
    """
    error = Zoo(tmp_path, Script(""), model=model)
    refusal = error.refusal(error.save(STATE))
    assert isinstance(refusal, VerificationError)
    assert "not today" in str(refusal)


def test_exempt_names_may_be_missing(tmp_path: Path) -> None:
    config = 'exempt = ["bias"]'
    zoo = Zoo(tmp_path, Script(""), model=LINEAR, config=config)
    zoo.upgrade(zoo.save({"weight": STATE["weight"]}))


# --- what reads back --------------------------------------------------------------------------


def test_names_that_would_be_taken_for_a_wrapper_are_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('**', 'module.**')")
    error = zoo.refusal(zoo.save(STATE))
    assert error.code == "CKM605"
    assert "wrappers" in (error.fix or "")
    free = Zoo(tmp_path / "free", "ck.rename('**', 'module.**')", config="wrappers = []")
    assert "module.bias" in load(free.upgrade(free.save(STATE)))


def test_another_tag_than_planned_stops_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, "ck.rename('bias', 'offset')")
    prepared = zoo.prepare(zoo.save(STATE))
    before = names_in(tmp_path)
    other = zoo.save({"weight": torch.ones(1)}, "other.pt")
    monkeypatch.setattr(verify, "open_checkpoint", lambda *_, **__: open_checkpoint(other))
    with pytest.raises(VerificationError) as caught:
        carry_out(prepared, Destination(tmp_path / "new.pt"))
    assert caught.value.code == "CKM602"
    assert names_in(tmp_path) == sorted([*before, "other.pt"])


def test_another_float_width_than_planned_is_no_small_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, "ck.rename('bias', 'offset')")
    prepared = zoo.prepare(zoo.save(STATE))
    half = zoo.save({name: tensor.half() for name, tensor in STATE.items()}, "half.pt")
    found = zoo.upgrade(half, "half-new.pt")
    tag = open_checkpoint(found).tag
    prepared_tag = prepared.tag.to_json()
    assert tag != prepared_tag  # the origin differs
    monkeypatch.setattr(type(prepared.tag), "to_json", lambda _: tag)
    monkeypatch.setattr(verify, "open_checkpoint", lambda *_, **__: open_checkpoint(found))
    with pytest.raises(CkmigrateError) as caught:
        carry_out(prepared, Destination(tmp_path / "new.pt"))
    assert caught.value.code == "CKM603"


@pytest.mark.parametrize("dtype", [d for d in DType if d.torch_name and d.bits >= 8], ids=str)
def test_torch_sees_the_tensors_of_a_file_as_they_are(tmp_path: Path, dtype: DType) -> None:
    zoo = Zoo(tmp_path)
    kind = getattr(torch, str(dtype.torch_name))
    raw = torch.arange(24 * kind.itemsize, dtype=torch.uint8)
    raw = (raw % 2 if dtype is DType.BOOL else raw).view(kind).reshape(4, 6)
    state = {"a": raw, "t": raw.t(), "scalar": raw[1, 1], "empty": raw[:0]}
    stored = open_checkpoint(zoo.save(state))
    entries = find_weights(stored).entries
    with verify.loaded_tensors(stored, entries) as tensors:
        for name, tensor in state.items():
            assert tensors[name].dtype == kind
            assert tensors[name].shape == tensor.shape
            assert same({name: tensors[name]}, {name: tensor})


# --- verify(old, new) of scripts --------------------------------------------------------------

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


def test_no_warning_reaches_the_user(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""), model=LINEAR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.upgrade(zoo.save(STATE), full_verify=True)
