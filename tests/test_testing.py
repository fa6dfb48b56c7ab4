"""The functions behind the pytest plugin, on real projects that are right and wrong."""

from __future__ import annotations

from pathlib import Path
from unittest import SkipTest

import pytest
import torch
from torch import Tensor

from ckmigrate.errors import CkmigrateError
from ckmigrate.snapshot import Snapshot, read_snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.testing import (
    assert_chain_runs,
    assert_migrates,
    assert_model_matches_head,
    assert_scripts_are_self_contained,
    assert_single_head,
    assert_up_down_up_is_identity,
    synthetic_checkpoint,
)
from tests.projects import Script, Zoo

ROOT = Path(__file__).parents[1]
QKV = {"qkv": torch.zeros(12, 4)}


def refused(code: str, check: object, *arguments: object, **more: object) -> CkmigrateError:
    with pytest.raises(CkmigrateError) as caught:
        check(*arguments, **more)  # type: ignore[operator]
    assert caught.value.code == code, caught.value
    return caught.value


# --- synthetic checkpoints


def test_a_synthetic_checkpoint_has_the_schema_and_the_ties_of_its_snapshot() -> None:
    specs = {f"x.{d.code}": TensorSpec(d, (2, 4)) for d in DType if d.torch_name}
    schema = Schema({**specs, "tied": specs["x.F32"]})
    state = synthetic_checkpoint(Snapshot(schema, (("x.F32", "tied"),), "default"))
    assert state["tied"] is state["x.F32"]
    assert state["x.F4"].shape == (2, 2)
    for name, spec in specs.items():
        if spec.dtype is not DType.F4:
            assert (DType.parse(state[name].dtype), tuple(state[name].shape)) == (
                spec.dtype,
                (2, 4),
            )


def test_a_dtype_that_torch_lacks_is_skipped() -> None:
    schema = Schema({"a": TensorSpec(DType.F6_E2M3, (4,))})
    with pytest.raises(SkipTest, match="f6_e2m3"):
        synthetic_checkpoint(Snapshot(schema, (), "default"))


# --- the chain


def test_the_example_passes_everything() -> None:
    assert_single_head(project=ROOT)
    assert_chain_runs(project=ROOT)
    assert_up_down_up_is_identity(project=ROOT)


def test_every_value_is_followed_through_every_kind_of_operation(tmp_path: Path) -> None:
    base = {
        "qkv": torch.zeros(12, 4),
        "e.0": torch.zeros(3, dtype=torch.bool),
        "e.1": torch.zeros(3, dtype=torch.bool),
        "h": torch.zeros(4, 4, dtype=torch.bfloat16),
        "c": torch.zeros(3, dtype=torch.complex64),
        "s": torch.zeros((), dtype=torch.int64),
        "k1": torch.zeros(3),
        "k2": torch.zeros(3),
        "gone": torch.zeros(2),
    }
    body = """
    ck.split("qkv", "{q,k,v}", dim=0)
    ck.stack("e.{i:int}", "e")
    ck.transpose("h", 0, 1)
    ck.flatten("h")
    ck.cast("c", "complex128")
    ck.merge_equal(["k1", "k2"], "k3")
    ck.drop("gone", reason="idle", expect=2.5)
    ck.compute("q", "q", lambda t: t * 2, specs=lambda q: [(q.dtype, q.shape)])
    ck.meta.rename("config.heads", "config.num_heads")
    ck.meta.set("config.kind", "new")
    """
    zoo = Zoo(tmp_path / "p", body, base=base)
    assert_chain_runs(project=zoo.folder)


def test_values_that_a_script_loses_without_a_word_are_told(tmp_path: Path) -> None:
    body = "t = ck.take('qkv')\nck['q'] = t[:4]\nck['k'] = t[4:8]"
    error = refused("CKM631", assert_chain_runs, project=Zoo(tmp_path / "p", body, base=QKV).folder)
    assert error.details == ("'qkv': 16 of 48 values",)


@pytest.mark.parametrize(
    "script",
    [
        "t = ck.take('qkv')\nck['q'] = t[:8]\nck['r'] = t[8:]\nck.drop('r', reason='unused')",
        Script("ck['q'] = ck.take('qkv')[:8]", literals="irreversible = 'only q and k are used'"),
        "ck['copy'] = ck['qkv']",
    ],
)
def test_what_a_script_says_is_no_loss(tmp_path: Path, script: str | Script) -> None:
    assert_chain_runs(project=Zoo(tmp_path / "p", script, base=QKV).folder)


def test_values_that_a_script_puts_in_two_places_are_told(tmp_path: Path) -> None:
    body = "t = ck.take('qkv')\nck['q'] = t[:6]\nck['k'] = t[4:12]"
    folder = Zoo(tmp_path / "p", body, base=QKV).folder
    error = refused("CKM632", assert_chain_runs, project=folder)
    assert error.details == ("'qkv': 8 of 48 values",)
    assert_chain_runs(project=folder, accept=["0000000001"])


def test_a_script_that_fails_on_one_of_two_models_names_it(tmp_path: Path) -> None:
    base = {"small": {"a": torch.zeros(4)}, "large": {"a": torch.zeros(5)}}
    zoo = Zoo(tmp_path / "p", 'ck.split("a", "{b,c}", dim=0)', base=base)
    assert_chain_runs("small", project=zoo.folder)
    error = refused("CKM521", assert_chain_runs, "large", project=zoo.folder)
    assert "model 'large'" in str(error)
    assert "line" in str(error.where)


def test_a_large_model_is_skipped_unless_the_limit_is_raised(tmp_path: Path) -> None:
    folder = Zoo(tmp_path / "p", 'ck.rename("a", "b")', base={"a": torch.zeros(1 << 20)}).folder
    with pytest.raises(SkipTest, match="4 MiB, more than the limit of 1"):
        assert_chain_runs(project=folder, max_bytes=1 << 20)
    assert_chain_runs(project=folder, max_bytes=4 << 20)


def test_a_script_that_reads_metadata_is_skipped_with_the_reason(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", "ck.meta.get('config.heads')", base=QKV)
    with pytest.raises(SkipTest, match="reads metadata"):
        assert_chain_runs(project=zoo.folder)


def test_a_committed_head_snapshot_must_be_reached(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", "ck.rename('qkv', 'fused')", base=QKV)
    base = zoo.project.snapshot_path("default")
    zoo.project.head_snapshot_path("default").write_bytes(base.read_bytes())
    error = refused("CKM630", assert_chain_runs, project=zoo.folder)
    assert any("fused" in line for line in error.details)


def test_without_scripts_there_is_nothing_to_run(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", base=QKV)
    for check in (assert_single_head, assert_chain_runs, assert_up_down_up_is_identity):
        with pytest.raises(SkipTest):
            check(project=zoo.folder)


# --- the model


MODEL = """
def build():
    net = nn.Module()
    net.{name} = nn.Linear(4, 3)
    return net
"""
LINEAR = {"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3)}


def test_a_model_that_the_scripts_lead_to_passes(tmp_path: Path) -> None:
    model = MODEL.format(name="b")
    zoo = Zoo(tmp_path / "p", 'ck.rename("a.{p}", "b.{p}")', model=model, base=LINEAR)
    assert_model_matches_head(project=zoo.folder)


def test_a_model_that_moved_on_is_told(tmp_path: Path) -> None:
    model = MODEL.format(name="c")
    zoo = Zoo(tmp_path / "p", 'ck.rename("a.{p}", "b.{p}")', model=model, base=LINEAR)
    error = refused("CKM634", assert_model_matches_head, project=zoo.folder)
    assert any("c.weight" in line for line in error.details)


# --- up, down, up


def test_a_wrong_downgrade_is_told_with_the_values_it_mixes_up(tmp_path: Path) -> None:
    down = "def downgrade(ck):\n    ck.concat(['k', 'q'], 'a')"
    zoo = Zoo(
        tmp_path / "p",
        Script('ck.split("a", "{q,k}", dim=0)', rest=down),
        base={"a": torch.zeros(4, dtype=torch.bool)},
    )
    error = refused("CKM635", assert_up_down_up_is_identity, project=zoo.folder)
    assert error.details == (
        "'a': 4 of 4 values differ; at [0] stands value 2 of 'a' instead of value 0 of 'a'",
    )


def test_a_downgrade_to_other_shapes_is_told(tmp_path: Path) -> None:
    down = "def downgrade(ck):\n    ck.flatten('a')"
    zoo = Zoo(
        tmp_path / "p",
        Script('ck.reshape("a", (2, 2, 1))', rest=down),
        base={"a": torch.zeros(2, 2)},
    )
    error = refused("CKM635", assert_up_down_up_is_identity, project=zoo.folder)
    assert "[4]" in error.details[0]


@pytest.mark.parametrize(
    "inverse", ["def downgrade(ck):\n    ck.compute('a', 'a', lambda t: t / 3)", ""]
)
def test_computed_values_may_be_off_by_rounding(tmp_path: Path, inverse: str) -> None:
    function = "lambda t: t * 3" + ("" if inverse else ", inverse=lambda t: t / 3")
    script = Script(f"ck.compute('a', 'a', {function})", rest=inverse)
    zoo = Zoo(tmp_path / "p", script, base={"a": torch.zeros(64)})
    assert_up_down_up_is_identity(project=zoo.folder)


def test_a_wrong_inverse_of_a_function_is_told(tmp_path: Path) -> None:
    body = "ck.compute('a', 'a', lambda t: t * 3, inverse=lambda t: t / 2)"
    zoo = Zoo(tmp_path / "p", body, base={"a": torch.zeros(8)})
    refused("CKM635", assert_up_down_up_is_identity, project=zoo.folder)


@pytest.mark.parametrize(
    "body",
    [
        'ck.drop("a", reason="idle", expect=2.0)',
        'ck.merge_equal(["a", "b"], "c")',
        'ck.init("c", shape=(3,), value=init.normal())\nck.meta.set("config.x", 1)',
        'ck.tie("a", "c")',
        'ck.transpose("w", 0, 1)\nck.reshape("w", (6,))',
    ],
)
def test_derived_inverses_give_everything_back(tmp_path: Path, body: str) -> None:
    base = {"a": torch.zeros(3), "b": torch.zeros(3), "w": torch.zeros(2, 3)}
    assert_up_down_up_is_identity(project=Zoo(tmp_path / "p", body, base=base).folder)


def test_an_irreversible_script_is_skipped_with_the_reason(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", 'ck.drop("qkv", reason="idle")', base={**QKV, "x": torch.zeros(1)})
    with pytest.raises(SkipTest, match=r"irreversible: .*line \d+, drop"):
        assert_up_down_up_is_identity("1", project=zoo.folder)


# --- alone


@pytest.mark.parametrize(
    ("top", "inside"),
    [
        ("from helper import factor\n", ""),
        ("", "from helper import factor\n    "),
        ("", "ck.compute('a', 'a', function, specs=lambda a: [(a.dtype, a.shape)])\n    "),
    ],
)
def test_a_script_that_needs_the_projects_code_is_told(
    tmp_path: Path, top: str, inside: str
) -> None:
    zoo = Zoo(tmp_path / "p", "pass", "pass", base={"a": torch.zeros(3)})
    (zoo.folder / "helper.py").write_text("factor = 2\n")
    path = zoo.folder / "migrations" / "0002_step_2.py"
    text = path.read_text().replace("revision =", f"{top}revision =", 1)
    text = text.replace("    pass", f"    {inside}pass")
    text += "\n\ndef function(t):\n    from helper import factor\n    return t * factor\n"
    path.write_text(text)
    if top:
        assert_scripts_are_self_contained("1", project=zoo.folder)
    error = refused("CKM330", assert_scripts_are_self_contained, project=zoo.folder)
    assert error.what == "0002_step_2.py does not run without helper"


def test_a_script_may_do_without_what_it_asks_for(tmp_path: Path) -> None:
    body = "try:\n    import helper\nexcept ImportError:\n    pass"
    zoo = Zoo(tmp_path / "p", body, base=QKV)
    (zoo.folder / "helper.py").write_text("")
    assert_scripts_are_self_contained(project=zoo.folder)


# --- state dicts of one's own


def test_a_state_dict_becomes_the_expected_one(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", "ck.rename('a', 'b')", "ck.split('b', '{c,d}', dim=0)", base={})
    old = {"a": torch.arange(4.0)}
    new: dict[str, Tensor] = {"c": torch.tensor([0.0, 1.0]), "d": torch.tensor([2.0, 3.0])}
    assert_migrates(old, "head", new, project=zoo.folder)
    assert_migrates({"b": old["a"]}, "2", new, project=zoo.folder)
    wrong = {**new, "d": torch.tensor([2.0, 4.0])}
    error = refused("CKM636", assert_migrates, old, "head", wrong, project=zoo.folder)
    assert error.details == ("'d': 1 of 2 values differ; the first is 3.0, not 4.0",)
    assert_migrates(old, "head", wrong, project=zoo.folder, atol=1.5)
    refused("CKM636", assert_migrates, old, "1", new, project=zoo.folder)


def test_the_examples_snapshot_gives_a_checkpoint_that_can_be_upgraded(tmp_path: Path) -> None:
    base = read_snapshot(ROOT / "migrations" / "schema" / "base" / "default.json")
    assert set(synthetic_checkpoint(base)) == set(base.schema)
