"""`ckmigrate.load`: real files of every format into real models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

import ckmigrate
from ckmigrate import CkmigrateError, MigratedOnLoad
from tests import dcp_folders, shards
from tests.projects import Script, Zoo, names_in, same

SCRIPT = 'ck.split("qkv.{p}", "{q,k,v}.{p}", dim=0)\nck.rename("fc.{p}", "head.{p}")'


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.fc = nn.Linear(4, 2)


class New(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in "qkv")
        self.head = nn.Linear(4, 2)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo", SCRIPT, base=Old().state_dict())


@pytest.fixture
def old() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return Old().state_dict()


def migrated(old: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the script should make, by hand."""
    found = {f"head.{part}": old[f"fc.{part}"] for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        pieces = torch.split(old[f"qkv.{part}"], 4)
        found |= {f"{name}.{part}": piece for name, piece in zip("qkv", pieces, strict=True)}
    return found


@contextmanager
def behind() -> Iterator[None]:
    """A checkpoint is loaded that is not at the head, which is said once."""
    with pytest.warns(MigratedOnLoad) as said:
        yield
    assert len(said) == 1


def test_an_old_checkpoint_is_loaded_into_the_model_of_today(
    zoo: Zoo, old: dict[str, Tensor]
) -> None:
    path = zoo.save({"state_dict": old, "epoch": 3})
    before, files = path.read_bytes(), names_in(zoo.folder)
    model = New()
    with behind():
        assert ckmigrate.load(path, model, project=zoo.folder) is model
    assert same(model.state_dict(), migrated(old))
    assert (path.read_bytes(), names_in(zoo.folder)) == (before, files)


def test_the_warning_says_where_it_was_and_how_to_make_it_permanent(
    zoo: Zoo, old: dict[str, Tensor]
) -> None:
    path = zoo.save(old, "my model.pt")
    with pytest.warns(MigratedOnLoad) as said:
        ckmigrate.load(path, New(), project=zoo.folder)
    text = str(said[0].message)
    assert text.startswith(f"{path} is at base and was migrated")
    assert text.endswith(f"ckmigrate upgrade '{path}' --in-place")
    assert said[0].filename == __file__


def sharded(zoo: Zoo, old: dict[str, Tensor]) -> Path:
    names = list(old)
    parts = ({name: old[name] for name in part} for part in (names[:2], names[2:]))
    return shards.folder(zoo.folder / "shards", list(parts))


def distributed(zoo: Zoo, old: dict[str, Tensor]) -> Path:
    return dcp_folders.save(zoo.folder / "step-1", {"model": old})


FORMATS: dict[str, Callable[[Zoo, dict[str, Tensor]], Path]] = {
    "torch": lambda zoo, old: zoo.save(old),
    "torch, nested": lambda zoo, old: zoo.save({"model": old, "step": 1}, "old.ckpt"),
    "torch, legacy": lambda zoo, old: zoo.save(old, _use_new_zipfile_serialization=False),
    "torch of DDP": lambda zoo, old: zoo.save({f"module.{n}": t for n, t in old.items()}),
    "safetensors": lambda zoo, old: zoo.save(old, "old.safetensors"),
    "safetensors under another name": lambda zoo, old: zoo.save(old, "old.safetensors").rename(
        zoo.folder / "old.pt"
    ),
    "shards": sharded,
    "DCP": distributed,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_loads(zoo: Zoo, old: dict[str, Tensor], kind: str) -> None:
    path, model = FORMATS[kind](zoo, old), New()
    with behind():
        ckmigrate.load(path, model, project=zoo.folder, from_revision="base")
    assert same(model.state_dict(), migrated(old))


@pytest.mark.parametrize("is_tagged", [True, False])
def test_a_checkpoint_at_the_head_is_loaded_without_a_word(
    zoo: Zoo, old: dict[str, Tensor], is_tagged: bool
) -> None:
    state = migrated(old)
    tag = ckmigrate.tag(project=zoo.folder) if is_tagged else {}
    path, model = zoo.save({"model": state, **tag}), New()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ckmigrate.load(path, model, project=zoo.folder)
    assert same(model.state_dict(), state)


def test_the_model_keeps_its_tensors(zoo: Zoo, old: dict[str, Tensor]) -> None:
    model = New().double()
    model.head.weight.requires_grad_(False)
    mine = list(model.parameters())
    with behind():
        ckmigrate.load(zoo.save(old), model, project=zoo.folder)
    assert all(a is b for a, b in zip(mine, model.parameters(), strict=True))
    assert [p.requires_grad for p in mine] == [
        n != "head.weight" for n, _ in model.named_parameters()
    ]
    assert model.q.weight.dtype == torch.float64
    assert torch.equal(model.q.weight.float(), old["qkv.weight"][:4])


def test_a_model_on_the_meta_device_gets_memory(zoo: Zoo, old: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = New()
    model.head.weight.requires_grad_(False)
    with behind():
        ckmigrate.load(zoo.save(old), model, project=zoo.folder)
    assert same(model.state_dict(), migrated(old))
    assert isinstance(model.q.weight, nn.Parameter)
    assert model.q.weight.requires_grad
    assert not model.head.weight.requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrapped_models_load_bare_and_wrapped_files(
    zoo: Zoo, old: dict[str, Tensor], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    for prefix in ("", "module.", "_orig_mod.module."):
        inner = New()
        path = zoo.save({f"{prefix}{name}": tensor for name, tensor in old.items()})
        model = wrap(inner)
        with behind():
            assert ckmigrate.load(path, model, project=zoo.folder) is model
        assert same(inner.state_dict(), migrated(old))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("on", ["cpu", "meta"])
def test_tied_weights_stay_tied(tmp_path: Path, on: str) -> None:
    zoo = Zoo(
        tmp_path / "zoo", 'ck.rename("old.{p}", "embed.{p}")\nck.rename("out.{p}", "head.{p}")'
    )
    values = torch.randn(5, 3)
    path = zoo.save({"old.weight": values, "out.weight": values})
    with torch.device(on):
        model = Tied()
    with behind():
        ckmigrate.load(path, model, project=zoo.folder, from_revision="base")
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, values)


def test_a_tied_name_that_the_file_leaves_out_is_found(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "")
    saved, model = Tied(), Tied()
    save_model(saved, str(zoo.folder / "tied.safetensors"))
    path = zoo.folder / "tied.safetensors"
    with behind():
        ckmigrate.load(path, model, project=zoo.folder, from_revision="base")
    assert torch.equal(model.head.weight, saved.embed.weight)
    assert model.head.weight is model.embed.weight


def test_modules_that_keep_their_weights_in_further_places_work_on(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", 'ck.rename("rnn.**", "lstm.**")')
    reference, lstm = nn.LSTM(2, 3), nn.LSTM(2, 3)
    state = {f"rnn.{name}": tensor for name, tensor in reference.state_dict().items()}
    model = nn.ModuleDict({"lstm": lstm})
    with behind():
        ckmigrate.load(zoo.save(state), model, project=zoo.folder, from_revision="base")
    inputs = torch.randn(4, 2)
    assert torch.equal(lstm(inputs)[0], reference(inputs)[0])
    # What is trained is what computes.
    with torch.no_grad():
        lstm.get_parameter("weight_ih_l0").add_(1)
        reference.get_parameter("weight_ih_l0").add_(1)
    assert torch.equal(lstm(inputs)[0], reference(inputs)[0])


class Counting(nn.Module):
    """Keeps a number that is no tensor in its state dict."""

    def __init__(self, seen: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.seen = seen

    def get_extra_state(self) -> object:
        return {"seen": self.seen}

    def set_extra_state(self, state: object) -> None:
        assert isinstance(state, dict)
        self.seen = state["seen"]


def test_extra_state_comes_along_with_its_module(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", 'ck.rename("a.{p}", "b.{p}")')
    saved, mine = Counting(12), Counting(0)
    path, model = zoo.save(nn.ModuleDict({"a": saved})), nn.ModuleDict({"b": mine})
    with behind():
        ckmigrate.load(path, model, project=zoo.folder, from_revision="base")
    assert mine.seen == 12


def test_extra_state_that_the_file_lacks_stays(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", 'ck.rename("a.{p}", "b.{p}")')
    mine, path = Counting(5), zoo.save({"a.weight": torch.ones(2)})
    model = nn.ModuleDict({"b": mine})
    with behind():
        ckmigrate.load(path, model, project=zoo.folder, from_revision="base")
    assert (mine.seen, mine.weight.tolist()) == (5, [1, 1])


# --- what is refused leaves the model as it was -----------------------------------------------


class Moody(New):
    """Refuses what it has loaded."""

    def load_state_dict(self, *args: Any, **more: Any) -> Any:
        super().load_state_dict(*args, **more)
        raise ValueError("not today")


def refused(model: nn.Module, path: Path, zoo: Zoo, **options: object) -> CkmigrateError:
    """The error; asserts that the model is what it was, to the last object."""
    own = model.state_dict(keep_vars=True)
    before = {name: (tensor, tensor.clone()) for name, tensor in own.items()}
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.load(path, model, project=zoo.folder, **options)  # type: ignore[arg-type]
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, (tensor, values) in before.items():
        assert after[name] is tensor
        assert torch.equal(tensor, values)
    return caught.value


def test_a_model_that_the_result_does_not_fit_is_not_touched(
    zoo: Zoo, old: dict[str, Tensor]
) -> None:
    model = New()
    model.extra = nn.Linear(1, 1)
    error = refused(model, zoo.save(old), zoo)
    assert error.code == "CKM601"
    assert "New" in error.what


@pytest.mark.filterwarnings("ignore::ckmigrate.MigratedOnLoad")
def test_a_model_that_refuses_is_not_touched(zoo: Zoo, old: dict[str, Tensor]) -> None:
    error = refused(Moody(), zoo.save(old), zoo)
    assert (error.code, error.details) == ("CKM611", ("not today",))


def test_a_damaged_file_is_noticed_before_the_model_is_touched(
    zoo: Zoo, old: dict[str, Tensor]
) -> None:
    path = zoo.save(old)
    raw = bytearray(path.read_bytes())
    at = raw.find(old["fc.weight"].numpy().tobytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    assert refused(New(), path, zoo).code == "CKM760"


def test_a_warning_that_is_an_error_comes_before_the_model_is_touched(
    zoo: Zoo, old: dict[str, Tensor]
) -> None:
    path, model = zoo.save(old), New()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MigratedOnLoad):
            ckmigrate.load(path, model, project=zoo.folder)
    assert same(model.state_dict(), before)


class Payload:
    """What a hostile file would have run when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_pickle_is_not_executed(
    zoo: Zoo, old: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(New(), zoo.save({"model": old, "x": Payload()}), zoo)
    assert (error.exit_code, capsys.readouterr().out) == (7, "")


def test_ties_that_are_not_equal_are_refused(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path / "zoo", 'ck.rename("old.{p}", "embed.{p}")\nck.rename("out.{p}", "head.{p}")'
    )
    path = zoo.save({"old.weight": torch.ones(5, 3), "out.weight": torch.zeros(5, 3)})
    assert refused(Tied(), path, zoo, from_revision="base").code == "CKM530"


# --- what it is told --------------------------------------------------------------------------


def test_the_project_is_that_of_the_working_directory(
    zoo: Zoo, old: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.save(old)
    monkeypatch.chdir(zoo.folder / "migrations")
    model = New()
    with behind():
        ckmigrate.load("../old.pt", model)
    assert same(model.state_dict(), migrated(old))


def test_without_a_project_it_says_so(
    tmp_path: Path, old: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(old, "old.pt")
    with pytest.raises(CkmigrateError) as caught:
        ckmigrate.load("old.pt", New())
    assert caught.value.code == "CKM201"


def test_params_weights_and_classes_are_taken(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", 'ck.split("a", ["b", "c"], dim=0, sizes=(ck.params["n"], 2))')
    model = nn.ParameterDict({"b": torch.zeros(3), "c": torch.zeros(2)})
    path = zoo.save({"net": {"ema": {"a": torch.arange(5.0)}}, "config": Fine()})
    with behind():
        ckmigrate.load(
            path,
            model,
            project=zoo.folder,
            from_revision="base",
            params={"n": 3},
            weights="net.ema",
            carry=[f"{__name__}.Fine"],
        )
    assert model["c"].tolist() == [3, 4]


class Fine:
    """A class of the user's own, which a file may name."""


def test_optimizer_state_does_not_stand_in_the_way(zoo: Zoo, old: dict[str, Tensor]) -> None:
    net = Old()
    net.load_state_dict(old)
    optimizer = torch.optim.Adam(net.parameters())
    net.fc(torch.ones(4)).sum().backward()
    optimizer.step()
    path = zoo.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()})
    model = New()
    with behind():
        ckmigrate.load(path, model, project=zoo.folder)
    assert same(model.state_dict(), migrated(net.state_dict()))


def test_computed_tensors_are_loaded(tmp_path: Path) -> None:
    script = Script(
        'ck.compute("{n}.weight", "{n}.weight", double)',
        rest="def double(t):\n    return t * 2\n",
    )
    zoo = Zoo(tmp_path / "zoo", script)
    path, inner = zoo.save({"a.weight": torch.ones(2, 2)}), nn.Linear(2, 2, bias=False)
    model = nn.ModuleDict({"a": inner})
    with behind():
        ckmigrate.load(path, model, project=zoo.folder, from_revision="base")
    assert inner.weight.tolist() == [[2, 2], [2, 2]]


def test_a_system_without_files_in_memory_takes_one_without_a_name(
    zoo: Zoo, old: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.memfd_create")
    path, model = zoo.save(old), New()
    files = names_in(zoo.folder)
    with behind():
        ckmigrate.load(path, model, project=zoo.folder)
    assert same(model.state_dict(), migrated(old))
    assert names_in(zoo.folder) == files


# --- with an optimizer ------------------------------------------------------------------------


def trained(net: nn.Module, make: Any) -> Any:
    """An optimizer of the net after two steps on made-up gradients."""
    optimizer = make(net)
    for step in range(2):
        for number, parameter in enumerate(net.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (number + 1) + step)
        optimizer.step()
    return optimizer


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


def test_an_optimizer_goes_on_where_it_was(zoo: Zoo) -> None:
    old = Old()
    before = trained(old, adam)
    path = zoo.save({"model": old.state_dict(), "optimizer": before.state_dict(), "epoch": 1})
    model = New()
    optimizer = adam(model)
    with behind():
        ckmigrate.load(path, model, optimizer=optimizer, project=zoo.folder)
    assert same(model.state_dict(), migrated(old.state_dict()))
    moments = torch.split(before.state[old.qkv.weight]["exp_avg"], 4)
    assert torch.equal(optimizer.state[model.k.weight]["exp_avg"], moments[1])
    # The next step is the one that the old model would have made.
    for net, steps in ((old, before), (model, optimizer)):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        steps.step()
    assert same(model.state_dict(), migrated(old.state_dict()))


def test_a_model_that_refuses_leaves_the_optimizer_as_it_was(zoo: Zoo) -> None:
    old = Old()
    state = {"model": old.state_dict(), "optimizer": trained(old, adam).state_dict()}
    path, model = zoo.save(state), Moody()
    optimizer = trained(model, adam)
    before = optimizer.state[model.q.weight]["exp_avg"].clone()
    with pytest.warns(MigratedOnLoad):
        error = refused(model, path, zoo, optimizer=optimizer)
    assert error.code == "CKM611"
    assert torch.equal(optimizer.state[model.q.weight]["exp_avg"], before)


def test_a_file_without_optimizer_state_is_refused_when_one_is_given(
    zoo: Zoo, old: dict[str, Tensor]
) -> None:
    model = New()
    for path in (zoo.save({"model": old}), zoo.save(old, "old.safetensors")):
        assert refused(model, path, zoo, optimizer=adam(model)).code == "CKM273"
