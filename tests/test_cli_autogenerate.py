"""`revision --autogenerate` on a small project: every flag, the files, the answers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli_inside import Inside
from tests.cli_project import MODEL, Toy, make_toy

CERTAIN = MODEL.replace("self.encoder = Encoder()", "self.backbone = Encoder()")
UNSURE = CERTAIN.replace("self.scale =", "self.gain =")
"""`scale` → `gain` has nothing but its shape in common."""


@pytest.fixture
def inside(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(toy, monkeypatch)


def test_a_certain_draft_is_written_proved_and_migrates(toy: Toy) -> None:
    """The whole way, in real processes."""
    (toy.root / "toy_model.py").write_text(CERTAIN)
    ran = toy.run("revision", "--autogenerate", "-m", "Refactor", "--release", "1.4")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("wrote migrations/0004_refactor.py: revision ")
    assert '  ck.rename("encoder.**", "backbone.**")' in ran.out.splitlines()
    assert ran.err.startswith("certain\n")
    toy.checkpoint()
    assert toy.run("upgrade", "old.safetensors", "-o", "new.safetensors").code == 0
    assert toy.run("check").code == 0


def test_nothing_to_do_writes_nothing(inside: Inside) -> None:
    before = inside.scripts
    ran = inside.draft()
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("nothing to do: the migrations lead to model 'default'")
    assert inside.scripts == before
    assert inside.draft("--json").json["file"] is None
    for wish in ("scala=gain", "scale=gain"):
        ran = inside.draft("--rename", wish)
        assert (ran.code, "error[CKM250]: " in ran.err, inside.scripts) == (2, True, before)


def test_without_a_terminal_what_is_not_certain_becomes_a_todo(inside: Inside) -> None:
    inside.model(UNSURE)
    ran = inside.draft()
    assert ran.code == 1
    assert "history.lock" not in ran.out
    assert '  ck.rename("encoder.**", "backbone.**")' in ran.out.splitlines()
    assert "  todo: " in ran.out
    assert "not finished: " in ran.out
    text = inside.drafted.read_text()
    assert 'ck.todo("' in text
    assert "scale" in text
    assert "gain" in text


def test_the_closing_line_counts_what_is_listed_and_comments_can_become_calls(
    inside: Inside,
) -> None:
    added = "self.one = nn.Linear(4, 4)\n        self.two = nn.LayerNorm(4)\n        self.scale ="
    inside.model(MODEL.replace("self.scale =", added).replace("nn.Linear(4, 3)", "nn.Linear(4, 7)"))
    ran = inside.draft()
    listed = sum(line.startswith("  todo: ") for line in ran.out.splitlines())
    assert listed > 1
    assert f"not finished: {listed} todos to replace" in ran.out
    text = inside.drafted.read_text()
    assert "# ck.init(" in text
    assert "from ckmigrate import init\n" in text


@pytest.mark.parametrize("flags", [["--no-input"], ["--accept", "certain"], ["-q"], ["--json"]])
def test_flags_that_ask_nobody_do_the_same(inside: Inside, flags: list[str]) -> None:
    inside.model(UNSURE)
    ran = inside.draft(*flags)
    assert ran.code == 1
    assert "ck.todo(" in inside.drafted.read_text()
    assert (ran.err == "") == (flags in (["-q"], ["--json"]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["upgrade", "old.safetensors", "-o", "new.safetensors"],
        ["plan", "old.safetensors"],
        ["upgrade", "old.safetensors", "-o", "new.safetensors", "--no-model"],
        ["downgrade", "new.safetensors", "--to", "head-2", "--from", "head", "-o", "x.safetensors"],
    ],
)
def test_a_chain_with_a_todo_is_refused_by_script_and_line(
    inside: Inside, arguments: list[str]
) -> None:
    inside.toy.checkpoint()
    inside.run("upgrade", "old.safetensors", "-o", "new.safetensors")
    inside.model(UNSURE)
    inside.draft()
    if arguments[0] != "downgrade":
        (inside.root / "new.safetensors").unlink()
    before = inside.toy.files()
    ran = inside.run(*arguments)
    assert ran.code == 5
    assert inside.toy.files() == before
    lines = inside.drafted.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "ck.todo(" in line)
    if arguments[0] == "downgrade":
        assert f"0004_refactor.py: line {number}: it is not finished; replace its todo" in ran.err
        return
    assert "error[CKM528]: the script is not finished" in ran.err
    assert f"0004_refactor.py, line {number}" in ran.err
    assert "fix: Replace the todo() by the operation that is meant." in ran.err


def test_a_draft_on_top_of_a_todo_is_refused(inside: Inside) -> None:
    inside.model(UNSURE)
    inside.draft()
    before = inside.scripts
    ran = inside.draft()
    assert (ran.code, "error[CKM255]: 0004_refactor.py is not finished" in ran.err) == (2, True)
    assert inside.scripts == before


def test_accept_all_takes_the_guesses(inside: Inside) -> None:
    inside.model(UNSURE)
    ran = inside.draft("--accept", "all")
    assert (ran.code, "ck.todo" in inside.drafted.read_text()) == (0, False), ran.out
    assert inside.run("check").code == 0


def test_accept_none_only_shows_the_draft(inside: Inside) -> None:
    inside.model(UNSURE)
    before = inside.scripts
    ran = inside.draft("--accept", "none")
    assert (ran.code, ran.out.startswith("nothing was written")) == (1, True)
    assert 'rename("encoder.**", "backbone.**")' in ran.err
    found = inside.draft("--accept", "none", "--json").json
    assert "certain" in {p["certainty"] for p in found["proposals"]}
    assert found["file"] is None
    assert inside.scripts == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--rename", "scale=gain", "--no-input"],
        ["--rename", "scale=gain", "--rename", "encoder=backbone"],
        ["--map", "map.toml"],
        ["--map", "map.toml", "--rename", "encoder.**=backbone.**", "--json"],
    ],
)
def test_what_is_said_is_certain(inside: Inside, flags: list[str]) -> None:
    inside.model(UNSURE)
    (inside.root / "map.toml").write_text('[renames]\nscale = "gain"\n')
    ran = inside.draft(*flags)
    assert ran.code == 0, ran.out + ran.err
    assert 'ck.rename("scale", "gain")' in inside.drafted.read_text()
    assert inside.run("check").code == 0


def test_a_map_says_what_goes_and_how_what_is_new_begins(inside: Inside) -> None:
    inside.model(UNSURE)
    (inside.root / "map.toml").write_text(
        '[drop]\nscale = "it never helped"\n[init]\ngain = "full(0.5)"\n'
    )
    ran = inside.draft("--map", "map.toml")
    assert ran.code == 0, ran.out + ran.err
    assert 'ck.drop("scale", reason="it never helped")' in inside.drafted.read_text()
    inside.toy.checkpoint()
    assert inside.run("upgrade", "old.safetensors", "-o", "new.safetensors").code == 0
    assert load_file(inside.root / "new.safetensors")["gain"].tolist() == [0.5] * 3


def test_what_cannot_be_used_writes_nothing(inside: Inside) -> None:
    inside.model(UNSURE)
    (inside.root / "map.toml").write_text('[renames]\nscale = "gain"\n[drops]\n')
    (inside.root / "typo.toml").write_text('[renames]\nscale = "gian"\n')
    inside.toy.checkpoint()
    before = inside.scripts
    for arguments, exit_code, code in (
        (["--map", "map.toml"], 2, "CKM252"),
        (["--map", "none.toml"], 2, "CKM251"),
        (["--rename", "scale"], 2, "CKM250"),
        (["--rename", "scala=gain"], 2, "CKM250"),
        (["--rename", "scale=gian", "--accept", "all"], 2, "CKM250"),
        (["--rename", "encoder=bakcbone", "--json"], 2, "CKM250"),
        (["--map", "typo.toml"], 2, "CKM250"),
        (["--model", "none"], 2, "CKM206"),
        (["--revises", "head"], 2, "CKM256"),
        (["--release", "x y"], 2, "CKM209"),
        (["--against", "a.pt"], 2, "CKM200"),
        (["--against", "old.safetensors", "old.safetensors"], 2, "CKM257"),
        (["--against", "none.pt", "old.safetensors"], 7, "CKM70"),
    ):
        ran = inside.draft(*arguments)
        assert (ran.code, f"error[{code}" in ran.err) == (exit_code, True), ran.err
    assert inside.scripts == before


def test_options_of_a_draft_need_autogenerate(inside: Inside) -> None:
    ran = inside.run("revision", "-m", "x", "--accept", "all")
    assert (ran.code, "error[CKM256]: --accept belongs to --autogenerate" in ran.err) == (2, True)


def test_without_a_snapshot_there_is_nothing_to_compare_with(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = make_toy(inside.root / "bare", snapshot=False)
    ran = Inside(bare, monkeypatch).draft()
    assert (ran.code, "error[CKM255]" in ran.err) == (2, True)
    assert "ckmigrate init --from-checkpoint" in ran.err


def test_contents_of_two_checkpoints_are_proof(inside: Inside) -> None:
    inside.toy.checkpoint()
    assert inside.run("upgrade", "old.safetensors", "-o", "head.safetensors").code == 0
    state = load_file(inside.root / "head.safetensors")
    state = {name: torch.randn(tensor.shape) for name, tensor in state.items()}
    save_file(state, inside.root / "head.safetensors")
    new = {
        name.replace("encoder", "backbone").replace("scale", "gain"): tensor
        for name, tensor in state.items()
    }
    # Two projections changed places, which no name and no shape can tell.
    q, k = (f"backbone.layers.0.{part}.weight" for part in "qk")
    new[q], new[k] = new[k], new[q]
    save_file(new, inside.root / "new.safetensors")
    inside.model(UNSURE)
    ran = inside.draft("--against", "head.safetensors", "new.safetensors")
    assert ran.code == 0, ran.out + ran.err
    out = ["-o", "out.safetensors", "--from", "head-1"]
    assert inside.run("upgrade", "head.safetensors", *out).code == 0
    made = load_file(inside.root / "out.safetensors")
    assert all(torch.equal(made[name], tensor) for name, tensor in new.items())


def test_one_draft_serves_several_models(inside: Inside) -> None:
    models = '{ small = "toy_model:build", large = "toy_model:big" }'
    (inside.root / "ckmigrate.toml").write_text(f'name = "toy"\nmodels = {models}\n')
    base = inside.root / "migrations" / "schema" / "base"
    small = json.loads((base / "default.json").read_text())
    (base / "default.json").unlink()
    large = {name: spec.replace("4]", "8]") for name, spec in small["entries"].items()}
    large = {name: spec.replace("[12", "[24") for name, spec in large.items()}
    (base / "small.json").write_text(json.dumps({**small, "model": "small"}))
    (base / "large.json").write_text(json.dumps({**small, "model": "large", "entries": large}))
    wide = CERTAIN.replace("nn.Linear(4, 4,", "nn.Linear(SIZE, SIZE,")
    wide = wide.replace("nn.Linear(4, 3)", "nn.Linear(SIZE, 3)")
    inside.model(
        f"SIZE = 4\n{wide}\n\ndef big():\n    global SIZE\n    SIZE = 8\n    return Toy()\n"
    )
    text = (inside.root / "toy_model.py").read_text()
    inside.model(text.replace("def build():\n", "def build():\n    global SIZE\n    SIZE = 4\n"))
    ran = inside.draft()
    assert ran.code == 0, ran.out + ran.err
    check = inside.run("check")
    assert check.code == 0, check.out
    assert "CKM206" in inside.draft("--model", "medium").err


def test_lock_and_head_snapshot_are_brought_up_to_date(inside: Inside) -> None:
    assert inside.run("lock").code == 0
    inside.model(CERTAIN)
    ran = inside.draft()
    assert ran.code == 0
    files = ["0004_refactor.py", "history.lock", "schema/default.json"]
    assert ran.out.startswith(f"wrote {', '.join(f'migrations/{name}' for name in files)}: ")
    assert inside.run("lock", "--check").code == 0
    assert "backbone.layers" in (inside.root / "migrations/schema/default.json").read_text()
    lock = (inside.root / "migrations/history.lock").read_text()
    assert lock.splitlines()[-1].endswith("  refactor")


def test_a_draft_with_a_todo_has_a_line_in_the_lock(inside: Inside) -> None:
    assert inside.run("lock").code == 0
    inside.model(UNSURE)
    assert inside.draft().code == 1
    lock = (inside.root / "migrations/history.lock").read_text()
    assert lock.splitlines()[-1].endswith("  -  -  refactor")


def test_where_the_lock_refuses_no_script_is_left(inside: Inside) -> None:
    assert inside.run("lock").code == 0
    first = next((inside.root / "migrations").glob("0001_*.py"))
    first.write_text(first.read_text().replace('"encoder.**"', '"encoder2.**"'))
    second = next((inside.root / "migrations").glob("0002_*.py"))
    second.write_text(second.read_text().replace("encoder.", "encoder2."))
    inside.model(CERTAIN)
    before = inside.scripts
    ran = inside.draft()
    assert (ran.code, "error[CKM325]" in ran.err) == (3, True), ran.err
    assert inside.scripts == before


TWO_SIZES = """
SIZE = 4


def small():
    global SIZE
    SIZE = 4
    return build()


def large():
    global SIZE
    SIZE = 8
    return build()
"""


def test_several_models_have_a_pair_of_checkpoints_each(inside: Inside) -> None:
    (inside.root / "ckmigrate.toml").write_text(
        'name = "toy"\nmodels = { small = "toy_model:small", large = "toy_model:large" }\n'
    )
    inside.model(f"{UNSURE}{TWO_SIZES}".replace("torch.ones(3)", "torch.ones(SIZE)"))
    base = inside.root / "migrations" / "schema" / "base"
    text = (base / "default.json").read_text()
    (base / "default.json").unlink()
    third = next((inside.root / "migrations").glob("0003_*.py"))
    third.write_text(
        third.read_text().replace("shape=(3,)", 'shape=(8 if "wide" in ck else 4,)')
        + '    ck.drop("wide", reason="told the size", optional=True)\n'
    )
    entries = json.loads(text)["entries"]
    for name, more in (("small", {}), ("large", {"wide": "F32[1]"})):
        data = {**json.loads(text), "model": name, "entries": {**entries, **more}}
        (base / f"{name}.json").write_text(json.dumps(data))
    pairs = []
    for name, size in (("small", 4), ("large", 8)):
        names = [f"encoder.layers.{i}.{p}.weight" for i in range(2) for p in "qkv"]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (4, 4))
        shapes |= {"head.weight": (3, 4), "head.bias": (3,), "scale": (size,)}
        old = {key: torch.randn(shape) for key, shape in shapes.items()}
        new = {
            key.replace("encoder", "backbone").replace("scale", "gain"): tensor
            for key, tensor in old.items()
        }
        save_file(old, inside.root / f"{name}-old.safetensors")
        save_file(new, inside.root / f"{name}-new.safetensors")
        pairs.append(["--against", f"{name}-old.safetensors", f"{name}-new.safetensors"])
    both = [*pairs[1], *pairs[0]]
    ran = inside.draft(*both, "--accept", "none")
    assert [f"model '{name}'" in ran.err for name in ("small", "large")] == [True, True], ran.err
    again = inside.draft(*pairs[0], *pairs[0])
    assert (again.code, "error[CKM257]" in again.err) == (2, True)
    alone = inside.draft(*pairs[0], "--json").json["proposals"]
    assert {p["certainty"] for p in alone if p["sources"] == ["scale"]} != {"certain"}
    (inside.root / "migrations" / "0004_refactor.py").unlink()
    proved = inside.draft(*both, "--json")
    assert proved.code == 0, proved.err
    assert {p["certainty"] for p in proved.json["proposals"]} == {"certain"}
