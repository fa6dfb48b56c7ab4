"""What fills the slots of a file: copies, gathers, computations, and claims that come before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckmigrate.errors import MigrationError
from ckmigrate.execute import syscalls
from ckmigrate.lower import Copy, Gather
from tests.projects import Script, Zoo, load, same

COUNTING = """
CALLS = []


def fold(weight, gain):
    if not weight.is_meta:
        CALLS.append(tuple(weight.shape))
        with open({log!r}, "a") as log:
            log.write("x")
    return weight * gain, weight.sum(0), gain + 1
"""


def counting(tmp_path: Path, body: str) -> tuple[Script, Path]:
    log = tmp_path / "calls"
    log.write_text("")
    return Script(body, literals=COUNTING.format(log=str(log))), log


FOLD = "ck.compute(['{m}.w', '{m}.g'], ['{m}.w', '{m}.s', '{m}.g'], fold)"


@pytest.mark.parametrize("out", ["new.pt", "new.safetensors"])
def test_a_function_is_called_once_for_each_group(tmp_path: Path, out: str) -> None:
    script, log = counting(tmp_path, FOLD)
    zoo = Zoo(tmp_path / "zoo", script)
    state = {f"{m}.{n}": torch.randn(3) for m in "abc" for n in "wg"}
    new = load(zoo.upgrade(zoo.save(state), out))
    assert log.read_text() == "xxx"
    assert torch.equal(new["b.w"], state["b.w"] * state["b.g"])
    assert new["b.s"].shape == ()
    assert torch.equal(new["b.g"], state["b.g"] + 1)


def test_a_function_whose_outputs_are_cut_and_joined_again_is_called_once(tmp_path: Path) -> None:
    script, log = counting(
        tmp_path,
        f"{FOLD}\nck.split('a.w', ['x', 'y'], sizes=[1, 2])\nck.copy('a.s', 'z')\n"
        "ck.concat(['y', 'x'], 'w')\nck.tie('w', 'v')\nck.unsqueeze('v', 0)",
    )
    zoo = Zoo(tmp_path / "zoo", script)
    state = {"a.w": torch.randn(3), "a.g": torch.randn(3)}
    found = load(zoo.upgrade(zoo.save(state), "new.safetensors"))
    assert log.read_text() == "x"
    product = state["a.w"] * state["a.g"]
    assert torch.equal(found["w"], torch.cat([product[1:], product[:1]]))
    assert torch.equal(found["v"], found["w"][None])


def test_a_function_on_the_output_of_another_is_called_once(tmp_path: Path) -> None:
    script, log = counting(tmp_path, f"{FOLD}\nck.rename('a.s', 'sum')\n{FOLD}")
    zoo = Zoo(tmp_path / "zoo", script)
    zoo.upgrade(zoo.save({"a.w": torch.randn(3), "a.g": torch.randn(3)}))
    assert log.read_text() == "xx"


WRONG = {
    "another shape": ("lambda t: t if t.is_meta else t[:1]", "CKM542"),
    "another dtype": ("lambda t: t if t.is_meta else t.double()", "CKM542"),
    "a quantised tensor": (
        "lambda t: t if t.is_meta else torch.quantize_per_tensor(t, 1.0, 0, torch.qint8)",
        "CKM542",
    ),
    "a sparse tensor": ("lambda t: t if t.is_meta else t.to_sparse()", "CKM542"),
    "a meta tensor": ("lambda t: t if t.is_meta else t.to('meta')", "CKM542"),
    "a number": ("lambda t: t if t.is_meta else 3", "CKM542"),
    "nothing": ("lambda t: t if t.is_meta else None", "CKM542"),
    "two": ("lambda t: t if t.is_meta else (t, t)", "CKM542"),
    "an error": ("lambda t: t if t.is_meta else t.no_such_method()", "CKM541"),
    "an exit": ("lambda t: t if t.is_meta else exit(0)", "CKM541"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore")
def test_a_function_that_breaks_its_promise_writes_nothing(tmp_path: Path, case: str) -> None:
    function, code = WRONG[case]
    zoo = Zoo(tmp_path, f"ck.compute('a', 'b', {function})")
    error = zoo.refusal(zoo.save({"a": torch.ones(4)}))
    assert isinstance(error, MigrationError)
    assert error.code == code


def test_declared_specs_are_held_too(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.compute('a', 'b', lambda t: t, specs=[('float32', (5,))])")
    assert zoo.refusal(zoo.save({"a": torch.ones(4)})).code == "CKM542"


def test_a_function_that_changes_its_input_changes_nothing_else(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.copy('a', 'b')\nck.compute('a', 'c', lambda t: t.mul_(2))")
    found = load(zoo.upgrade(zoo.save({"a": torch.ones(4)})))
    assert found["b"].tolist() == [1, 1, 1, 1]
    assert found["c"].tolist() == [2, 2, 2, 2]


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    """torch adds up the parts of a sum per thread."""
    zoo = Zoo(tmp_path, "ck.compute('a', 's', lambda t: t.sum(), specs=[('float32', ())])")
    old = zoo.save({"a": torch.randn(3_000_001)})
    before, found = torch.get_num_threads(), set()
    try:
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            found.add(zoo.upgrade(old, f"{number}.pt").read_bytes())
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


@pytest.mark.parametrize(
    "answer", ["t.t()", "t.expand(3, 3)", "t[:, 0]", "t.to(torch.complex64).conj()", "t.bool()"]
)
def test_a_function_may_return_any_view(tmp_path: Path, answer: str) -> None:
    zoo = Zoo(tmp_path, f"ck.compute('a', 'b', lambda t: {answer})")
    tensor = torch.randn(3, 3)
    found = load(zoo.upgrade(zoo.save({"a": tensor})))
    assert same(found, {"b": eval(answer, {"t": tensor, "torch": torch})})


# --- claims -----------------------------------------------------------------------------------

CLAIMS = {
    "a dropped constant": ("ck.drop('a', reason='zeros', expect=0)", {"a": torch.ones(3)}),
    "one value in a million": (
        "ck.drop('a', reason='zeros', expect=0)",
        {"a": torch.zeros(1 << 20).index_fill(0, torch.tensor([1 << 19]), 1e-30)},
    ),
    "a negative zero": ("ck.drop('a', reason='zeros', expect=0)", {"a": -torch.zeros(2)}),
    "entries to be merged": (
        "ck.merge_equal(['a', 'b'], 'c')",
        {"a": torch.ones(3), "b": torch.ones(3) + 1},
    ),
    "a computed one": (
        "ck.compute('a', 'a', lambda t: t + 1)\nck.merge_equal(['a', 'b'], 'c')",
        {"a": torch.ones(3), "b": torch.ones(3)},
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
@pytest.mark.parametrize("out", ["new.pt", "new.safetensors"])
def test_a_claim_that_does_not_hold_writes_nothing(tmp_path: Path, case: str, out: str) -> None:
    script, state = CLAIMS[case]
    zoo = Zoo(tmp_path, script)
    error = zoo.refusal(zoo.save({**state, "z": torch.ones(1)}), out)
    assert isinstance(error, MigrationError)
    assert error.code == "CKM530"
    assert "'a'" in error.details[0]


def test_every_broken_claim_is_listed(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('{n}', reason='zeros', expect=0)\nck.init('x', shape=(1,))")
    state = {"a": torch.ones(3), "b": torch.zeros(3), "c": torch.ones(2)}
    assert len(zoo.refusal(zoo.save(state)).details) == 2


def test_claims_that_hold_let_the_migration_pass(tmp_path: Path) -> None:
    body = "ck.drop('a', reason='zeros', expect=0)\nck.merge_equal(['b', 'c'], 'd')"
    nan = torch.tensor([float("nan"), 1.0])
    zoo = Zoo(tmp_path, body)
    state = {"a": torch.zeros(3), "b": nan, "c": nan.clone()}
    assert same(load(zoo.upgrade(zoo.save(state))), {"d": nan})


# --- side by side ---------------------------------------------------------------------------


def test_fills_and_ranges_and_gathers_stand_side_by_side(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.resize('a', (5, 4), fill=1.5, anchor='center')\nck.transpose('b', 0, 1)\n"
        "ck.init('c', shape=(3,), value=init.full(2.0))\nck.slice('d', dim=0, start=1)",
    )
    state = {"a": torch.randn(3, 4), "b": torch.randn(30, 40), "d": torch.randn(3, 4)}
    old = zoo.save(state, "old.safetensors")
    kinds = {e.name: type(e.lowered) for e in zoo.prepare(old).plan.entries}
    assert kinds == {"a": Copy, "b": Gather, "c": Copy, "d": Copy}
    expected = {
        "a": torch.cat([torch.full((1, 4), 1.5), state["a"], torch.full((1, 4), 1.5)]),
        "b": state["b"].t(),
        "c": torch.full((3,), 2.0),
        "d": state["d"][1:],
    }
    for out in ("new.safetensors", "new.pt"):
        assert same(load(zoo.upgrade(old, out)), expected)


def test_a_gather_larger_than_a_chunk_is_done_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckmigrate.execute.evaluate.CHUNK_BYTES", 1000)
    zoo = Zoo(tmp_path, "ck.permute('a', (0, 2, 1))")
    tensor = torch.randn(40, 7, 9)
    old = zoo.save({"a": tensor}, "old.safetensors")
    written: list[int] = []
    new = tmp_path / "new.safetensors"
    zoo.run(old, new.name)
    assert torch.equal(load(new)["a"], tensor.permute(0, 2, 1))
    monkeypatch.setattr(syscalls, "before", lambda name, _: written.append(name == "pwrite"))
    zoo.run(old, "again.safetensors")
    assert sum(written) > 10


def test_progress_adds_up_to_what_is_written(tmp_path: Path) -> None:
    from ckmigrate.execute.commit import Destination
    from ckmigrate.migrate import carry_out

    zoo = Zoo(tmp_path, "ck.transpose('a', 0, 1)\nck.init('z', shape=(10,))")
    state = {"a": torch.randn(30, 20), "b": torch.randn(100)}
    for old, out in (("old.pt", "x.pt"), ("old.safetensors", "y.safetensors")):
        done: list[int] = []
        prepared = zoo.prepare(zoo.save(state, old))
        carry_out(prepared, Destination(tmp_path / out), progress=done.append)
        assert sum(done) == prepared.plan.totals.written == 4 * (600 + 100 + 10)


def test_what_needs_numbers_is_done_largest_first_and_by_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
    ck.cast("**", "float64")
    ck.compute(["a", "d"], ["a", "d"], lambda a, d: (a + 1, d + 1))
    """
    state = {"a": torch.rand(2), "b": torch.rand(50), "c": torch.rand(900), "d": torch.rand(100)}
    written: list[int] = []
    zoo = Zoo(tmp_path, body)
    path = zoo.save(state, "old.safetensors")

    def watch(name: str, arguments: tuple[object, ...]) -> None:
        if name == "pwrite" and arguments[1] in {16, 400, 7200, 800}:
            written.append(int(str(arguments[1])))

    monkeypatch.setattr(syscalls, "before", watch)
    found = load(zoo.upgrade(path, "new.safetensors"))
    assert written == [7200, 16, 800, 400]
    assert torch.equal(found["d"], state["d"].double() + 1)
