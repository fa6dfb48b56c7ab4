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


def test_no_warning_reaches_the_user(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""), model=LINEAR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.upgrade(zoo.save(STATE), full_verify=True)
