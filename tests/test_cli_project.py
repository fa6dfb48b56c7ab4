"""init, revision, check: a project from nothing to a passing check."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli_project import IDS, MODEL, Toy, make_toy, safetensors


def _empty(root: Path) -> Toy:
    root.mkdir()
    (root / ".run").mkdir(mode=0o700)
    (root / "toy_model.py").write_text(MODEL)
    return Toy(root)


def test_init_sets_up_a_project_that_checks(tmp_path: Path) -> None:
    toy = _empty(tmp_path / "new")
    (toy.root / "pyproject.toml").write_text('[project]\nname = "thing"\n')
    ran = toy.run("init", "--model", "toy_model:build")
    assert (ran.code, ran.err) == (0, "")
    assert "next:" in ran.out
    assert "[tool.ckmigrate]" in (toy.root / "pyproject.toml").read_text()
    snapshot = (toy.root / "migrations" / "schema" / "base" / "default.json").read_text()
    assert '"encoder.layers.{0,1}.q.weight": "F32[4,4]"' in snapshot
    check = toy.run("check")
    assert check.code == 0
    assert check.out.startswith("ok: 0 migrations; head base")
    assert "fits model 'default' (toy_model:build)" in check.out


def test_init_takes_the_snapshot_from_a_checkpoint(tmp_path: Path) -> None:
    toy = _empty(tmp_path / "new")
    path = toy.checkpoint()
    found = toy.run("init", "--from-checkpoint", path, "--name", "thing", "--json").json
    assert found["project"] == "thing"
    assert toy.run("current", path).out.startswith(f"{path}: base — by names and shapes")


def test_init_of_a_bad_checkpoint_writes_nothing(tmp_path: Path) -> None:
    toy = _empty(tmp_path / "new")
    before = toy.files()
    assert toy.run("init", "--from-checkpoint", "none.pt").code == 7
    assert toy.run("init", "--model", "toy_model:nothing").code == 2
    assert toy.files() == before
    assert not (toy.root / "migrations").exists()


def test_init_refuses_a_second_time(toy: Toy) -> None:
    before = toy.files()
    ran = toy.run("init", "--model", "toy_model:build")
    assert (ran.code, "error[CKM208]" in ran.err) == (2, True)
    again = toy.run("init", "--from-checkpoint", toy.checkpoint())
    assert (again.code, "error[CKM208]" in again.err) == (2, True)
    (toy.root / "old.safetensors").unlink()
    assert toy.files() == before


def test_init_adds_the_snapshot_of_a_further_size(toy: Toy) -> None:
    path = toy.checkpoint("big.safetensors", **{"head.weight": (30, 4), "head.bias": (30,)})
    ran = toy.run("init", "--from-checkpoint", path, "--model-name", "big")
    assert (ran.code, ran.err) == (0, "")
    assert (toy.root / "migrations" / "schema" / "base" / "big.json").exists()
    assert "compared    the snapshot 'big'" in toy.run("plan", path).out


def test_init_gives_the_model_the_name_of_its_snapshot(tmp_path: Path) -> None:
    toy = _empty(tmp_path / "new")
    assert toy.run("init", "--model", "toy_model:build", "--model-name", "small").code == 0
    assert "fits model 'small'" in toy.run("check").out
    (toy.root / "toy_model.py").write_text(MODEL.replace("self.scale", "self.gain"))
    ran = toy.run("check")
    assert (ran.code, "missing     gain [3]" in ran.out) == (1, True)


def test_init_with_several_models_asks_which(toy: Toy) -> None:
    config = toy.root / "ckmigrate.toml"
    models = '{ small = "toy_model:build", large = "toy_model:build" }'
    config.write_text(f'name = "toy"\nmodels = {models}\n')
    path = toy.checkpoint()
    before = toy.files()
    ran = toy.run("init", "--from-checkpoint", path)
    assert (ran.code, "--model-name small or --model-name large" in ran.err) == (2, True)
    assert toy.files() == before
    assert toy.run("init", "--from-checkpoint", path, "--model-name", "large").err == ""
    odd = toy.run("init", "--from-checkpoint", path, "--model-name", "smal")
    assert "no model 'smal' is configured" in odd.out
    assert "model 'large'" in toy.run("plan", path, "--with-model").out
    assert toy.run("init", "--from-checkpoint", path, "--model-name", "small").code == 0
    assert "--model small or --model large" in toy.run("plan", path, "--with-model").err


def test_init_reads_a_further_model_itself_before_the_first_script(tmp_path: Path) -> None:
    toy = _empty(tmp_path / "new")
    toy.run("init", "--model", "toy_model:build", "--model-name", "small")
    config = toy.root / "ckmigrate.toml"
    text = config.read_text().replace(" }", ', large = "toy_model:build" }')
    config.write_text(text)
    assert toy.run("init", "--model-name", "large").code == 0
    assert "'large' (toy_model:build)" in toy.run("check").out
    toy.run("revision", "-m", "x")
    (toy.root / "migrations" / "schema" / "base" / "large.json").unlink()
    assert "error[CKM208]" in toy.run("init", "--model-name", "large").err


def test_check_fails_where_it_would_compare_nothing(toy: Toy) -> None:
    base = toy.root / "migrations" / "schema" / "base"
    (base / "default.json").rename(base / "small.json")
    ran = toy.run("check")
    assert ran.code == 1
    assert "problem: model 'default' has no base snapshot" in ran.out
    assert "name of its snapshot (small) in `models`" in ran.out


def test_check_only_warns_of_a_further_model_without_a_snapshot(toy: Toy) -> None:
    models = '{ default = "toy_model:build", xl = "toy_model:build" }'
    (toy.root / "ckmigrate.toml").write_text(f'name = "toy"\nmodels = {models}\n')
    ran = toy.run("check")
    assert (ran.code, "warning: model 'xl' has no base snapshot" in ran.out) == (0, True)


def test_check_reports_a_script_that_cannot_be_imported_once(toy: Toy) -> None:
    script = toy.script(4, "live", "", revision="d4d4d4d4d4")
    script.write_text(script.read_text().replace("from ckm", "import no_such_module\nfrom ckm"))
    ran = toy.run("check", "--no-model")
    assert (ran.code, ran.out.count("while it was imported")) == (1, 1)
    assert "No module named 'no_such_module'" in ran.out


def test_init_refuses_a_checkpoint_that_is_not_at_the_base(toy: Toy) -> None:
    new = toy.root / "new.safetensors"
    toy.run("upgrade", toy.checkpoint(), "-o", new, "--no-model")
    ran = toy.run("init", "--from-checkpoint", new, "--model-name", "x")
    assert (ran.code, "error[CKM237]" in ran.err) == (2, True)


def test_revision_adds_a_script_that_refuses_to_run(toy: Toy) -> None:
    ran = toy.run("revision", "-m", "Widen the head", "--release", "2.0")
    assert ran.code == 0
    assert ran.out.startswith("wrote migrations/0004_widen_the_head.py: revision ")
    text = (toy.root / "migrations" / "0004_widen_the_head.py").read_text()
    assert f'revises = "{IDS[2]}"' in text
    assert 'release = "2.0"' in text
    plan = toy.run("plan", toy.checkpoint())
    assert (plan.code, "error[CKM528]" in plan.err) == (5, True)
    check = toy.run("check", "--no-model")
    assert check.code == 1
    assert "0004_widen_the_head.py is not finished" in check.out
    assert check.out.rstrip().endswith("failed: 1 problem")


def test_revision_on_a_fork_asks_which_and_merges(toy: Toy) -> None:
    toy.script(4, "left", "", revision="d4d4d4d4d4", revises=IDS[1])
    ran = toy.run("revision", "-m", "Go on")
    assert (ran.code, "error[CKM316]" in ran.err) == (3, True)
    merge = toy.run("revision", "-m", "Join", "--revises", IDS[2], "--revises", "left", "--json")
    assert merge.code == 0
    assert merge.json["revises"] == [IDS[2], "d4d4d4d4d4"]
    assert toy.run("heads").out.count("\n") == 1
    assert toy.run("check", "--no-model").code == 0


def test_revision_needs_a_message(toy: Toy) -> None:
    assert toy.run("revision", "-m", " ").code == 2
    assert toy.run("revision").code == 2
    assert len(list((toy.root / "migrations").glob("*.py"))) == 3


def test_check_without_torch_leads_the_snapshot_through_the_scripts(toy: Toy) -> None:
    toy.run("lock")
    ran = toy.run("check", "--no-model")
    assert (ran.code, ran.err) == (0, "")
    assert re.match(r"ok: 3 migrations; head c3c3c3c3c3 .*led from the base: default", ran.out)


def test_check_names_a_script_that_fails_on_the_snapshot(toy: Toy) -> None:
    toy.script(4, "bad", '    ck.drop("nothing.**", reason="x")\n', revision="d4d4d4d4d4")
    ran = toy.run("check", "--no-model", "--json")
    assert ran.code == 1
    finding, _ = ran.json["findings"]  # and that there is no lock
    assert finding["kind"] == "problem"
    assert "0004_bad.py" in finding["what"]


def test_check_warns_of_scripts_that_need_live_code(toy: Toy) -> None:
    script = toy.script(4, "live", "", revision="d4d4d4d4d4")
    script.write_text(script.read_text().replace("from ckm", "import toy_model\nfrom ckm"))
    (toy.root / "toy_model.py").write_text("")
    ran = toy.run("check", "--no-model", "--json")
    kinds = [finding["kind"] for finding in ran.json["findings"]]
    assert "warning" in kinds


def test_check_without_a_snapshot_says_how_to_make_one(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", snapshot=False)
    ran = toy.run("check", "--no-model")
    assert ran.code == 1
    assert "ckmigrate init --from-checkpoint" in ran.out
    (toy.root / "odd.safetensors").write_bytes(safetensors({"a": (1,)}))
    assert toy.run("current", "odd.safetensors").code == 4


def test_check_without_a_model_is_a_usage_error(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (toy.root / "ckmigrate.toml").write_text('name = "toy"\n')
    ran = toy.run("check")
    assert (ran.code, ran.out) == (2, "")
    assert "--no-model" in ran.err


def test_init_leads_on_to_a_draft_where_there_is_a_model(tmp_path: Path) -> None:
    with_model, without = _empty(tmp_path / "a"), _empty(tmp_path / "b")
    ran = with_model.run("init", "--model", "toy_model:build")
    assert "  ckmigrate revision --autogenerate -m " in ran.out
    without.checkpoint()
    ran = without.run("init", "--from-checkpoint", "old.safetensors")
    assert (ran.code, "--autogenerate" in ran.out) == (0, False)
    assert "  ckmigrate revision -m " in ran.out


def test_init_names_its_own_option_where_the_model_is_wrong(tmp_path: Path) -> None:
    ran = _empty(tmp_path / "a").run("init", "--model", "toy_modle:build")
    assert (ran.code, "error[CKM211]" in ran.err) == (2, True)
    assert "at: --model toy_modle:build" in ran.err
    assert "fix: correct --model, " in ran.err
    assert "[tool.ckmigrate]" not in ran.err
