"""Exported programs: they run where there is no ckmigrate, and give what the runner gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ckmigrate.compile import State, Trace, TracedScript, start, trace
from ckmigrate.errors import MigrationError
from ckmigrate.execute.commit import Destination
from ckmigrate.export import runtime
from ckmigrate.export.loops import Line, comprehension, literal, looped
from ckmigrate.export.program import program
from ckmigrate.migrate import Request, carry_out, prepare
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history
from ckmigrate.revisions.script import Script as Read
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.layouts import KNOWN_KEYS
from tests.cli_project import Toy
from tests.laws.chains import Case, cases, checkpoint, evaluated, run
from tests.naive import pack
from tests.projects import Script, Zoo, load, same, schema_of
from tests.scripted import traced

ROOT = Path(__file__).parents[1]
ALONE = (
    "import sys, runpy; sys.modules['ckmigrate'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def convert(text: str, old: Path, new: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that can import neither ckmigrate nor what lies around."""
    path = new.with_name("convert.py")
    path.write_text(text)
    command = [sys.executable, "-I", "-c", ALONE, str(path), str(old), str(new)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=new.parent)


def exported(zoo: Zoo, state: dict[str, torch.Tensor]) -> str:
    scripts = zoo.history.path_up(None, zoo.history.heads[0])
    done = trace(scripts, start(schema_of(state)), {})
    return program(done, project="zoo", begin="base", end="head")


def run_text(text: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """What convert() of a program makes, in this process."""
    space: dict[str, Any] = {"__name__": "program"}
    exec(compile(text, "program", "exec"), space)
    result: dict[str, Any] = space["convert"](arrays)
    return result


@given(cases())
@settings(deadline=None, max_examples=25)
def test_a_program_gives_the_bytes_of_a_random_chain(case: Case) -> None:
    ck = checkpoint(case.entries, case.ties)
    before = State(dict(ck.entries), ck.ties)
    done = run(ck, case.acts).recorder
    after = State(done.entries, done.ties)
    one = TracedScript(
        Read(Path("0001_x.py"), "aaaaaaaa"), tuple(done.records), tuple(done.checks), before, after
    )
    text = program(Trace(before, (one,)), project="p", begin="a", end="b")
    data = {name: pack(entry) for name, entry in case.entries.items()}
    arrays = {
        name: np.frombuffer(data[name], _item(entry.dtype)).reshape(entry.items.shape)
        for name, entry in case.entries.items()
    }
    made = run_text(text, arrays)
    assert made.keys() == after.entries.keys()
    for name, expr in after.entries.items():
        assert made[name].shape == expr.spec.shape
        assert made[name].tobytes() == evaluated(expr, data, case.schema), name


def _item(dtype: DType) -> Any:
    width = dtype.bits // 8
    return np.dtype(f"V{width}" if width > 8 else f"u{width}")


STATE = {
    "head.w": torch.arange(12.0).reshape(3, 4),
    "head.b": torch.arange(3.0),
    "layers.0.w": torch.arange(8.0),
    "layers.1.w": torch.arange(8.0) + 8,
    "scale": torch.full((2,), 16.0),
}
FOLD = """
import math
FACTOR = 3

def twice(w):
    return 2 * w

def fold(w):
    return twice(w) * FACTOR * math.pi + torch.rand_like(w)
"""
INITS = """
ck.init('n', shape=(5, 4), value=init.normal(), dtype='bfloat16')
ck.init('o', shape=(4, 6), value=init.orthogonal(2.0))
ck.init('u.{i}', like='layers.{i}.w', value=init.uniform(-1, 1))
"""
SCRIPTS = (
    Script("ck.compute('head.w', 'head.w', fold)", rest=FOLD),
    "for factor in (2, 5):\n    ck.compute('head.b', 'head.b', lambda b: b * factor)",
    INITS,
    "ck.drop('scale', reason='constant', expect=16.0)\nck.cast('layers.{i}.w', 'float16')",
    "ck.stack('layers.{i:int}.w', 'layers.w')\nck.tie('head.w', 'exit.w')",
)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_program_gives_what_the_runner_gives(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path / "zoo", *SCRIPTS, base=STATE)
    old = zoo.save(STATE, f"old{suffix}")
    wanted = load(zoo.upgrade(old, weights_only=True))
    new = tmp_path / f"new{suffix}"
    done = convert(exported(zoo, STATE), old, new)
    assert done.returncode == 0, done.stderr
    made = load(new)
    tensors = {name: value for name, value in wanted.items() if isinstance(value, torch.Tensor)}
    assert same(made, tensors)
    if suffix == ".pt":
        assert made["exit.w"].data_ptr() == made["head.w"].data_ptr()


@pytest.mark.parametrize(
    "dtype", [torch.complex128, torch.complex64, torch.float64, torch.float8_e5m2, torch.int8]
)
def test_elements_of_every_width_move_as_a_whole(tmp_path: Path, dtype: torch.dtype) -> None:
    """complex128 has an 8 in its name and 16 bytes; the types of one byte have an 8 too."""
    state = {"w": torch.arange(12.0).reshape(3, 4).to(dtype)}
    script = "ck.transpose('w', 0, 1)\nck.split('w', ['a', 'b'], sizes=(1, 3))"
    zoo = Zoo(tmp_path / "zoo", script, base=state)
    old, new = zoo.save(state, "old.pt"), tmp_path / "new.pt"
    done = convert(exported(zoo, state), old, new)
    assert done.returncode == 0, done.stderr
    turned = state["w"].T.contiguous()
    assert same(load(new), {"a": turned[:1], "b": turned[1:]})


def test_the_examples_chain_without_ckmigrate(tmp_path: Path) -> None:
    project = find_project(ROOT)
    history = read_history(project.migrations)
    old = ROOT / "examples" / "digits" / "checkpoints" / "digits-1.0.pt"
    request, wanted = Request(weights_only=True, use_model=False), tmp_path / "x.safetensors"
    prepared = prepare(project, history, old, request)
    carry_out(prepared, Destination(wanted))
    text = program(prepared.plan.trace, project="digits", begin="1.0", end="2.0")
    done = convert(text, old, tmp_path / "new.safetensors")
    assert done.returncode == 0, done.stderr
    made, found = load_file(tmp_path / "new.safetensors"), load_file(wanted)
    assert same(made, found)
    assert "for i in range(2):" in text
    assert "for p in range(12)" in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"head.w": None}, "head.w is missing"),
        ({"more": torch.ones(1)}, "more is unknown"),
        ({"head.b": torch.ones(4)}, "head.b is"),
        ({"head.b": torch.ones(3, dtype=torch.float64)}, "head.b is"),
        ({"scale": torch.ones(2)}, "does not hold"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    zoo = Zoo(tmp_path / "zoo", SCRIPTS[3], base=STATE)
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file({k: v for k, v in {**STATE, **change}.items() if v is not None}, old)
    done = convert(exported(zoo, STATE), old, new)
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "convert.py",
        "old.safetensors",
        "zoo",
    ]


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    old, new = zoo.save(STATE), tmp_path / "new.pt"
    new.write_bytes(b"mine")
    assert "exists already" in convert(exported(zoo, STATE), old, new).stderr
    assert new.read_bytes() == b"mine"


def test_a_state_dict_inside_a_training_checkpoint_is_found(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    old = zoo.save({"model": STATE, "epoch": 3})
    assert convert(exported(zoo, STATE), old, tmp_path / "new.pt").returncode == 0
    assert "b" in load(tmp_path / "new.pt")


def training_checkpoint(**more: object) -> dict[str, object]:
    """The state of an AdamW for STATE that has made a step, and more beside it."""
    weights = {name: torch.nn.Parameter(value.clone()) for name, value in STATE.items()}
    optimizer = torch.optim.AdamW(weights.values())
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return {"optimizer": optimizer.state_dict(), **more}


def test_weights_beside_the_state_of_an_optimizer_are_found(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    old = zoo.save(training_checkpoint(epoch=3, net=STATE))
    done = convert(exported(zoo, STATE), old, tmp_path / "new.pt")
    assert done.returncode == 0, done.stderr
    wanted = {"b" if name == "head.b" else name: value for name, value in STATE.items()}
    assert same(load(tmp_path / "new.pt"), wanted)


def test_weights_under_a_usual_key_go_before_an_average_of_them(tmp_path: Path) -> None:
    assert runtime.USUAL_KEYS == KNOWN_KEYS
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    average = {name: value + 1 for name, value in STATE.items()}
    old = zoo.save(training_checkpoint(ema=average, module=STATE))
    done = convert(exported(zoo, STATE), old, tmp_path / "new.pt")
    assert done.returncode == 0, done.stderr
    assert same({"b": load(tmp_path / "new.pt")["b"]}, {"b": STATE["head.b"]})


@pytest.mark.parametrize(
    ("average", "weights"), [("ema", "student"), ("model", "state_dict")], ids=["own", "usual"]
)
def test_two_state_dicts_that_could_be_meant_are_refused(
    tmp_path: Path, average: str, weights: str
) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    other = {name: value + 1 for name, value in STATE.items()}
    old = zoo.save(training_checkpoint(**{average: other, weights: STATE}))
    done = convert(exported(zoo, STATE), old, tmp_path / "new.pt")
    assert done.returncode == 1
    assert "several" in done.stderr
    assert f"\n  ['{average}']\n  ['{weights}']\n" in done.stderr
    assert not (tmp_path / "new.pt").exists()


def test_where_no_state_dict_fits_the_nearest_is_compared(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    changed = {**STATE, "more": torch.ones(1)}
    del changed["scale"]
    old = zoo.save(training_checkpoint(model=changed))
    done = convert(exported(zoo, STATE), old, tmp_path / "new.pt")
    assert done.returncode == 1
    assert "['optimizer']['state'][0]" in done.stderr
    assert "nearest is ['model']:\n  scale is missing\n  more is unknown\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_that_is_wrong_is_the_one_that_is_named(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('head.b', 'b')", base=STATE)
    text, old = exported(zoo, STATE), zoo.save(STATE)
    absent = convert(text, tmp_path / "nope.pt", tmp_path / "new.pt").stderr
    assert absent == f"error: {tmp_path / 'nope.pt'} is not there\n"
    folder = convert(text, tmp_path, tmp_path / "new.pt").stderr
    assert folder == f"error: {tmp_path} is not a file\n"
    (tmp_path / "run.py").write_text(text)
    command = [sys.executable, "-I", "run.py", str(old), "none/new.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr == "error: none is no folder, and new.pt would go there\n"


@pytest.mark.parametrize(
    ("body", "after", "word"),
    [
        (
            "ck.compute('w', 'w', f)",
            "from ckmigrate import init as i\ndef f(w):\n    return i and w\n",
            "uses ckmigrate",
        ),
        ("held = [object()]\nck.compute('w', 'w', lambda w: held and w)", "", "no text stands for"),
        ("class F:\n    def __call__(self, w): return w\nck.compute('w', 'w', F())", "", "neither"),
    ],
)
def test_a_function_that_cannot_stand_alone_is_refused(
    tmp_path: Path, body: str, after: str, word: str
) -> None:
    done = traced(tmp_path, body, {"w": (2,)}, after=after)
    with pytest.raises(MigrationError) as caught:
        program(done, project="p", begin="a", end="b")
    assert caught.value.code == "CKM515"
    assert word in str(caught.value)


def test_elements_narrower_than_a_byte_are_refused(tmp_path: Path) -> None:
    done = traced(tmp_path, "pass", {"w": TensorSpec(DType.F4, (2,))})
    with pytest.raises(MigrationError) as caught:
        program(done, project="p", begin="a", end="b")
    assert caught.value.code == "CKM516"


def test_numbers_become_loops_only_where_they_come_back_exactly() -> None:
    lines = [Line(f"b.{i}.{j}.w", f'old["a.{i}.{j}.w"][0:{7}]') for i in range(3) for j in range(2)]
    lines += [Line("c.0", 'old["x.7"]'), Line("c.1", 'old["x.7"]'), Line("{d}.0", 'old["{e}.0"]')]
    text = "\n".join(looped(lines))
    assert "for i in range(3):\n    for j in range(2):\n" in text
    space: dict[str, Any] = {"old": _Names(), "new": {}}
    exec(text, space)
    assert space["new"] == {line.name: eval(line.code, {"old": _Names()}) for line in lines}


@st.composite
def assignments(draw: st.DrawFn) -> list[Line]:
    """Names with numbers in them, each once, of alike and of unlike sources."""
    number = st.sampled_from([0, 1, 2, 3, 7, 10])
    lines: dict[str, Line] = {}
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.sampled_from(["a.{0}", "a.{0}.b.{1}", "{{x}}.{0}.w{0}", "c.{1}.{0}.{1}"]))
        code = draw(
            st.sampled_from(['"s.{0}.{1}"', '"s.{1}"', '"s.0.{0}"', '"t"', '"s.{0}."[0:{0}]'])
        )
        for pair in draw(st.lists(st.tuples(number, number), min_size=1, max_size=12)):
            name = shape.format(*pair)
            lines.setdefault(name, Line(name, code.format(*pair)))
    return list(lines.values())


@given(assignments())
@settings(deadline=None)
def test_loops_assign_what_the_lines_do(lines: list[Line]) -> None:
    space: dict[str, Any] = {"new": _Once()}
    exec("\n".join(looped(lines)), space)
    assert space["new"] == {line.name: eval(literal(line.code)) for line in lines}


@given(st.lists(st.sampled_from(['"a.{}"', '"a.{}.{}"', '"b"', '"{}.c.1"']), max_size=4), st.data())
@settings(deadline=None)
def test_parts_become_a_comprehension_only_where_they_come_back_exactly(
    shapes: list[str], data: st.DataObject
) -> None:
    step, odd = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from(["", ", 5"]))
    texts = [", ".join(shapes).replace("{}", str(i)) for i in range(0, 4 * step, step)]
    parts = [f"f([{text}])" for text in texts[:-1]] + [f"f([{texts[-1]}]{odd})"]
    text = comprehension(parts)
    if text is not None:
        space = {"f": lambda *given: given}
        made = eval(f"[{literal(text)}]", space)
        assert made == [eval(part, space) for part in parts]


class _Once(dict[str, Any]):
    """Takes each key once."""

    def __setitem__(self, key: str, value: Any) -> None:
        assert key not in self
        super().__setitem__(key, value)


class _Names:
    """old["name"] gives the name."""

    def __getitem__(self, name: str) -> str:
        return name


def test_export_is_a_command(toy: Toy) -> None:
    ran = toy.run("export", "--python", "-o", "convert.py")
    assert (ran.code, "makes 9 entries" in ran.out) == (0, True)
    toy.checkpoint()
    toy.run("upgrade", "old.safetensors", "-o", "runner.safetensors", "--no-model")
    new = toy.root / "alone.safetensors"
    text = (toy.root / "convert.py").read_text()
    assert convert(text, toy.root / "old.safetensors", new).returncode == 0
    made, wanted = load_file(new), load_file(toy.root / "runner.safetensors")
    assert same(made, wanted)
    assert toy.run("export", "base:1.1").out.startswith('"""Convert checkpoints of toy')
    assert (toy.run("export", "--python", "-o", "convert.py").code) == 7
    for arguments, word in ((["head"], "CKM248"), ([":", "--model", "x"], "CKM246")):
        ran = toy.run("export", *arguments)
        assert (ran.code, word in ran.err) == (2, True)
