from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckmigrate.errors import UsageError, VerificationError
from ckmigrate.project import find_project
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.target import Target, load_target, strict_load

HEAD = "import torch\nfrom torch import nn\n"
Write = Callable[..., str]


@pytest.fixture
def module(tmp_path: Path) -> Write:
    """Writes user code under a fresh module name and returns the name."""
    numbers = itertools.count()

    def write(text: str, head: str = HEAD) -> str:
        name = f"user_{abs(hash(tmp_path))}_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(head + text)
        return name

    return write


@pytest.fixture
def load(module: Write, tmp_path: Path) -> Callable[..., Target]:
    def run(text: str, attribute: str = "make", **options: Any) -> Target:
        return load_target(
            f"{module(text)}:{attribute}", "small", python_path=[tmp_path], **options
        )

    return run


@pytest.fixture
def strict(module: Write, tmp_path: Path) -> Callable[..., None]:
    def run(text: str, tensors: dict[str, torch.Tensor], **options: Any) -> None:
        strict_load(f"{module(text)}:make", "small", tensors, python_path=[tmp_path], **options)

    return run


NET = "def make(width=2): return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))\n"

TIED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
make = Net
"""

REAL_ONLY = """
def make():
    model = nn.Linear(2, 2)
    model.weight[0, 0].item()
    return model
"""

EXTRA = """
class make(nn.Linear):
    def __init__(self): super().__init__(2, 1)
    def get_extra_state(self): return {"seen": 3}
    def set_extra_state(self, state): assert state == {"seen": 3}
"""


def test_reads_names_shapes_and_dtypes_in_order(load: Callable[..., Target]) -> None:
    target = load(NET)
    assert list(target.schema) == list(
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    )
    assert target.schema["0.weight"] == TensorSpec(DType.F32, (2, 3))
    assert target.schema["1.num_batches_tracked"] == TensorSpec(DType.I64, ())
    assert (target.ties, target.model, target.extra_state) == ((), "small", ())


def test_params_reach_the_factory(load: Callable[..., Target]) -> None:
    assert load(NET, params={"width": 5}).schema["0.bias"].shape == (5,)


def test_names_of_one_parameter_are_tied(load: Callable[..., Target]) -> None:
    assert load(TIED).ties == (("embed.weight", "head.weight"),)


def test_a_huge_model_takes_no_memory(load: Callable[..., Target]) -> None:
    target = load("def make(): return nn.Linear(1 << 20, 1 << 20)\n")
    assert target.schema["weight"].nbytes == 1 << 42


def test_a_factory_that_reads_values_is_built_for_real(load: Callable[..., Target]) -> None:
    assert list(load(REAL_ONLY).schema) == ["weight", "bias"]


def test_building_for_real_leaves_the_random_state(load: Callable[..., Target]) -> None:
    before = torch.get_rng_state()
    load(REAL_ONLY)
    assert torch.equal(before, torch.get_rng_state())


def test_parameters_are_in_the_order_of_the_model_tied_ones_once(
    load: Callable[..., Target],
) -> None:
    assert load(NET).parameters == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert load(TIED).parameters == ("embed.weight",)
    frozen = load(
        "def make():\n    net = nn.Linear(2, 2)\n    net.bias.requires_grad = False\n"
        "    return net\n"
    )
    assert frozen.parameters == ("weight", "bias")
    assert frozen.trainable == {"weight"}


def test_a_parameter_without_an_entry_leaves_the_order_open(load: Callable[..., Target]) -> None:
    text = """
class Net(nn.Linear):
    def state_dict(self, *args, **kwargs):
        found = super().state_dict(*args, **kwargs)
        del found["bias"]
        return found
def make(): return Net(2, 2)
"""
    assert load(text).parameters is None


def test_extra_state_is_no_tensor(load: Callable[..., Target]) -> None:
    target = load(EXTRA)
    assert target.extra_state == ("_extra_state",)
    assert list(target.schema) == ["weight", "bias"]


def test_parametrized_modules_show_their_originals(load: Callable[..., Target]) -> None:
    target = load(
        "from torch.nn.utils.parametrizations import weight_norm\n"
        "def make(): return weight_norm(nn.Linear(2, 2))\n"
    )
    assert list(target.schema)[1:] == [
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ]


def test_f4_counts_elements_and_not_pairs(load: Callable[..., Target]) -> None:
    target = load(
        "class make(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('q', torch.empty(3, 4, dtype=torch.float4_e2m1fn_x2))\n"
    )
    assert target.schema["q"] == TensorSpec(DType.F4, (3, 8))


def test_what_user_code_prints_stays_off_stdout(
    load: Callable[..., Target], capsys: pytest.CaptureFixture[str]
) -> None:
    load("print('importing')\n" + NET)
    assert capsys.readouterr() == ("", "importing\n")


def test_the_search_path_is_given_back(load: Callable[..., Target], tmp_path: Path) -> None:
    load(NET)
    assert str(tmp_path) not in sys.path


def test_a_factory_may_be_nested_and_import_late(
    load: Callable[..., Target], module: Write
) -> None:
    late = module("width = 7\n", head="")
    target = load(
        f"class Zoo:\n    @staticmethod\n    def make():\n        import {late}\n"
        f"        return nn.Linear({late}.width, 1)\n",
        "Zoo.make",
    )
    assert target.schema["weight"].shape == (1, 7)


@pytest.mark.parametrize(
    ("text", "attribute", "code", "says"),
    [
        (NET, "", "CKM210", "package.module:function"),
        (NET, "make()", "CKM210", "package.module:function"),
        ("import no_such_package\n", "make", "CKM212", "no_such_package"),
        ("raise SystemExit(3)\n", "make", "CKM212", "SystemExit 3"),
        ("1 / 0\n", "make", "CKM212", "ZeroDivisionError"),
        ("def (\n", "make", "CKM212", "SyntaxError"),
        (NET, "mke", "CKM213", "near it: make"),
        ("make = 3\n", "make", "CKM214", "is int"),
        ("make = nn.ReLU()\n", "make", "CKM214", "a built model"),
        ("def make(): raise ValueError('no config')\n", "make", "CKM215", "ValueError: no config"),
        ("def make(): raise SystemExit\n", "make", "CKM215", "ends the program"),
        ("def make(x): pass\n", "make", "CKM215", "missing 1 required positional"),
        ("def make(): return {}\n", "make", "CKM216", "returned dict"),
        ("def make(): return nn.LazyLinear(2)\n", "make", "CKM217", "lazy"),
    ],
)
def test_a_broken_factory_is_a_usage_error(
    load: Callable[..., Target], text: str, attribute: str, code: str, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, attribute)
    assert caught.value.code == code
    assert says in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("factory", ["no_such_module_x:make", "json.nothing:make"])
def test_a_missing_module_is_named(factory: str) -> None:
    with pytest.raises(UsageError, match="there is no module") as caught:
        load_target(factory, "small")
    assert caught.value.code == "CKM211"


def test_a_sparse_entry_is_refused(load: Callable[..., Target]) -> None:
    with pytest.raises(UsageError, match="'mask'") as caught:
        load(
            "class make(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.register_buffer('mask', torch.zeros(2, 2).to_sparse())\n"
        )
    assert caught.value.code == "CKM217"


def test_strict_load_accepts_what_fits(strict: Callable[..., None]) -> None:
    state = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    strict(NET, dict(state))
    strict(EXTRA, dict(nn.Linear(2, 1).state_dict()))
    strict(REAL_ONLY, dict(nn.Linear(2, 2).state_dict()))


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_strict_load_refuses_what_does_not_fit(strict: Callable[..., None], change: str) -> None:
    state: dict[str, torch.Tensor] = dict(nn.Linear(2, 2).state_dict())
    if change == "missing":
        del state["bias"]
    else:
        state["bias" if change == "shape" else "extra"] = torch.zeros(3)
    with pytest.raises(VerificationError) as caught:
        strict("def make(): return nn.Linear(2, 2)\n", state)
    assert caught.value.code == "CKM611"
    assert ("bias" if change != "unexpected" else "extra") in str(caught.value)


def test_strict_load_shortens_what_torch_says(strict: Callable[..., None]) -> None:
    with pytest.raises(VerificationError) as caught:
        strict(
            "def make(): return nn.Linear(2, 2)\n",
            {f"layer.{i}.weight": torch.zeros(i + 1) for i in range(3)}
            | {"weight": torch.zeros(9), "bias": torch.zeros(9)},
        )
    assert len((caught.value.why or "").splitlines()) <= 10


def test_a_model_that_swallows_missing_entries_is_found_out(strict: Callable[..., None]) -> None:
    lenient = """
class make(nn.Linear):
    def __init__(self): super().__init__(2, 2)
    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict(state, strict=False, assign=assign)
"""
    with pytest.raises(VerificationError) as caught:
        strict(lenient, {"weight": torch.zeros(2, 2)})
    assert (caught.value.code, caught.value.details) == ("CKM612", ("bias",))


def test_an_absent_tied_name_is_completed_only_on_request(strict: Callable[..., None]) -> None:
    half = {"embed.weight": torch.zeros(4, 3)}
    strict(TIED, half, complete_ties=True)
    with pytest.raises(VerificationError, match="strictly"):
        strict(TIED, half)


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, ckmigrate.target; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_exempt_entry_may_stay_as_the_model_has_it(strict: Callable[..., None]) -> None:
    weight = {"weight": torch.zeros(2, 2)}
    strict("def make(): return nn.Linear(2, 2)\n", weight, exempt={"bias"})
    with pytest.raises(VerificationError, match="strictly"):
        strict("def make(): return nn.Linear(2, 2)\n", weight, exempt={"other"})


def test_a_missing_module_names_each_folder_once_and_a_setting_that_exists(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError) as caught:
        load_target("no_such_module_x:make", "small", python_path=[Path.cwd(), Path.cwd()])
    listed = str(caught.value.why).removeprefix("searched in ").partition(", and ")[0].split(", ")
    assert len(set(listed)) == len(listed) > 1
    (named,) = set(re.findall(r"`([\w-]+)`", str(caught.value.fix))) - {"model"}
    (tmp_path / "ckmigrate.toml").write_text(f'{named} = ["."]\n')
    assert find_project(tmp_path).python_path == (tmp_path.resolve(),)


def test_a_factory_that_was_given_as_an_option_is_called_so() -> None:
    for factory in ("no_such_module_x:make", "json:nothing", "json:__name__", "not a name"):
        with pytest.raises(UsageError) as caught:
            load_target(factory, "default", is_option=True)
        assert caught.value.where == f"--model {factory}"
        assert "--model" in str(caught.value.fix)
        assert "`" not in str(caught.value.fix)
