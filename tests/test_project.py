"""Finding, reading and writing the configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.errors import UsageError
from ckmigrate.project import Project, find_project, parse_params, write_config

FULL = """\
[project]
name = "digits"

[tool.ckmigrate]
migrations = "db/steps"
model = "digits.model:build"
weights = "checkpoint.net"
wrappers = ["module", "_forward_module.model"]
carry = ["digits.config.Config"]
release-key = "hyper_parameters.version"
exempt = ["rotary.**"]
pythonpath = ["lib"]
[tool.ckmigrate.params]
heads = 8
scale = 0.5
causal = false
kind = "x"
"""


def project(root: Path, text: str, name: str = "ckmigrate.toml") -> Project:
    (root / name).write_text(text)
    return find_project(root)


def refusal(root: Path, text: str, name: str = "ckmigrate.toml") -> UsageError:
    with pytest.raises(UsageError) as caught:
        project(root, text, name)
    assert caught.value.fix
    return caught.value


def test_every_key_is_read(tmp_path: Path) -> None:
    found = project(tmp_path, FULL, "pyproject.toml")
    assert found == Project(
        root=tmp_path,
        config_path=tmp_path / "pyproject.toml",
        name="digits",
        migrations=tmp_path / "db/steps",
        models={"default": "digits.model:build"},
        weights="checkpoint.net",
        wrappers=("module", "_forward_module.model"),
        carry=("digits.config.Config",),
        release_keys=("hyper_parameters.version",),
        params={"heads": 8, "scale": 0.5, "causal": False, "kind": "x"},
        exempt=("rotary.**",),
        python_path=(tmp_path / "lib",),
    )


def test_an_empty_configuration_has_the_defaults(tmp_path: Path) -> None:
    found = project(tmp_path, "")
    assert found == Project(
        root=tmp_path,
        config_path=tmp_path / "ckmigrate.toml",
        name=tmp_path.name,
        migrations=tmp_path / "migrations",
        python_path=(tmp_path,),
    )
    assert found.wrappers == ("module", "_orig_mod")


def test_a_src_folder_is_on_the_python_path(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert project(tmp_path, "").python_path == (tmp_path, tmp_path / "src")


def test_the_name_comes_from_the_package_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "digits"\n')
    assert project(tmp_path, "").name == "digits"
    assert project(tmp_path, 'name = "own"').name == "own"


def test_the_nearest_configuration_above_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.ckmigrate]\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    (inner / "pyproject.toml").write_text("broken [ but not ours")
    assert find_project(inner).root == tmp_path
    assert find_project(inner / "file.ckpt").root == tmp_path
    (tmp_path / "a" / "ckmigrate.toml").touch()
    assert find_project(inner).root == tmp_path / "a"


def test_a_named_file_is_used_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("other.toml", 'name = "a"'), ("py.toml", '[tool.ckmigrate]\nname = "b"')):
        (tmp_path / name).write_text(text)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    found = find_project(Path("/"), config=Path("../other.toml"))
    assert (found.name, found.root) == ("a", tmp_path)
    assert find_project(tmp_path, config=tmp_path / "py.toml").name == "b"


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("gone.toml", None, "CKM207"),
        (".", None, "CKM201"),
        ("pyproject.toml", "[tool.other]", "CKM201"),
    ],
)
def test_a_named_file_that_configures_nothing_is_refused(
    tmp_path: Path, name: str, text: str | None, code: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        find_project(tmp_path, config=tmp_path / name)
    assert caught.value.code == code


def test_no_configuration_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_project(tmp_path)
    assert caught.value.code == "CKM201"
    assert "ckmigrate init" in (caught.value.fix or "")


def test_two_configurations_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ckmigrate]\n")
    assert refusal(tmp_path, "").code == "CKM240"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('migration = "x"', "CKM202", "'migrations'"),
        ('release_keys = "x"', "CKM202", "'release-key'"),
        ('python-path = ["x"]', "CKM202", "'pythonpath'"),
        ("zzz = 1", "CKM202", "migrations, model"),
        ("migrations = 3", "CKM203", "got 3"),
        ('migrations = ""', "CKM203", "migrations"),
        ('model = "digits.model"', "CKM203", "package.module:function"),
        ('model = "a-b:c"', "CKM203", "package.module:function"),
        ('models = "a:b"', "CKM203", "table"),
        ('[models]\n"../x" = "a:b"', "CKM203", "../x"),
        ('[models]\nsmall = "a"', "CKM203", "small"),
        ('model = "a:b"\nmodels = {x = "a:b"}', "CKM203", "both"),
        ('carry = "a.B"', "CKM203", "list"),
        ("carry = [1]", "CKM203", "list"),
        ('carry = [""]', "CKM203", "list"),
        ('wrappers = ["module."]', "CKM203", "dots"),
        ("release-key = [[]]", "CKM203", "release-key"),
        ("params = {x = [1]}", "CKM203", "params"),
        ("params = {x = nan}", "CKM203", "params"),
        ("params = {x = 2020-01-01}", "CKM203", "params"),
        ('release-key = "a"\nrelease_key = "b"', "CKM203", "twice"),
        ("exempt = [1]", "CKM203", "exempt"),
        ("name = 1", "CKM203", "name"),
        (f"weights = 0x{'f' * 5000}", "CKM203", "weights"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, code: str, words: str) -> None:
    error = refusal(tmp_path, text)
    assert error.code == code
    assert words in str(error)
    assert error.where == str(tmp_path / "ckmigrate.toml")


@pytest.mark.parametrize("text", ["[tool]\nckmigrate = 3", "[[tool.ckmigrate]]\nmigrations = 'a'"])
def test_a_section_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text, "pyproject.toml").code == "CKM203"


def test_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'name = "a"\nmodel = \n')
    assert error.code == "CKM207"
    assert error.where == f"{tmp_path / 'ckmigrate.toml'}, line 2"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ckmigrate.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(UsageError) as caught:
        find_project(tmp_path)
    assert caught.value.code == "CKM207"


def test_dashes_and_underscores_are_the_same(tmp_path: Path) -> None:
    assert project(tmp_path, 'release_key = ["a", "b"]').release_keys == ("a", "b")


def test_the_only_model_needs_no_name(tmp_path: Path) -> None:
    found = project(tmp_path, 'model = "a.b:c"')
    assert found.model() == found.model("default") == ("default", "a.b:c")
    only = project(tmp_path, '[models]\nsmall = "a:b"')
    assert only.model() == ("small", "a:b")


def test_several_models_must_be_chosen_from(tmp_path: Path) -> None:
    found = project(tmp_path, '[models]\nsmall = "a:b"\nlarge = "a:c.d"')
    assert found.model("large") == ("large", "a:c.d")
    for name in (None, "huge"):
        with pytest.raises(UsageError) as caught:
            found.model(name)
        assert caught.value.code == "CKM206"
        assert caught.value.details == ("small = a:b", "large = a:c.d")


def test_no_model_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        project(tmp_path, "").model()
    assert caught.value.code == "CKM205"
    assert "--no-model" in (caught.value.fix or "")


def test_a_snapshot_is_kept_beside_the_scripts(tmp_path: Path) -> None:
    expected = tmp_path / "migrations" / "schema" / "base" / "small.json"
    assert project(tmp_path, "").snapshot_path("small") == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-1_000", -1000),
        ("0x10", 16),
        ("0.5", 0.5),
        ("1e-5", 1e-5),
        ("true", True),
        ('"8"', "8"),
        ("'a = b'", "a = b"),
        ("x", "x"),
        ("", ""),
        ("True", "True"),
        ("08", "08"),
        ("a=b", "a=b"),
        ("8 # no comment", "8 # no comment"),
        ("8, other = 9", "8, other = 9"),
        ("8 }\nother = { value = 9", "8 }\nother = { value = 9"),
        ("[1, 2]", "[1, 2]"),
        ("2020-01-01", "2020-01-01"),
        ("nan", "nan"),
        ("[" * 9999, "[" * 9999),
        ("9" * 9999, "9" * 9999),
    ],
)
def test_a_parameter_is_a_toml_scalar_or_text(text: str, value: object) -> None:
    parsed = parse_params((f"name={text}",))
    assert parsed == {"name": value}
    assert type(parsed["name"]) is type(value)


@settings(deadline=None)
@given(st.text())
def test_every_value_of_a_parameter_is_kept_or_understood(text: str) -> None:
    assert set(parse_params((f"name={text}",))) == {"name"}


@pytest.mark.parametrize("texts", [("heads",), ("=8",), ("a b=1",), ("1a=1",), ("a=1", "a=2")])
def test_a_parameter_that_names_nothing_or_twice_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_params(texts)
    assert caught.value.code == "CKM204"


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"[project]\nname = 'x'",
        b"# no end\n",
        b"[a]\r\nb = 1\r\n",
        b"\xef\xbb\xbf[a]\nb = 1\n",
    ],
)
def test_a_section_is_appended_and_the_rest_left_as_it_was(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_bytes(before)
    path.chmod(0o640)
    assert write_config(tmp_path, model="a.b:c", name='q"\\é', weights="n\x7f") == path
    after = path.read_bytes()
    assert after.startswith(before)
    assert (b"\r\n" in before) == (after.count(b"\r\n") == after.count(b"\n"))
    assert path.stat().st_mode & 0o777 == 0o640
    found = find_project(tmp_path)
    assert (found.name, found.weights) == ('q"\\é', "n\x7f")
    assert found.models == {"default": "a.b:c"}


def test_a_file_is_created_where_there_is_no_pyproject(tmp_path: Path) -> None:
    path = write_config(tmp_path, migrations="steps")
    assert path == tmp_path / "ckmigrate.toml"
    assert tomllib.loads(path.read_text()) == {"migrations": "steps"}
    assert "# model = " in path.read_text()


@pytest.mark.parametrize(
    ("name", "text"), [("ckmigrate.toml", ""), ("pyproject.toml", "[tool.ckmigrate]\n")]
)
def test_a_configuration_is_never_written_twice(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        write_config(tmp_path)
    assert caught.value.code == "CKM208"
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize(
    ("before", "model", "code"),
    [
        ("tool = { x = 1 }\n", "a:b", "CKM207"),
        ("broken [\n", "a:b", "CKM207"),
        ("", "not a factory", "CKM203"),
        ("", "a:b\udc80", "CKM203"),
    ],
)
def test_what_would_not_be_read_back_is_not_written(
    tmp_path: Path, before: str, model: str, code: str
) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(before)
    with pytest.raises(UsageError) as caught:
        write_config(tmp_path, model=model)
    assert caught.value.code == code
    assert path.read_text() == before
