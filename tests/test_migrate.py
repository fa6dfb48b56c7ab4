"""Whole files through the pipeline: torch and safetensors write them, and read the results."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ckmigrate.errors import MigrationError, StorageError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from tests.projects import Script, Zoo, load, revision, same, tag_of

RENAME = "ck.rename('net.**', 'body.**')"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def renamed(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    return {k.replace(f"{prefix}net.", f"{prefix}body."): v for k, v in state.items()}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(Small().state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("source", [".pt", ".safetensors"])
def test_every_pair_of_formats_keeps_every_bit(
    tmp_path: Path, state: dict[str, torch.Tensor], source: str, suffix: str
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    new = zoo.upgrade(zoo.save(state, f"old{source}"), f"new{suffix}")
    assert same(load(new), renamed(state))
    assert tag_of(new).revision == revision(1)
    assert tag_of(new).project == "zoo"
    assert [applied.revision for applied in tag_of(new).history] == [revision(1)]


def test_the_format_before_zip_files_is_read_and_a_zip_is_written(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save(state, _use_new_zipfile_serialization=False)
    new = zoo.upgrade(old)
    assert same(load(new), renamed(state))
    assert open_checkpoint(new).details["container"] == "zip"


def test_a_suffix_that_says_nothing_keeps_the_format(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    new = zoo.upgrade(zoo.save(state, "old.safetensors"), "new.weights")
    assert open_checkpoint(new).format == "safetensors"


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_what_stands_beside_nested_weights_is_kept(
    tmp_path: Path, state: dict[str, torch.Tensor], key: str
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    beside = {
        "epoch": 7,
        "config": {"width": 4, "names": ["a", "b"], "rate": 1e-3, "none": None},
        "args": argparse.Namespace(lr=0.1, layers=(1, 2)),
        "lr_schedulers": [{"last_epoch": 7, "_last_lr": [0.1]}],
        "rng": torch.arange(16, dtype=torch.uint8),
    }
    new = zoo.upgrade(zoo.save({"first": 1, key: state, **beside}))
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: dict[str, object] = torch.load(new, weights_only=True)
    assert list(content) == ["first", key, *beside, "ckmigrate"]
    found = content[key]
    assert isinstance(found, dict)
    assert same(found, renamed(state))
    assert content["config"] == beside["config"]
    assert content["args"] == beside["args"]
    assert content["lr_schedulers"] == beside["lr_schedulers"]
    assert torch.equal(content["rng"], beside["rng"])  # type: ignore[arg-type]
    assert tag_of(new).revision == revision(1)


def test_a_configured_place_deep_inside_is_migrated_and_lists_are_kept(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, RENAME, config='weights = "runs.1.net"')
    new = zoo.upgrade(zoo.save({"runs": [3, {"net": state, "loss": 0.5}]}))
    content: dict[str, object] = torch.load(new, weights_only=True)
    runs = content["runs"]
    assert isinstance(runs, list)
    assert runs[0] == 3
    assert runs[1]["loss"] == 0.5
    assert same(runs[1]["net"], renamed(state))


def test_a_checkpoint_that_is_a_list_is_tagged_beside_it(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, RENAME, config='weights = "0"')
    new = zoo.upgrade(zoo.save([state, 5]))
    content: list[object] = torch.load(new, weights_only=True)
    assert len(content) == 2
    assert content[1] == 5
    assert same(content[0], renamed(state))  # type: ignore[arg-type]
    assert tag_of(new).revision == revision(1)


def test_a_flat_file_loads_strictly_beside_its_tag(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('net.0.**', 'net.0.**')")
    model = Small()
    new = zoo.upgrade(zoo.save(model))
    Small().load_state_dict(torch.load(new, weights_only=True), strict=True)
    assert tag_of(new).revision == revision(1)


def test_versions_of_modules_move_with_their_tensors(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    state = Small().state_dict()
    new = zoo.upgrade(zoo.save(state))
    found = torch.load(new, weights_only=True)
    assert isinstance(found, OrderedDict)
    versions = found._metadata  # type: ignore[attr-defined]
    assert versions["body.1"] == {"version": 2}
    assert versions.keys() == {"", "body", "body.0", "body.1", "body.2"}


def test_weights_alone_keep_the_versions_of_modules(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save({"state_dict": Small().state_dict(), "epoch": 1})
    found = torch.load(zoo.upgrade(old, weights_only=True), weights_only=True)
    assert isinstance(found, OrderedDict)
    assert found._metadata["body.1"] == {"version": 2}  # type: ignore[attr-defined]
    assert "epoch" not in found


def test_batch_normalisation_counts_survive_a_rename(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    model = Small()
    model.train()
    model.net(torch.randn(8, 3))
    found = torch.load(zoo.upgrade(zoo.save(model)), weights_only=True)
    assert found["body.1.num_batches_tracked"].item() == 1


# --- wrappers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("source", [".pt", ".safetensors"])
def test_wrapper_prefixes_are_invisible_and_put_back(
    tmp_path: Path, state: dict[str, torch.Tensor], prefix: str, source: str
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    old = zoo.save(wrapped, f"old{source}")
    assert same(load(zoo.upgrade(old)), renamed(wrapped, prefix))
    bare = zoo.upgrade(old, f"bare{source}", unwrap=True)
    assert same(load(bare), renamed(state))


def test_an_averaged_model_keeps_its_counter_unless_it_is_unwrapped(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    averaged = AveragedModel(Small())
    averaged.update_parameters(Small())
    old = zoo.save(averaged)
    kept = load(zoo.upgrade(old))
    assert kept["n_averaged"].item() == 1
    assert "module.body.0.weight" in kept
    bare = load(zoo.upgrade(old, "bare.pt", unwrap=True))
    assert "n_averaged" not in bare
    assert "body.0.weight" in bare
    alone = load(zoo.upgrade(old, "alone.pt", weights_only=True))
    assert alone.keys() == kept.keys()


def test_a_state_dict_of_a_wrapped_model_still_loads_into_it(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.init('net.3.gain', shape=(2,), value=init.ones())")
    model = nn.DataParallel(Small())
    new = zoo.upgrade(zoo.save(model))
    versions = torch.load(new, weights_only=True)._metadata
    assert versions["module.net.1"] == {"version": 2}
    assert "module" in versions


# --- what would be lost -----------------------------------------------------------------------


def test_safetensors_refuses_what_it_would_lose_and_names_it(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save({"state_dict": state, "epoch": 3, "config": {"a": 1}})
    error = zoo.refusal(old, "new.safetensors")
    assert isinstance(error, StorageError)
    assert error.code == "CKM740"
    assert error.details == ("'epoch'", "'config'")
    assert "--weights-only" in (error.fix or "")
    assert same(load(zoo.upgrade(old, "new.safetensors", weights_only=True)), renamed(state))


def test_metadata_of_safetensors_is_kept_there_and_not_lost_in_a_torch_file(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save(state, "old.safetensors", metadata={"format": "pt", "author": "me"})
    with safe_open(zoo.upgrade(old), "pt") as file:
        metadata = file.metadata()
    assert {k: v for k, v in metadata.items() if k != "ckmigrate"} == {
        "format": "pt",
        "author": "me",
    }
    assert zoo.refusal(old, "new.pt").details == ("metadata 'author'",)
    assert same(load(zoo.upgrade(old, "alone.pt", weights_only=True)), renamed(state))


def test_extra_state_follows_its_module_and_is_not_lost_in_silence(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    state: dict[str, object] = dict(Small().state_dict())
    state["net.1._extra_state"] = {"scale": 3}
    old = zoo.save({"model": state})
    found: dict[str, dict[str, object]] = torch.load(zoo.upgrade(old), weights_only=True)
    assert found["model"]["body.1._extra_state"] == {"scale": 3}
    assert zoo.refusal(old, "x.safetensors").details == ("'net.1._extra_state' in the state dict",)
    alone: dict[str, object] = torch.load(
        zoo.upgrade(old, "alone.pt", weights_only=True), weights_only=True
    )
    assert alone["body.1._extra_state"] == {"scale": 3}


# --- training state ---------------------------------------------------------------------------


@pytest.fixture
def trained() -> dict[str, object]:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.Adam(model.parameters())
    model.net(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    ema = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {
        "state_dict": model.state_dict(),
        "ema": ema,
        "optimizer_states": [optimizer.state_dict()],
        "epoch": 1,
    }


def test_training_state_that_cannot_follow_is_refused_item_by_item(
    tmp_path: Path, trained: dict[str, object]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    odd = {"state": {0: {"rows": torch.ones(4)}}, "param_groups": [{"lr": 1, "params": ["x"]}]}
    old = zoo.save({**trained, "shadow": [torch.ones(4, 3), torch.ones(2, 4)], "odd": odd})
    error = zoo.refusal(old)
    assert isinstance(error, MigrationError)
    assert error.code == "CKM560"
    found = [line.split(":")[0] for line in error.details]
    assert "shadow" in found
    assert "odd" in found
    assert "ema" not in found
    assert "--optimizer drop" in (error.fix or "")
    assert "--ema drop" in (error.fix or "")
    assert "shadow" in zoo.refusal(old, optimizer="drop").details[0]


def test_an_average_follows_the_weights(tmp_path: Path, trained: dict[str, object]) -> None:
    zoo = Zoo(tmp_path, RENAME)
    new = zoo.upgrade(zoo.save(trained), optimizer="drop")
    found: dict[str, dict[str, torch.Tensor]] = torch.load(new, weights_only=True)
    assert same(found["ema"], renamed(trained["ema"]))  # type: ignore[arg-type]


def test_dropped_training_state_is_gone_and_the_rest_stays(
    tmp_path: Path, trained: dict[str, object]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    new = zoo.upgrade(zoo.save(trained), optimizer="drop", ema="drop")
    found: dict[str, object] = torch.load(new, weights_only=True)
    assert list(found) == ["state_dict", "optimizer_states", "epoch", "ckmigrate"]
    assert found["optimizer_states"] == []


def test_weights_alone_leave_training_state_behind(
    tmp_path: Path, trained: dict[str, object]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    found = load(zoo.upgrade(zoo.save(trained), weights_only=True))
    assert same(found, renamed(trained["state_dict"]))  # type: ignore[arg-type]


def test_an_identity_migration_keeps_training_state_whole(
    tmp_path: Path, trained: dict[str, object]
) -> None:
    zoo = Zoo(tmp_path, Script(""))
    new = zoo.upgrade(zoo.save(trained))
    found: dict[str, dict[str, torch.Tensor]] = torch.load(new, weights_only=True)
    model = Small()
    model.load_state_dict(found["state_dict"])
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.load_state_dict(found["optimizer_states"][0])  # type: ignore[arg-type, index]
    moments = trained["optimizer_states"][0]["state"][0]["exp_avg"]  # type: ignore[index]
    assert torch.equal(optimizer.state[next(model.parameters())]["exp_avg"], moments)
    assert same(found["ema"], trained["ema"])  # type: ignore[arg-type]
    assert tag_of(new).revision == revision(1)


def test_an_identity_migration_keeps_what_weights_share_with_the_rest(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""))
    state = {"net.weight": torch.randn(500, 100)}
    old = zoo.save({"model": state, "best": state})
    new = zoo.upgrade(old)
    found: dict[str, dict[str, torch.Tensor]] = torch.load(new, weights_only=True)
    assert new.stat().st_size < old.stat().st_size + 4096
    one, other = found["model"]["net.weight"], found["best"]["net.weight"]
    assert one.data_ptr() == other.data_ptr()


def test_parameters_and_their_attributes_pass_through_a_rename(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    parameter = nn.Parameter(torch.randn(3))
    frozen = nn.Parameter(torch.randn(2), requires_grad=False)
    new = zoo.upgrade(zoo.save({"net.a": parameter, "net.b": frozen}))
    found = load(new)
    assert isinstance(found["body.a"], nn.Parameter)
    assert found["body.a"].requires_grad
    assert isinstance(found["body.b"], nn.Parameter)
    assert not found["body.b"].requires_grad


# --- metadata edits ---------------------------------------------------------------------------


def test_metadata_edits_reach_the_file(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        """
        ck.meta.rename("hyper_parameters.n_head", "hyper_parameters.heads")
        ck.meta.set("hyper_parameters.kind", "fused")
        ck.meta.drop("junk")
        assert ck.meta["hyper_parameters.heads"] == 8
        """,
    )
    old = zoo.save(
        {"state_dict": {"a": torch.ones(1)}, "hyper_parameters": {"n_head": 8}, "junk": 1}
    )
    found: dict[str, object] = torch.load(zoo.upgrade(old), weights_only=True)
    assert found["hyper_parameters"] == {"heads": 8, "kind": "fused"}
    assert "junk" not in found


def test_a_metadata_edit_beside_dropped_training_state_is_fine(
    tmp_path: Path, trained: dict[str, object]
) -> None:
    zoo = Zoo(tmp_path, RENAME + "\nck.meta.rename('epoch', 'epochs')")
    new = zoo.upgrade(zoo.save(trained), optimizer="drop", ema="drop")
    assert "epochs" in torch.load(new, weights_only=True)


@pytest.mark.parametrize("value", ["5", "[1, 2]", "None"])
def test_metadata_of_safetensors_takes_text_only(
    tmp_path: Path, state: dict[str, torch.Tensor], value: str
) -> None:
    zoo = Zoo(tmp_path, f"ck.meta.set('heads', {value})")
    error = zoo.refusal(zoo.save(state, "old.safetensors"), "new.safetensors")
    assert isinstance(error, MigrationError)
    assert "heads" in error.what
    assert "text" in str(error)


def test_text_reaches_the_metadata_of_safetensors(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    zoo = Zoo(tmp_path, "ck.meta.set('heads', '8')\nck.meta.rename('author', 'by')")
    old = zoo.save(state, "old.safetensors", metadata={"author": "me"})
    with safe_open(zoo.upgrade(old), "pt") as file:
        metadata = file.metadata()
    assert (metadata["heads"], metadata["by"]) == ("8", "me")
    assert "author" not in metadata


# --- ties -------------------------------------------------------------------------------------

TIED = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

def build():
    return Tied()
"""


def test_tied_weights_stay_one_in_a_torch_file_and_are_doubled_in_safetensors(
    tmp_path: Path,
) -> None:
    zoo = Zoo(tmp_path, "ck.rename('emb.weight', 'embed.weight')", model=TIED)
    weight = torch.randn(5, 3)
    old = zoo.save({"emb.weight": weight, "head.weight": weight})
    found = load(zoo.upgrade(old))
    assert found["embed.weight"].data_ptr() == found["head.weight"].data_ptr()
    new = zoo.upgrade(old, "new.safetensors")
    assert same(load(new), {"embed.weight": weight, "head.weight": weight})


def test_what_the_model_ties_must_be_equal_in_the_file(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""), model=TIED)
    weight = torch.randn(5, 3)
    equal = zoo.save({"embed.weight": weight, "head.weight": weight.clone()}, "equal.pt")
    zoo.upgrade(equal)
    differs = zoo.save({"embed.weight": weight, "head.weight": weight + 1}, "differs.pt")
    error = zoo.refusal(differs, "out.pt")
    assert isinstance(error, MigrationError)
    assert error.code == "CKM530"
    assert "'head.weight' is tied to 'embed.weight'" in error.details[0]


def test_a_copy_of_an_entry_is_a_tensor_of_its_own(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.copy('a', 'b')\nck.tie('a', 'c')")
    found = load(zoo.upgrade(zoo.save({"a": torch.randn(4)})))
    assert found["a"].data_ptr() != found["b"].data_ptr()
    assert found["a"].data_ptr() == found["c"].data_ptr()


# --- going back -------------------------------------------------------------------------------

REVERSIBLE = (
    "ck.rename('layers.{i}.attn.**', 'layers.{i}.mixer.**')",
    "ck.split('layers.{i}.mixer.qkv', 'layers.{i}.mixer.{q,k,v}', dim=0, sizes=(4, 2, 2))",
    "ck.transpose('head', 0, 1)\nck.reshape('head', lambda t: (t.shape[0], t.shape[1], 1))",
    "ck.stack('layers.{i:int}.mixer.q', 'mixer.q')\nck.init('scale', shape=(3,))",
    "ck.meta.rename('config.n_head', 'config.heads', optional=True)",
)


def deep(layers: int) -> dict[str, torch.Tensor]:
    state = {f"layers.{i}.attn.qkv": torch.randn(8, 3) for i in range(layers)}
    return {**state, "head": torch.randn(6, 5)}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_up_and_down_is_identity_for_a_depth_that_the_snapshot_does_not_have(
    tmp_path: Path, suffix: str
) -> None:
    zoo = Zoo(tmp_path, *REVERSIBLE, base=deep(2))
    state = deep(7)
    new = zoo.upgrade(zoo.save(state, f"old{suffix}"))
    assert len(load(new)) == 1 + 2 * 7 + 2
    back = zoo.downgrade(new)
    assert same(load(back), state)
    assert tag_of(back).revision is None
    assert tag_of(back).history == ()


def test_up_and_down_undoes_metadata(tmp_path: Path) -> None:
    edits = "ck.meta.set('config.kind', 'new')\nck.meta.drop('junk')\nck.meta.set('added', [1])"
    zoo = Zoo(tmp_path, *REVERSIBLE, edits)
    old = zoo.save({"model": deep(3), "config": {"n_head": 4, "kind": "old"}, "junk": [1, "a"]})
    new = zoo.upgrade(old)
    found = torch.load(new, weights_only=True)
    assert found["config"] == {"heads": 4, "kind": "new"}
    assert found["added"] == [1]
    back = torch.load(zoo.downgrade(new), weights_only=True)
    assert back["config"] == {"n_head": 4, "kind": "old"}
    assert back["junk"] == [1, "a"]
    assert "added" not in back


def test_the_tag_after_going_half_way_back_says_what_is_still_applied(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *REVERSIBLE)
    state = deep(3)
    new = zoo.upgrade(zoo.save(state))
    half = zoo.downgrade(new, "half.pt", to="-3")
    tag = tag_of(half)
    assert tag.revision == revision(2)
    assert [applied.revision for applied in tag.history] == [revision(1), revision(2)]
    back = zoo.downgrade(half)
    assert same(load(back), state)
    again = zoo.upgrade(half, "again.pt")
    assert again.read_bytes() == new.read_bytes()


def test_going_back_from_an_untagged_file_uses_the_snapshot(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *REVERSIBLE, base=deep(2))
    state = deep(2)
    new = load(zoo.upgrade(zoo.save(state)))
    bare = zoo.save(new, "bare.pt")
    back = zoo.downgrade(bare, "back.pt", from_revision="head")
    assert same(load(back), state)


def test_a_refused_way_back_lists_every_obstacle_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.drop('a', reason='gone')",
        Script("ck.rename('b', 'c')", literals="irreversible = 'it was a mistake'"),
        "ck.compute('c', 'c', lambda t: t + 1)",
        "ck.slice('c', dim=0, stop=1)",
    )
    old = zoo.save({"a": torch.ones(2), "b": torch.ones(2)})
    new = zoo.upgrade(old)
    monkeypatch.setattr("ckmigrate.execute.source.SourceFile.__init__", _never)
    with pytest.raises(MigrationError) as caught:
        zoo.downgrade(new)
    assert caught.value.code == "CKM550"
    assert len(caught.value.details) == 4
    for word, line in zip(
        ("slice", "compute", "mistake", "drop"), caught.value.details, strict=True
    ):
        assert word in line


def _never(*_: object) -> None:
    raise AssertionError("a tensor was read")


def test_a_written_downgrade_goes_before_the_derived_one(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        Script(
            "ck.drop('a', reason='gone')",
            rest="def downgrade(ck):\n    ck.init('a', shape=(2,), value=init.full(7.0))",
        ),
    )
    new = zoo.upgrade(zoo.save({"a": torch.ones(2), "b": torch.ones(1)}))
    assert load(zoo.downgrade(new))["a"].tolist() == [7, 7]


def test_going_back_is_refused_from_a_schema_that_the_history_does_not_lead_to(
    tmp_path: Path,
) -> None:
    zoo = Zoo(tmp_path, *REVERSIBLE, base=deep(2))
    new = load(zoo.upgrade(zoo.save(deep(3))))
    with pytest.raises(MigrationError, match="no way back"):
        zoo.downgrade(zoo.save(new, "bare.pt"), "back.pt", from_revision="head")


# --- what is never written --------------------------------------------------------------------


def test_complex128_is_refused_by_safetensors_with_a_way_out(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.zeros(2, dtype=torch.complex128)})
    error = zoo.refusal(old, "new.safetensors")
    assert isinstance(error, StorageError)
    assert "complex128" in error.what
    assert ".pt" in (error.fix or "")


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "owned",)

    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save({"state_dict": {"net.a": torch.ones(1)}, "evil": Evil()})
    with pytest.raises(StorageError):
        zoo.upgrade(old, from_revision="base")
    assert not (tmp_path / "owned").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(old, weights_only=True)


def test_an_older_revision_is_no_upgrade(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')", "ck.rename('b', 'c')")
    new = zoo.upgrade(zoo.save({"a": torch.ones(1)}))
    error = zoo.refusal(new, "older.pt", to=revision(1))
    assert error.exit_code in (3, 4, 5)


def test_more_memory_than_allowed_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.compute('a', 'a', lambda t: t * 2)")
    old = zoo.save({"a": torch.ones(1000)})
    error = zoo.refusal(old, max_memory=100)
    assert error.code == "CKM561"


def test_tensors_in_attributes_of_what_passes_through_are_kept(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, RENAME)
    beside = nn.Parameter(torch.ones(2))
    beside.scales = torch.arange(3.0)  # type: ignore[attr-defined]
    weight = nn.Parameter(torch.ones(2))
    weight.scales = torch.arange(4.0)  # type: ignore[attr-defined]
    new = zoo.upgrade(zoo.save({"state_dict": {"net.a": weight}, "mean": beside}))
    found: dict[str, object] = torch.load(new, weights_only=True)
    assert found["mean"].scales.tolist() == [0, 1, 2]  # type: ignore[attr-defined]
    state = found["state_dict"]
    assert isinstance(state, dict)
    assert state["body.a"].scales.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("sizes", [(5, 3), (1000, 7)])
def test_data_of_safetensors_keeps_its_place_within_a_block(
    tmp_path: Path, sizes: tuple[int, int]
) -> None:
    zoo = Zoo(tmp_path, RENAME)
    old = zoo.save({"net.a": torch.randn(sizes)}, "old.safetensors")
    starts = [open_checkpoint(p).records for p in (old, zoo.upgrade(old))]
    assert starts[0]["net.a"].offset % 4096 == starts[1]["body.a"].offset % 4096


def test_written_tensors_have_the_strides_that_torch_would_give_them(tmp_path: Path) -> None:
    shapes = [(1, 3), (3, 1), (2, 0, 3), (), (1,), (2, 3, 1, 1)]
    state = {f"net.{i}": torch.randn(2, *shape)[1] for i, shape in enumerate(shapes)}
    zoo = Zoo(tmp_path, RENAME)
    found = load(zoo.upgrade(zoo.save(state)))
    for name, tensor in renamed(state).items():
        assert found[name].stride() == tensor.contiguous().stride()


def test_unwrapping_alone_makes_no_training_state_stale(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script(""))
    optimizer = {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"params": [0]}]}
    beside = {"ema": {"module.net.a": torch.zeros(2)}, "optimizer": optimizer}
    old = zoo.save({"model": {"module.net.a": torch.ones(2)}, **beside})
    found: dict[str, dict[str, object]] = torch.load(
        zoo.upgrade(old, unwrap=True), weights_only=True
    )
    assert list(found["model"]) == ["net.a"]
    assert list(found["ema"]) == ["module.net.a"]
    assert found["optimizer"]["param_groups"] == optimizer["param_groups"]
