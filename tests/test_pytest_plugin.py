"""The pytest plugin in real runs of pytest on real projects, right ones and wrong ones."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.cli_project import IDS, ROOT, Toy, make_toy

INSTALLED = any(point.name == "ckmigrate" for point in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "ckmigrate.pytest_plugin")
FIVE = (
    "single_head",
    "chain_runs",
    "model_matches_head",
    "up_down_up_is_identity",
    "scripts_are_self_contained",
)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A project that enables the plugin, and has one test of its own."""
    toy = make_toy(pytester.path)
    pytester.makeini("[pytest]\nckmigrate = true\n")
    pytester.makepyfile(test_own="def test_own(): pass")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(toy.root / ".run"))
    return toy


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", *arguments)


def text(result: pytest.RunResult) -> str:
    """The output, which holds no traceback, of ours or of anybody."""
    shown = result.stdout.str()
    assert "Traceback" not in shown
    assert "def runtest" not in shown
    return shown


def test_one_line_of_configuration_gives_five_tests(
    pytester: pytest.Pytester, project: Toy
) -> None:
    result = run(pytester, "-v")
    result.assert_outcomes(passed=9, skipped=1)
    shown = text(result)
    for name in FIVE:
        assert f"ckmigrate::ckmigrate_{name}" in shown
    assert "chain_runs[default]" in shown
    assert "up_down_up_is_identity[default-0002_split_qkv] PASSED" in shown
    assert "up_down_up_is_identity[default-0003_scale_the_head] SKIPPED" in shown


@pytest.mark.usefixtures("project")
def test_they_can_be_listed_and_chosen(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--collect-only", "-q")
    assert result.stdout.str().count("ckmigrate::") == 9
    assert "10 tests collected" in result.stdout.str()
    result = run(pytester, "-k", "ckmigrate_single_head", "-v")
    result.assert_outcomes(passed=1, deselected=9)


@pytest.mark.usefixtures("project")
def test_runs_of_single_tests_leave_them_out(pytester: pytest.Pytester) -> None:
    run(pytester, "test_own.py").assert_outcomes(passed=1)
    result = run(pytester, "test_own.py", "--ckmigrate", "-k", "test_own or single_head")
    result.assert_outcomes(passed=2, deselected=8)
    run(pytester, "--no-ckmigrate").assert_outcomes(passed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_they_run_in_parallel(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nckmigrate = true\ntestpaths = test_own.py\n")
    run(pytester, "-n", "2").assert_outcomes(passed=9, skipped=1)


def test_without_the_line_nothing_heavy_is_imported(
    pytester: pytest.Pytester, project: Toy
) -> None:
    pytester.makeini("[pytest]\n")
    probe = (
        "import sys, pytest; code = pytest.main(sys.argv[1:]); print(int(code), *sorted(n for n in "
        "sys.modules if n.split('.')[0] in ('torch', 'numpy', 'rich', 'click', 'ckmigrate')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *PLUGIN, "-q"],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 ckmigrate ckmigrate.lazily ckmigrate.pytest_plugin"


def test_it_is_an_entry_point_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["entry-points"]["pytest11"] == {
        "ckmigrate": "ckmigrate.pytest_plugin"
    }


def test_two_heads(pytester: pytest.Pytester, project: Toy) -> None:
    project.script(4, "other", "", revises=IDS[1])
    result = run(pytester, "-k", "single_head or chain or matches", "-rs")
    result.assert_outcomes(failed=1, skipped=2, deselected=9)
    shown = text(result)
    assert "error[CKM316]: the history has 2 heads" in shown
    assert "fix: " in shown
    assert "see ckmigrate_single_head" in shown


def test_a_model_that_moved_on(pytester: pytest.Pytester, project: Toy) -> None:
    path = project.root / "toy_model.py"
    path.write_text(path.read_text().replace("nn.Linear(4, 3)", "nn.Linear(4, 5)"))
    result = run(pytester, "-k", "model_matches_head")
    result.assert_outcomes(failed=1, deselected=9)
    shown = text(result)
    assert "error[CKM634]: the migrations do not lead to model 'default'" in shown
    assert "head.weight is [3,4], the model wants [5,4]" in shown


def test_a_script_that_imports_the_projects_code(pytester: pytest.Pytester, project: Toy) -> None:
    project.script(4, "late", "    from toy_model import build\n")
    result = run(pytester, "-k", "self_contained")
    result.assert_outcomes(failed=1, passed=3, deselected=8)
    shown = text(result)
    assert "self_contained[0004_late]" in shown
    assert "error[CKM330]: 0004_late.py does not run without toy_model" in shown


def test_a_script_that_fails_on_one_of_two_models(pytester: pytest.Pytester, project: Toy) -> None:
    base = project.root / "migrations" / "schema" / "base"
    wider = (base / "default.json").read_text().replace("F32[12,4]", "F32[13,4]")
    (base / "wider.json").write_text(wider.replace('"default"', '"wider"'))
    result = run(pytester, "-k", "chain_runs")
    result.assert_outcomes(failed=1, passed=1, deselected=13)
    shown = text(result)
    assert "ckmigrate_chain_runs[wider]" in shown
    assert "error[CKM521]" in shown
    assert "at: 0002_split_qkv.py, line" in shown


def test_a_wrong_downgrade(pytester: pytest.Pytester, project: Toy) -> None:
    path = project.script(4, "swap", '    ck.split("head.weight", "head.{a,b,c}")\n')
    order = '    ck.concat(["head.b", "head.a", "head.c"], "head.weight")\n'
    path.write_text(f"{path.read_text()}\n\ndef downgrade(ck):\n{order}")
    result = run(pytester, "-k", "up_down_up and swap", "-vv")
    result.assert_outcomes(failed=1, deselected=11)
    shown = text(result)
    assert "error[CKM635]: 0004_swap.py does not give the checkpoint back" in shown
    line = "at [0,0] stands value 4 of 'head.weight' instead of value 0 of 'head.weight'"
    assert f"'head.weight': 8 of 12 values differ; {line}" in shown


@pytest.mark.parametrize("what", ["project", "folder", "scripts"])
def test_a_project_without_migrations(pytester: pytest.Pytester, project: Toy, what: str) -> None:
    scripts = list((project.root / "migrations").glob("*.py"))
    for path in {"project": [project.root / "ckmigrate.toml"], "folder": []}.get(what, scripts):
        path.unlink()
    if what == "folder":
        (project.root / "migrations").rename(project.root / "elsewhere")
    result = run(pytester, "-rs", "-k", "ckmigrate and not matches")
    shown = text(result)
    if what == "scripts":
        result.assert_outcomes(skipped=4, deselected=2)
        assert "there are no migrations" in shown
    else:
        result.assert_outcomes(failed=1, skipped=3, deselected=2)
        assert "error[CKM201]" in shown if what == "project" else "error[CKM310]" in shown


def test_a_limit_that_is_no_number_is_told(pytester: pytest.Pytester, project: Toy) -> None:
    pytester.makeini("[pytest]\nckmigrate = true\nckmigrate_max_megabytes = few\n")
    result = run(pytester, "-k", "chain_runs")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: ckmigrate_max_megabytes = 'few': expected*"])


def test_the_repository_enables_it_for_its_example() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["pytest"]["ini_options"]["ckmigrate"] is True
    assert Path(ROOT / "conftest.py").is_file()
