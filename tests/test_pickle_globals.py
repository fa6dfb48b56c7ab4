"""What a pickle may name: plain data, carried classes, and nothing that runs code."""

from __future__ import annotations

import enum
import io
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ckmigrate.formats.tree import Global, Object
from tests.torch_files import differences
from tests.torch_files import read_pickle as read
from tests.torch_files import refused_pickle as refused
from tests.torch_files import write_pickle as write

HERE = f"{__name__}.*"


class Colour(enum.Enum):
    RED = 1


class Slotted:
    __slots__ = ("a", "b")
    a: object
    b: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and (self.a, self.b) == (other.a, other.b)

    __hash__ = None  # type: ignore[assignment]


class Config:
    class Inner:
        pass

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class Keyword:
    def __new__(cls, *, width: int) -> Keyword:
        made = super().__new__(cls)
        made.width = width
        return made

    width: int

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"width": self.width}


class Listed(list[object]):
    pass


class Mapped(dict[object, object]):
    pass


def config(**values: object) -> Config:
    return Config(**values)


def test_a_class_that_is_not_listed_is_refused_with_the_line_to_add() -> None:
    error = refused(pickle.dumps({"a": config(x=1), "b": Slotted()}, 4))
    assert error.code == "CKM711"
    assert f'carry = ["{__name__}.Config", "{__name__}.Slotted"]' in str(error.fix)
    assert f"--carry {__name__}.Config" in str(error.fix)
    assert "runs it" in str(error.fix)
    assert error.details == (f"{__name__}.Config", f"{__name__}.Slotted")


def slotted() -> Slotted:
    made = Slotted()
    made.a, made.b = 1, [2]
    return made


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda: config(a=[1], b=config()),
        slotted,
        lambda: Colour.RED,
        lambda: Listed([1, 2]),
        lambda: Mapped(a=1),
        lambda: {Colour.RED: 1},
        lambda: Config,
    ],
)
def test_carried_classes_come_back_under_their_own_name(
    make: Callable[[], object], protocol: int
) -> None:
    value = make()
    tree = read(pickle.dumps(value, protocol), HERE)
    assert pickle.loads(write(tree)) == value
    assert differences(read(write(tree), HERE), tree) == []


def test_carrying_needs_the_exact_name_or_the_module() -> None:
    data = pickle.dumps(config(a=1), 4)
    assert isinstance(read(data, f"{__name__}.Config"), Object)
    for other in (f"{__name__}.Con", f"{__name__}.Config.*", __name__, "*", f"{__name__[:-1]}.*"):
        assert refused(data, other).code == "CKM711"


def test_a_class_in_a_class_is_written_with_protocol_4() -> None:
    value = Config.Inner()
    exact = f"{__name__}.Config.Inner"
    assert refused(pickle.dumps(value, 4), HERE).code == "CKM711"
    data = write(read(pickle.dumps(value, 4), exact))
    assert data[1] == 4
    assert isinstance(pickle.loads(data), Config.Inner)


def test_keyword_arguments_are_written_with_protocol_4() -> None:
    tree = read(pickle.dumps(Keyword(width=3), 4), HERE)
    assert isinstance(tree, Object)
    assert tree.kwargs == {"width": 3}
    assert pickle.loads(write(tree)).width == 3


def test_an_old_style_instance_passes_by_its_reconstructor() -> None:
    data = pickle.dumps(config(a=1), 1)
    tree = read(data, HERE)
    assert isinstance(tree, Object)
    assert tree.factory == Global("copyreg", "_reconstructor")
    assert pickle.loads(write(tree)) == config(a=1)


def effect(target: object, state: object) -> None:
    raise AssertionError("never called here")


def test_a_call_for_its_effect_is_refused_rather_than_lost() -> None:
    class Pickler(pickle.Pickler):
        def reducer_override(self, obj: object) -> Any:
            if isinstance(obj, Config):
                return Config, (), {"a": 1}, None, None, effect
            return NotImplemented

    file = io.BytesIO()
    Pickler(file, 4).dump(config())
    assert "thrown away" in refused(file.getvalue(), HERE).what


# --- what is dangerous ------------------------------------------------------------------------

DANGEROUS = [
    "os.system",
    "posix.system",
    "nt.system",
    "sys.exit",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.open",
    "builtins.__import__",
    "builtins.type",
    "subprocess.Popen",
    "importlib.import_module",
    "importlib.util.spec_from_file_location",
    "runpy.run_path",
    "operator.attrgetter",
    "torch.hub.load",
    "torch.load",
    "numpy.testing._private.utils.runstring",
    "pickle.loads",
    "shutil.rmtree",
    "types.FunctionType",
    "copyreg.__newobj__",
    "commands.getoutput",
]


@pytest.mark.parametrize("name", [*DANGEROUS, "__builtin__.eval"])
@pytest.mark.parametrize("stacked", [False, True])
def test_what_runs_code_is_refused_even_when_it_is_carried(name: str, stacked: bool) -> None:
    module, _, function = name.rpartition(".")
    data = f"\x80\x02c{module}\n{function}\n".encode("latin1") + b"X\x02\x00\x00\x00id\x85R."
    if stacked:
        data = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
        data += b"\x8c" + bytes([len(function)]) + function.encode() + b"\x93)R."
    error = refused(data, name, f"{module}.*", "builtins.*", "builtins.eval")
    assert error.code == "CKM712"
    assert "weights_only=False" in str(error.fix)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mypkg.utils", "os.system"),
        ("mypkg.utils", "builtins.eval"),
        ("mypkg.utils", "Config.__init__.__globals__"),
        ("collections", "abc.sys.modules"),
        ("mypkg", "__class__"),
    ],
)
def test_a_dotted_name_does_not_lead_out_of_a_carried_module(module: str, name: str) -> None:
    data = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
    data += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    assert refused(data, f"{module}.*", f"{module}.{name}").code == "CKM712"


def test_a_name_with_a_line_break_is_refused() -> None:
    data = b"\x80\x04\x8c\x05mypkg\x8c\x0cC\nos\nsystem\n\x93."
    assert "not the name of a class" in refused(data, "mypkg.*").what


def test_a_name_of_any_length_is_not_kept_in_memory() -> None:
    name = b"C" * 5000
    data = b"\x80\x04\x8c\x05mypkgX" + len(name).to_bytes(4, "little") + name + b"\x93."
    assert "not the name of a class" in refused(data, "mypkg.*").what


def test_the_reader_of_a_dangerous_pickle_runs_nothing(tmp_path: pathlib.Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return pathlib.Path.touch, (str(tmp_path / "ran"),)

    refused(pickle.dumps(Trap(), 4), "pathlib.*", "builtins.*")
    assert not (tmp_path / "ran").exists()


def test_copyreg_reaches_only_classes_that_are_allowed() -> None:
    data = b"\x80\x02ccopyreg\n_reconstructor\ncos\n_wrap_close\ncbuiltins\nobject\nN\x87R."
    assert refused(data).code == "CKM712"
