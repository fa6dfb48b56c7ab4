from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ckmigrate.errors import StorageError
from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import FileIdentity, FileImage, Stored
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.state_dict import is_state_dict
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.formats.tree_paths import child, entries_of
from ckmigrate.module_paths import follow_modules
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.layouts import (
    Layout,
    drop_outside,
    find_weights,
    layout_at,
    replace_weights,
)

ORDERED = Global("collections", "OrderedDict")


class Pickled:
    """Real torch objects as an inert tree, and back."""

    def __init__(self) -> None:
        self.storages: dict[int, Storage] = {}
        self.values: dict[int, torch.Tensor] = {}

    def tree(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, OrderedDict):
            entries = {key: self.tree(part) for key, part in value.items()}
            state = {key: self.tree(part) for key, part in vars(value).items()}
            return Object(ORDERED, has_state=bool(state), state=state or None, entries=entries)
        if isinstance(value, dict):
            return {key: self.tree(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.tree(part) for part in value)
        return value

    def tensor(self, value: torch.Tensor) -> Tensor:
        untyped = value.untyped_storage()
        dtype = DType.parse(value.dtype)
        key = len(self.storages)
        storage = self.storages.setdefault(
            untyped._cdata, Storage(str(key), dtype, untyped.nbytes())
        )
        spec = TensorSpec(dtype, tuple(value.shape))
        node = Tensor(storage, spec, int(value.storage_offset()), tuple(value.stride()))
        self.values[id(node)] = value
        return node

    def load(self, node: Any) -> Any:
        """The real objects of a tree that was made here."""
        if isinstance(node, Tensor):
            return self.values[id(node)]
        if isinstance(node, Object):
            found = OrderedDict((key, self.load(part)) for key, part in node.entries.items())
            vars(found).update(self.load(node.state or {}))
            return found
        if isinstance(node, dict):
            return {key: self.load(part) for key, part in node.items()}
        return node


def stored(value: Any, fmt: Literal["torch", "safetensors"] = "torch") -> Stored:
    return Stored(Path("run.ckpt"), fmt, FileIdentity(0, 0, 0, 0), Pickled().tree(value), {})


def find(value: Any, **options: Any) -> Layout:
    return find_weights(stored(value), **options)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())


def kinds(layout: Layout) -> dict[tuple[object, ...], str]:
    return {outside.path: outside.kind for outside in layout.training_state}


NAMES = list(net().state_dict())


# --- where ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_finds_weights_under_the_usual_keys(key: str) -> None:
    layout = find({"epoch": 3, key: net().state_dict()})
    assert layout.path == (key,)
    assert list(layout.entries) == NAMES


def test_finds_a_flat_state_dict_of_either_container() -> None:
    assert find(net().state_dict()).path == ()
    assert list(find(dict(net().state_dict())).entries) == NAMES


def test_a_flat_state_dict_may_have_entries_named_like_the_usual_keys() -> None:
    layout = find({"model": torch.zeros(2), "module": torch.zeros(2)})
    assert (layout.path, list(layout.entries)) == ((), ["model", "module"])


def test_safetensors_are_flat_whatever_is_configured() -> None:
    layout = find_weights(stored({"a": torch.zeros(2)}, "safetensors"), weights="state_dict")
    assert layout.path == ()


@pytest.mark.parametrize(
    ("weights", "path"),
    [("nets.gen", ("nets", "gen")), ("a.b", ("a.b",)), ("runs.1.sd", ("runs", 1, "sd"))],
)
def test_follows_a_configured_path(weights: str, path: tuple[object, ...]) -> None:
    tree: dict[str, Any] = {"state_dict": net().state_dict()}
    tree |= {"nets": {"gen": net().state_dict()}, "a.b": net().state_dict()}
    tree["runs"] = [0, {"sd": net().state_dict()}]
    assert find(tree, weights=weights).path == path


def test_several_state_dicts_are_named_with_the_way_to_choose() -> None:
    with pytest.raises(StorageError) as caught:
        find({"state_dict": net().state_dict(), "model": net().state_dict()})
    assert caught.value.code == "CKM731"
    assert caught.value.details == ("state_dict: 7 entries", "model: 7 entries")
    assert "--weights state_dict" in str(caught.value)


def test_an_unusual_key_is_proposed_and_not_used() -> None:
    with pytest.raises(StorageError) as caught:
        find({"generator": net().state_dict(), "step": 3})
    assert caught.value.code == "CKM730"
    assert 'weights = "generator"' in str(caught.value)


def test_an_optimizer_is_no_candidate() -> None:
    adam = trained(net())
    with pytest.raises(StorageError) as caught:
        find({"optimizer": adam.state_dict(), "nested": {"deep": {"w": torch.zeros(2)}}})
    assert caught.value.details == ("nested.deep: 1 entries",)


def test_a_stray_value_in_a_state_dict_is_named() -> None:
    with pytest.raises(StorageError) as caught:
        find({**net().state_dict(), "epoch": 3})
    assert "beside 7 tensors it holds 'epoch' (of type int)" in str(caught.value)


def test_a_pickled_module_is_recognised() -> None:
    whole = Object(Global("zoo", "Net"), has_state=True, state={"_parameters": {}})
    tree = Stored(Path("m.pt"), "torch", FileIdentity(0, 0, 0, 0), {"model": whole}, {})
    with pytest.raises(StorageError, match="under state_dict") as caught:
        find_weights(tree)
    assert "a whole pickled module, zoo.Net" in str(caught.value)
    assert "save model.state_dict()" in str(caught.value)


@pytest.mark.parametrize(("weights", "code"), [("nope", "CKM732"), ("hyper", "CKM733")])
def test_a_configured_path_that_leads_nowhere_is_refused(weights: str, code: str) -> None:
    with pytest.raises(StorageError) as caught:
        find({"net": net().state_dict(), "hyper": {"lr": 1}}, weights=weights)
    assert caught.value.code == code
    assert "--weights net" in str(caught.value)


# --- wrappers ---------------------------------------------------------------------------------


class Holder(nn.Module):
    """Wraps as DDP does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def compiled(module: nn.Module) -> nn.Module:
    wrapped = torch.compile(module, backend="eager")
    assert isinstance(wrapped, nn.Module)
    return wrapped


def test_strips_nested_wrappers_in_either_order() -> None:
    assert find(Holder(compiled(net())).state_dict()).prefix == "module._orig_mod."
    layout = find(compiled(Holder(net())).state_dict())
    assert (layout.prefix, list(layout.entries)) == ("_orig_mod.module.", NAMES)


def test_a_prefix_must_be_a_whole_segment_of_every_name() -> None:
    names = ["module.a", "modulelist.0.w"]
    assert find({name: torch.zeros(1) for name in names}).prefix == ""
    assert find({"modulelist.0.w": torch.zeros(1)}).prefix == ""
    assert find({"module.": torch.zeros(1)}).prefix == ""


def test_an_averaged_model_keeps_its_counter() -> None:
    averaged = AveragedModel(net())
    layout = find(averaged.state_dict())
    assert (layout.prefix, list(layout.entries)) == ("module.", NAMES)
    assert list(layout.extras) == ["n_averaged"]
    deep = find(Holder(AveragedModel(net())).state_dict())
    assert (deep.prefix, list(deep.extras)) == ("module.module.", ["module.n_averaged"])


def test_wrappers_can_be_switched_off() -> None:
    layout = find(Holder(net()).state_dict(), wrappers=())
    assert layout.prefix == ""
    assert next(iter(layout.entries)) == "module.0.weight"


def test_extra_state_is_carried_under_its_bare_name() -> None:
    layout = find({"module.a.weight": torch.zeros(1), "module.a._extra_state": {"x": 1}})
    assert (list(layout.entries), dict(layout.extras)) == (
        ["a.weight"],
        {"a._extra_state": {"x": 1}},
    )


# --- shared memory ----------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


def test_tied_names_are_one_view() -> None:
    layout = find(Tied().state_dict())
    assert layout.ties == (("embed.weight", "head.weight"),)
    assert layout.overlaps == ()


def test_parts_of_one_buffer_overlap_and_are_not_tied() -> None:
    buffer = torch.zeros(8)
    layout = find({"a": buffer[:4], "b": buffer[4:], "c": buffer.view(2, 4), "d": torch.zeros(8)})
    assert layout.ties == ()
    assert layout.overlaps == (("a", "b", "c"),)


def test_strides_of_dimensions_of_one_do_not_untie() -> None:
    storage = Storage("0", DType.F32, 12)
    spec = TensorSpec(DType.F32, (1, 3))
    tree = {"a": Tensor(storage, spec, 0, (3, 1)), "b": Tensor(storage, spec, 0, (7, 1))}
    assert layout_at(tree, ()).ties == (("a", "b"),)


# --- outside ----------------------------------------------------------------------------------


def trained(model: nn.Module) -> torch.optim.Optimizer:
    adam = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    adam.step()
    return adam


def test_classifies_training_state_of_a_lightning_checkpoint() -> None:
    model = net()
    adam = trained(model)
    layout = find(
        {
            "epoch": 3,
            "state_dict": model.state_dict(),
            "optimizer_states": [
                adam.state_dict(),
                torch.optim.SGD(model.parameters()).state_dict(),
            ],
            "lr_schedulers": [{"last_epoch": 1, "base_lrs": [0.1]}],
            "callbacks": {
                "EMA": {"decay": 0.9, "ema_state_dict": AveragedModel(model).state_dict()}
            },
            "rng": {"torch": torch.get_rng_state(), "cuda": [torch.zeros(2)], "python": (3, 1)},
            "normalizer": {"mean": torch.zeros(3), "std": torch.ones(3)},
        }
    )
    assert kinds(layout) == {
        ("optimizer_states", 0): "optimizer",
        ("optimizer_states", 1): "optimizer",
        ("callbacks", "EMA", "ema_state_dict"): "copy",
        ("rng", "torch"): "other",
        ("rng", "cuda"): "other",
        ("normalizer",): "other",
    }
    assert layout.training_state[0].description == "optimizer state of 4 parameters"


def test_an_optimizer_by_name_is_an_optimizer_and_no_copy() -> None:
    by_name = {"state": {"0.weight": {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1}]}
    layout = find({"model": net().state_dict(), "optim": by_name})
    assert kinds(layout) == {("optim",): "optimizer"}


@pytest.mark.parametrize("key", ["model_ema", "shadow", "averaged"])
def test_a_copy_is_known_by_its_names_behind_any_wrapper(key: str) -> None:
    part = {"_orig_mod.0.weight": torch.zeros(2, 3), "decay": 0.9}
    assert kinds(find({"model": net().state_dict(), key: part})) == {(key,): "copy"}


def test_what_holds_the_weights_is_no_copy_of_them() -> None:
    tree = {"nets": {"gen": net().state_dict(), "0.weight": torch.zeros(2, 3)}}
    assert kinds(find(tree, weights="nets.gen")) == {("nets", "0.weight"): "other"}


def test_a_copy_is_found_however_deep_it_lies() -> None:
    copy = {"0.weight": torch.zeros(2, 3)}
    tree = {"model": net().state_dict(), "a": {"b": {"c": copy, "d": {"e": {"f": copy}}}}}
    assert kinds(find(tree)) == {("a", "b", "c"): "copy", ("a", "b", "d", "e", "f"): "copy"}


def test_copies_without_names_are_known_by_their_shapes() -> None:
    def copies() -> list[torch.Tensor]:
        return [tensor.clone() for tensor in net().state_dict().values()]

    tree = {
        "model": net().state_dict(),
        "ema": {"decay": 0.9, "shadow_params": copies(), "collected_params": None},
        "optim": {"step": 3, "moments": {str(i): {"m": t} for i, t in enumerate(copies())}},
        "flat": {f"state.{i}.exp_avg": t for i, t in enumerate(copies())} | {"lr": 0.1},
        "normalizer": {"mean": torch.zeros(2), "std": torch.ones(2)},
        "projection": torch.zeros(2, 3),
    }
    found = kinds(find(tree))
    copied = {path[0] for path, kind in found.items() if kind == "copy"}
    assert copied == {"ema", "flat"}
    assert {path[0] for path, kind in found.items() if kind == "optimizer"} == {"optim"}
    assert found[("ema", "shadow_params")] == "copy"


def test_copies_inside_opaque_objects_are_known_by_their_shapes() -> None:
    weights = stored(net().state_dict()).tree
    average = Object(Global("zoo", "Ema"), has_state=True, state={"shadow": []})
    average.state = {"shadow": [child(weights, (name,)) for name in NAMES]}
    tree: dict[object, object] = {"model": weights, "ema": average}
    layout = find_weights(Stored(Path("m.pt"), "torch", FileIdentity(0, 0, 0, 0), tree, {}))
    assert kinds(layout) == {("ema",): "copy"}


def test_a_copy_shows_its_own_layout() -> None:
    tree = stored({"model": net().state_dict(), "ema": AveragedModel(net()).state_dict()}).tree
    layout = layout_at(tree, ("ema",))
    assert (layout.prefix, list(layout.entries)) == ("module.", NAMES)


def test_tensors_in_opaque_objects_are_reported() -> None:
    config = Object(Global("zoo", "Config"), has_state=True, state={"mean": None})
    tree: dict[object, object] = {"model": stored(net().state_dict()).tree, "cfg": config}
    config.state = {"mean": child(tree, ("model", "0.bias"))}
    layout = find_weights(Stored(Path("m.pt"), "torch", FileIdentity(0, 0, 0, 0), tree, {}))
    assert kinds(layout) == {("cfg",): "other"}
    assert "zoo.Config" in layout.training_state[0].description


def test_a_tree_inside_itself_is_refused() -> None:
    tree = stored({"model": net().state_dict(), "x": [torch.zeros(2)]})
    loop = child(tree.tree, ("x",))
    assert isinstance(loop, list)
    loop.extend([loop, 1])
    with pytest.raises(StorageError, match="nested too deeply") as caught:
        find_weights(tree)
    assert caught.value.code == "CKM734"


def test_a_deep_tree_without_tensors_is_no_problem() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    tree = stored({"model": net().state_dict()})
    assert isinstance(tree.tree, dict)
    tree.tree["deep"] = deep
    assert find_weights(tree).training_state == ()


def test_drops_what_lies_outside_and_leaves_the_input() -> None:
    source = stored({"model": net().state_dict(), "o": [1, torch.zeros(2), torch.zeros(3)], "e": 1})
    changed = drop_outside(source.tree, find_weights(source), [("o", 1), ("o", 2), ("e",)])
    assert changed == {"model": child(source.tree, ("model",)), "o": [1]}
    assert list(entries_of(source.tree) or ()) == ["model", "o", "e"]
    assert child(source.tree, ("o", 2)) is not None


# --- writing back -----------------------------------------------------------------------------


def rename(
    value: Any, new_names: Mapping[str, str], *, path: Sequence[object] = (), **options: Any
) -> Any:
    """Rename weights of real objects through a tree."""
    pickled = Pickled()
    tree = pickled.tree(value)
    layout = layout_at(tree, tuple(path))
    moves = {name: (new_names.get(name, name),) for name in layout.entries}
    new = [(moves[name][0], tensor) for name, tensor in layout.entries.items()]
    return pickled.load(replace_weights(tree, layout, new, moves=moves, **options))


def test_writing_the_same_weights_changes_nothing() -> None:
    tree = stored({"state_dict": AveragedModel(net()).state_dict(), "epoch": 3}).tree
    layout = layout_at(tree, ("state_dict",))
    changed = replace_weights(tree, layout, list(layout.entries.items()))
    before, after = (child(t, ("state_dict",)) for t in (tree, changed))
    assert isinstance(before, Object)
    assert isinstance(after, Object)
    assert list(after.entries.items()) == list(before.entries.items())
    assert (after.factory, after.has_state) == (before.factory, True)
    assert _metadata(after) == _metadata(before)


def _metadata(node: Object) -> Mapping[object, object]:
    assert isinstance(node.state, dict)
    return dict(entries_of(node.state["_metadata"]) or {})


def test_a_plain_dict_stays_a_plain_dict() -> None:
    tree = stored({"state_dict": dict(net().state_dict()), "epoch": 3}).tree
    layout = layout_at(tree, ("state_dict",))
    changed = replace_weights(tree, layout, list(layout.entries.items())[:1])
    assert changed == {"state_dict": {"0.weight": layout.entries["0.weight"]}, "epoch": 3}
    assert is_state_dict(child(tree, ("state_dict",)))
    assert len(entries_of(child(tree, ("state_dict",))) or ()) == len(NAMES)


def test_prefix_comes_back_and_metadata_follows_its_modules() -> None:
    new_names = {name: f"body.{name}" for name in NAMES}
    found = rename(Holder(net()).state_dict(), new_names)
    target = Holder(nn.Sequential(OrderedDict(body=net())))
    assert list(found) == list(target.state_dict())
    versions: dict[str, Any] = found._metadata
    assert versions["module.body.1"] == {"version": 2}
    assert set(versions) == {"", "module", "module.body.0", "module.body.1", "module.2"}
    target.load_state_dict(found, strict=True)


def test_version_of_a_renamed_batch_norm_decides_how_it_loads() -> None:
    old = nn.Sequential(OrderedDict(old=nn.BatchNorm1d(2))).state_dict()
    del old["old.num_batches_tracked"]
    found = rename(old, {name: name.replace("old", "new") for name in old})
    target = nn.Sequential(OrderedDict(new=nn.BatchNorm1d(2)))
    # Version 2 says that the counter must be there; without the version torch would invent it.
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        target.load_state_dict(found, strict=True)


def test_unwrap_writes_bare_names_and_drops_the_counter() -> None:
    found = rename(AveragedModel(net()).state_dict(), {}, unwrap=True)
    assert list(found) == NAMES
    assert found._metadata == net().state_dict()._metadata  # type: ignore[attr-defined]
    net().load_state_dict(found, strict=True)


def test_the_counter_keeps_its_place() -> None:
    found = rename(AveragedModel(net()).state_dict(), {"0.weight": "0.kernel"})
    assert list(found)[:2] == ["n_averaged", "module.0.kernel"]


def test_extra_state_moves_with_its_module() -> None:
    value = {"a.weight": torch.zeros(1), "a._extra_state": 7, "_extra_state": 8}
    assert list(rename(value, {"a.weight": "b.c.weight"})) == [
        "b.c.weight",
        "b.c._extra_state",
        "_extra_state",
    ]


def test_two_entries_of_one_name_are_refused() -> None:
    tree = stored({"a": torch.zeros(1), "b": torch.zeros(1)}).tree
    layout = layout_at(tree, ())
    with pytest.raises(StorageError, match="'c'"):
        replace_weights(tree, layout, [("c", layout.entries["a"]), ("c", layout.entries["b"])])


def test_other_parts_of_the_tree_are_shared_and_not_copied() -> None:
    tree = stored({"model": net().state_dict(), "optim": {"x": [1]}}).tree
    changed = replace_weights(tree, layout_at(tree, ("model",)), [])
    assert child(changed, ("optim",)) is child(tree, ("optim",))


def written(image: FileImage, source: Stored, path: Path) -> None:
    """Carry out an image whose storages all come from one file."""
    whole = bytearray(image.size)
    raw = source.path.read_bytes()
    crcs: dict[str, int] = {}
    for key, slot in image.slots.items():
        record = source.records[key]
        part = raw[record.offset : record.offset + record.nbytes]
        whole[slot.offset : slot.offset + slot.nbytes] = part
        crcs[key] = zlib.crc32(part)
    for offset, chunk in (*image.chunks, *(image.finish(crcs) if image.finish else ())):
        whole[offset : offset + len(chunk)] = chunk
    path.write_bytes(whole)


def test_a_real_training_file_is_found_renamed_and_loaded_strictly(tmp_path: Path) -> None:
    model = net()
    adam = trained(model)
    path = tmp_path / "old.ckpt"
    content: dict[str, Any] = {"state_dict": Holder(model).state_dict()}
    content |= {"optimizer": adam.state_dict(), "ema": AveragedModel(model).state_dict()}
    content |= {"rng": torch.get_rng_state(), "epoch": 3}
    torch.save(content, path)
    source = open_checkpoint(path)
    layout = find_weights(source)
    assert (layout.path, layout.prefix) == (("state_dict",), "module.")
    assert kinds(layout) == {("optimizer",): "optimizer", ("ema",): "copy", ("rng",): "other"}

    new = [(f"body.{name}", tensor) for name, tensor in layout.entries.items()]
    moves = {name: (f"body.{name}",) for name in layout.entries}
    tree = replace_weights(source.tree, layout, new, moves=moves)
    tree = drop_outside(tree, layout, [outside.path for outside in layout.training_state])
    written(torch_zip.image(tree, tag=None), source, tmp_path / "new.ckpt")

    loaded = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert list(loaded) == ["state_dict", "epoch"]
    assert loaded["state_dict"]._metadata["module.body.1"] == {"version": 2}
    target = Holder(nn.Sequential(OrderedDict(body=net())))
    target.load_state_dict(loaded["state_dict"], strict=True)
    again = target.get_submodule("module.body.0").state_dict()["weight"]
    assert torch.equal(again, model.state_dict()["0.weight"])


def test_tied_weights_of_a_real_file_are_found(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "tied.pt")
    layout = find_weights(open_checkpoint(tmp_path / "tied.pt"))
    assert layout.ties == (("embed.weight", "head.weight"),)


# --- modules ----------------------------------------------------------------------------------


def followed(modules: str, moves: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    names = [new for news in moves.values() for new in news]
    return follow_modules(["", *modules.split()], moves, names)


def test_modules_swap() -> None:
    assert followed("a b", {"a.w": ("b.w",), "b.w": ("a.w",)}) == {"": "", "a": "b", "b": "a"}


def test_a_split_module_has_no_single_successor() -> None:
    moves = {"x.qkv.w": ("x.q.w", "x.k.w", "x.v.w")}
    assert followed("x x.qkv", moves) == {"": "", "x": "x"}


def test_a_copied_module_stays() -> None:
    assert followed("h", {"h.w": ("h.w", "h2.w")}) == {"": "", "h": "h"}


def test_a_module_is_not_held_by_what_moved_into_its_place() -> None:
    moves = {"a.w": ("b.w", "c.w"), "x.w": ("a.w",)}
    assert followed("a x", moves) == {"": "", "x": "a"}


def test_merged_modules_leave_the_first() -> None:
    moves = {f"x.{p}.w": ("x.qkv.w",) for p in "qkv"}
    assert followed("x.q x.k x.v", moves) == {"": "", "x.q": "x.qkv"}


def test_the_module_that_was_there_wins() -> None:
    assert followed("bn conv", {"bn.w": ("conv.w",), "conv.w": ("conv.w",)}) == {
        "": "",
        "conv": "conv",
    }


def test_a_dropped_module_is_gone_and_a_container_moves_whole() -> None:
    moves: dict[str, tuple[str, ...]] = {"enc.0.w": ("body.0.w",), "aux.w": ()}
    assert followed("enc enc.0 enc.act aux", moves) == {
        "": "",
        "enc": "body",
        "enc.0": "body.0",
        "enc.act": "body.act",
    }


def test_a_container_that_becomes_the_root_lets_its_metadata_go() -> None:
    assert followed("net net.a", {"net.a.w": ("a.w",)}) == {"": "", "net.a": "a"}
