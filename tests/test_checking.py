"""`ckmigrate check`: what it finds, and how it says so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ckmigrate.checking import Finding
from ckmigrate.report.findings import annotation
from ckmigrate.revisions.self_contained import outside_uses
from tests.cli_project import IDS, ROOT, Ran, Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    toy = make_toy(tmp_path / "toy")
    assert toy.run("lock").code == 0
    return toy


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def script_of(toy: Toy, number: int) -> Path:
    (path,) = toy.root.glob(f"migrations/{number:04}_*.py")
    return path


def check(toy: Toy, *options: str) -> Ran:
    return toy.run("check", "--no-model", *options)


def found(toy: Toy) -> list[tuple[str, str, int | None]]:
    findings = check(toy, "--json").json["findings"]
    return [(f["kind"], Path(f["file"] or "").name, f["line"]) for f in findings]


def test_a_project_in_order_passes(toy: Toy) -> None:
    ran = toy.run("check")
    assert (ran.code, ran.out.count("\n")) == (0, 1)
    assert ran.out.startswith("ok: 3 migrations")
    assert "fits model 'default' (toy_model:build)" in ran.out


def test_a_project_without_a_lock_is_warned(toy: Toy) -> None:
    (toy.root / "migrations" / "history.lock").unlink()
    ran = check(toy)
    assert (ran.code, ran.out.count("warning: ")) == (0, 1)
    assert "Run `ckmigrate lock`" in ran.out


def test_a_missing_head_snapshot_is_warned_of(toy: Toy) -> None:
    (toy.root / "migrations" / "schema" / "default.json").unlink()
    ran = check(toy)
    assert (ran.code, "warning: model 'default' has no head snapshot" in ran.out) == (0, True)
    assert "ckmigrate lock" in ran.out


def test_a_head_snapshot_that_is_not_the_scripts_is_a_problem(toy: Toy) -> None:
    path = toy.root / "migrations" / "schema" / "default.json"
    rewrite(path, '"scale": "F32[3]"', '"scale": "F16[3]"')
    ran = check(toy)
    assert (ran.code, "width       scale is float16" in ran.out) == (1, True)
    rewrite(path, '"scale": "F16[3]"', '"gain": "F32[3]"')
    ran = check(toy)
    assert "missing     scale [3] float32 — the replay has it, the snapshot does not" in ran.out
    assert found(toy) == [("problem", "default.json", None)]
    rewrite(path, '"gain": "F32[3]"', '"scale": "F32[3]"')
    rewrite(path, '"tied": []', '"tied": [["head.bias", "scale"]]')
    assert check(toy).code == 1
    path.write_text("nonsense")
    assert (check(toy).code, "the snapshot is malformed" in check(toy).out) == (1, True)


def test_a_revision_that_is_not_recorded_is_a_problem(toy: Toy) -> None:
    toy.script(4, "more", '    ck.drop("scale", reason="x")\n', revision="d4d4d4d4d4")
    ran = check(toy)
    assert (ran.code, "d4d4d4d4d4 (0004_more.py) has no line" in ran.out) == (1, True)
    assert toy.run("lock").code == 0
    assert check(toy).code == 0
    rewrite(script_of(toy, 4), '"scale"', '"head.bias"')
    ran = check(toy)
    assert "does other things than when it was recorded" in ran.out
    assert "fix: Run `ckmigrate lock`" in ran.out
    script_of(toy, 4).unlink()
    assert "there is no script of revision d4d4d4d4d4 (more)" in check(toy).out


def test_an_edit_of_a_released_script_is_a_problem_of_its_own(toy: Toy) -> None:
    rewrite(script_of(toy, 3), "init.ones()", "init.zeros()")
    ran = check(toy)
    assert ran.code == 1
    assert f"--allow-edited {IDS[2]}" in ran.out
    assert found(toy) == [("problem", "0003_scale_the_head.py", None)]


def test_layout_of_a_script_is_no_edit(toy: Toy) -> None:
    path = script_of(toy, 3)
    rewrite(path, 'ck.init("scale"', "# as large\n    ck.init(\n        'scale'")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check(toy).code == 0


def test_a_lock_that_cannot_be_read_is_a_problem_among_others(toy: Toy) -> None:
    (toy.root / "migrations" / "history.lock").write_text("x\n<<<<<<< HEAD\n")
    toy.script(4, "draft", "    ck.todo('x')\n", revision="d4d4d4d4d4")
    ran = check(toy)
    assert (ran.code, ran.out.count("problem: ")) == (1, 2)
    assert "ckmigrate rebase" in ran.out


def test_drift_names_the_command_that_drafts_the_migration(toy: Toy) -> None:
    rewrite(toy.root / "toy_model.py", "self.scale", "self.gain")
    ran = toy.run("check")
    assert ran.code == 1
    assert "missing     gain [3]" in ran.out
    assert 'ckmigrate revision --autogenerate -m "what changed"' in ran.out


def test_the_committed_head_stands_for_a_replay_that_needs_metadata(toy: Toy) -> None:
    toy.script(4, "reads", '    ck.meta.get("x")\n', revision="d4d4d4d4d4")
    snapshot = (toy.root / "migrations" / "schema" / "default.json").read_bytes()
    toy.run("lock")
    ran = toy.run("check")
    assert (ran.code, "compared with no model" in ran.out) == (0, True)
    assert "ck.meta.rename(…, optional=True) asks nothing" in ran.out + ran.err
    # As if the head had been recorded while it could still be replayed.
    lock = toy.root / "migrations" / "history.lock"
    lines = lock.read_text().splitlines()
    lines[-1] = lines[-1].replace("  -  -", "  -  " + lines[-2].split()[2])
    lock.write_text("\n".join(lines) + "\n")
    (toy.root / "migrations" / "schema" / "default.json").write_bytes(snapshot)
    rewrite(toy.root / "toy_model.py", "self.scale", "self.gain")
    assert "missing     gain [3]" in toy.run("check").out


def test_two_heads_end_the_check(toy: Toy) -> None:
    toy.script(4, "left", "", revision="d4d4d4d4d4", revises=IDS[1])
    ran = check(toy, "--format", "github")
    assert (ran.code, "error[CKM316]" in ran.err) == (3, True)
    assert ran.out.startswith("::error title=ckmigrate check::CKM316: the history has 2 heads%0A")


def test_annotations_are_escaped_and_relative_to_the_repository(toy: Toy) -> None:
    subprocess.run(["git", "init", "-q"], cwd=toy.root.parent, check=True)
    body = '    ck.drop("100%, a:b", reason="x")\n'
    toy.script(4, "bad", body, revision="d4d4d4d4d4")
    script = toy.script(5, "draft, too", "    ck.todo('x')\n", revision="e5", revises="d4d4d4d4d4")
    rewrite(script, "'e5'", "'e5e5e5e5e5'")
    ran = check(toy, "--format", "github")
    assert ran.code == 1
    lines = ran.out.splitlines()
    place = "file=toy/migrations/0004_bad.py,line=11,title=ckmigrate check::"
    assert any(line.startswith(f"::error {place}") and "100%25, a:b" in line for line in lines)
    place = "::error file=toy/migrations/0005_draft%2C too.py,line=11,title="
    assert any(line.startswith(place) for line in lines)
    assert all(line.startswith(("::error ", "::warning ", "failed")) for line in lines)


def test_an_annotation_is_one_line_whatever_it_holds() -> None:
    finding = Finding("warning", "a\r\nb", "c\x1b", ("::error::d",), Path("/x/y,z.py"), 3)
    shown = annotation(finding, Path("/x"))
    assert shown.startswith("::warning file=y%2Cz.py,line=3,title=ckmigrate check::")
    assert not re.search(r"[\r\n\x1b]", shown)


def test_the_format_json_is_the_option_json(toy: Toy) -> None:
    assert check(toy, "--format", "json").json == check(toy, "--json").json
    script_of(toy, 1).write_text("(")
    ran = check(toy, "--format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (3, "CKM302")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import mypkg.model", "imports mypkg.model"),
        ("from mypkg import model", "imports mypkg"),
        ("from . import model", "imports ."),
        ("from ..model import Net", "imports ..model"),
        ("__import__('mypkg')", "runs code that it looks up: __import__(…)"),
        ("importlib.import_module('x')", "runs code that it looks up: importlib.import_module(…)"),
        ("open('index.txt')", "reads a file: open(…)"),
        ("Path('index.txt').read_text()", "reads a file: read_text(…)"),
        ("torch.load('x.pt')", "reads a file: torch.load(…)"),
        ("np.load('x.npy')", "reads a file: np.load(…)"),
        ("here = __file__", "uses __file__, the place of the script"),
    ],
)
def test_what_a_script_needs_from_outside_is_found(line: str, what: str) -> None:
    (use,) = outside_uses(f"x = 1\n{line}\n")
    assert (use.line, use.what) == (2, what)


def test_what_stands_alone_is_not_warned_of(toy: Toy) -> None:
    text = "import torch, numpy, json\nfrom ckmigrate import init\nck.open()\njson.loads('1')\n"
    assert outside_uses(text) == ()
    assert check(toy).out.count("warning") == 0


def test_warnings_have_their_place(toy: Toy) -> None:
    rewrite(script_of(toy, 3), "    ck.init(", "    open('x')\n    ck.init(")
    assert ("warning", "0003_scale_the_head.py", 12) in found(toy)


def test_the_example_passes_its_own_gate() -> None:
    ran = Toy(ROOT).run("check", "--no-model")
    assert (ran.code, ran.out[:3]) == (0, "ok:")


def test_the_hook_runs_the_gate(toy: Toy) -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    fields = dict(re.findall(r"^[ -] (\w+): (.*)$", text, re.MULTILINE))
    assert fields["id"] == "ckmigrate-check"
    assert fields["pass_filenames"] == "false"
    verb, *rest = fields["entry"].split()
    assert verb == "ckmigrate"
    assert toy.run(*rest, *fields["args"].strip("[]").split(", ")).code == 0
