"""Which revision a file is at: by its tag, a release, its tensors, or because somebody says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ckmigrate.errors import IdentifyError
from ckmigrate.identify import Identity
from ckmigrate.migrate import Request, identify_opened, open_weights
from ckmigrate.signature import signature
from tests.projects import Script, Zoo, load, revision, schema_of, tag_of

CHAIN = (
    Script("ck.rename('net.**', 'body.**')", release="1.1"),
    Script("ck.split('body.{i}.qkv', 'body.{i}.{q,k,v}')", release="1.2"),
    Script("ck.init('scale', shape=(3,))"),
    Script("ck.drop('body.{i}.v', reason='shared')", release="1.3"),
)
KEYS = 'release-key = ["version", "hyper_parameters.release"]'


def base(layers: int = 2) -> dict[str, Tensor]:
    return {f"net.{i}.qkv": torch.randn(6, 4) for i in range(layers)}


def found(zoo: Zoo, path: Path, request: Request | None = None) -> Identity:
    request = request or Request(use_model=False)
    opened = open_weights(path, zoo.project, request)
    return identify_opened(opened, zoo.project, zoo.history, request)


def refused(zoo: Zoo, path: Path, request: Request | None = None) -> IdentifyError:
    with pytest.raises(IdentifyError) as caught:
        found(zoo, path, request)
    assert caught.value.where == str(path)
    assert "--from" in (caught.value.fix or "")
    assert caught.value.exit_code == 4
    return caught.value


def tagged(zoo: Zoo, **change: Any) -> Path:
    """An upgraded file whose tag says something else."""
    old = zoo.save(base(), "old.safetensors")
    new = zoo.upgrade(old, "tagged.safetensors")
    fields = json.loads(tag_of(new).to_json()) | change
    return zoo.save(load(new), "tagged.safetensors", metadata={"ckmigrate": json.dumps(fields)})


# --- the tag ----------------------------------------------------------------------------------


def test_the_tag_decides_whatever_else_the_file_says(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base(), config=KEYS)
    path = zoo.upgrade(zoo.save({"model": base(), "version": "0.1"}), to="2")
    assert found(zoo, path) == Identity(revision(2), "tag", tag_of(path))


def test_a_tag_at_base_is_a_tag(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    path = tagged(zoo, revision=None, name="base", history=[])
    assert found(zoo, path).revision is None
    assert found(zoo, path).is_tagged


def test_the_tag_of_another_project_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    error = refused(zoo, tagged(zoo, project="circus"))
    assert error.code == "CKM410"
    assert "circus" in error.what
    assert "zoo" in error.what


def test_an_unknown_revision_says_who_wrote_it(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    path = tagged(zoo, revision="abcdef0123", name="future", release="9.1", writer="ckmigrate 7.0")
    error = refused(zoo, path)
    assert error.code == "CKM411"
    for word in ("abcdef0123", "future", "9.1", "ckmigrate 7.0", "0004_step_4"):
        assert word in str(error), word


def test_an_unknown_revision_is_not_migrated_by_guessing(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    path = tagged(zoo, revision="abcdef0123")
    with pytest.raises(IdentifyError):
        zoo.upgrade(path, "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_tag_of_a_newer_format_names_its_writer(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    error = refused(zoo, tagged(zoo, format=2, writer="ckmigrate 3.0"))
    assert error.code == "CKM405"
    assert "ckmigrate 3.0" in error.what


@pytest.mark.parametrize(
    "change",
    [
        {"format": None},
        {"revision": 5},
        {"revision": "../../etc"},
        {"history": "none"},
        {"surprise": 1},
        {"name": "\x1b[31m"},
        {"origin": {"a.{0..99999999999}": "F32[1]"}, "format": "1"},
    ],
)
def test_a_malformed_tag_is_no_tag_and_no_guess(tmp_path: Path, change: dict[str, Any]) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    error = refused(zoo, tagged(zoo, **change))
    assert error.code == "CKM406"
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", "null", '{"format": 1, "format": 1}'])
def test_a_tag_that_is_no_tag_at_all_is_refused(tmp_path: Path, text: str) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    path = zoo.save(base(), "x.safetensors", metadata={"ckmigrate": text})
    assert refused(zoo, path).code == "CKM406"


def test_a_script_that_was_renamed_keeps_its_files(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    path = zoo.upgrade(zoo.save(base()), to="2")
    scripts = tmp_path / "migrations"
    (scripts / "0002_step_2.py").rename(scripts / "0007_another_name.py")
    assert found(zoo, path).revision == revision(2)


# --- overrides --------------------------------------------------------------------------------


def test_from_overrides_even_an_unreadable_tag(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    path = zoo.save(base(), "x.safetensors", metadata={"ckmigrate": "nonsense"})
    identity = found(zoo, path, Request(from_revision="base"))
    assert identity == Identity(None, "--from", None)
    assert not identity.is_tagged


def test_from_a_revision_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    with pytest.raises(IdentifyError, match="no revision 'nonsense'"):
        found(zoo, zoo.save(base()), Request(from_revision="nonsense"))


def test_an_overridden_tag_leaves_no_history_that_did_not_happen(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, Script("ck.init('x', shape=(1,), if_missing=True)"))
    first = zoo.upgrade(zoo.save({"a": torch.ones(1)}))
    again = zoo.upgrade(first, "again.pt", from_revision="base")
    assert len(tag_of(again).history) == 1


# --- releases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("0.9", None),
        ("1.0.post3", None),
        ("1.1", revision(1)),
        ("1.1.0", revision(1)),
        ("1.1.7+cu121", revision(1)),
        ("1.2", revision(2)),
        ("1.2.5", revision(2)),
        ("1.3", revision(4)),
        ("1!0.1", revision(4)),
        ("2.0.dev1", revision(4)),
    ],
)
@pytest.mark.parametrize("key", ["version", "hyper_parameters.release"])
def test_a_release_means_the_newest_revision_that_it_has(
    tmp_path: Path, release: str, expected: str | None, key: str
) -> None:
    zoo = Zoo(tmp_path, *CHAIN, config=KEYS)
    beside = (
        {"version": release} if key == "version" else {"hyper_parameters": {"release": release}}
    )
    identity = found(zoo, zoo.save({"model": base(), **beside}))
    assert identity.revision == expected
    assert identity.evidence == f"release {release} ({key})"
    assert not identity.is_tagged


@pytest.mark.parametrize("release", ["1.2.dev4", "1.2rc1", "1.2a0+local"])
def test_a_development_version_is_told_by_its_tensors_or_not_at_all(
    tmp_path: Path, release: str
) -> None:
    zoo = Zoo(tmp_path, *CHAIN, config=KEYS)
    before = {f"body.{i}.qkv": torch.randn(6, 4) for i in range(2)}
    after = {f"body.{i}.{n}": torch.randn(2, 4) for i in range(2) for n in "qkv"}
    paths = [
        zoo.save({"model": state, "version": release}, f"{number}.pt")
        for number, state in enumerate((before, after))
    ]
    error = refused(zoo, paths[0])
    assert error.code == "CKM413"
    assert len(error.details) == 2
    zoo.snapshot(base())
    assert [found(zoo, path).revision for path in paths] == [revision(1), revision(2)]
    assert release in found(zoo, paths[0]).evidence


@pytest.mark.parametrize("release", ["latest", "", "1.2-", None, {"major": 1}])
def test_a_release_that_is_no_version_is_refused(tmp_path: Path, release: object) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base(), config=KEYS)
    assert refused(zoo, zoo.save({"model": base(), "version": release})).code == "CKM412"


# --- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_names_and_shapes_tell_the_revision(tmp_path: Path, number: int) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    path = zoo.save(base())
    if number:
        path = zoo.save(load(zoo.upgrade(path, to=str(number))), "bare.pt")
    identity = found(zoo, path)
    assert identity.revision == (revision(number) if number else None)
    assert identity.evidence == "names and shapes of its tensors"


@pytest.mark.parametrize("layers", [1, 3, 12])
def test_another_depth_is_recognised_by_its_folded_names(tmp_path: Path, layers: int) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    path = zoo.save(load(zoo.upgrade(zoo.save(base(layers)), to="2")), "bare.pt")
    assert found(zoo, path).revision == revision(2)


def test_any_configured_size_may_tell(tmp_path: Path) -> None:
    wide = {"trunk.weight": torch.randn(3, 3)}
    script = "ck.rename('trunk.**', 'stem.**', optional=True)\nck.init('x', shape=(1,))"
    zoo = Zoo(tmp_path, script, base={"small": base(), "wide": wide})
    assert found(zoo, zoo.save({"stem.weight": torch.randn(3, 3), "x": torch.ones(1)})).revision


def test_two_revisions_that_look_alike_are_never_chosen_between(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.permute('a', (1, 0))", base={"a": torch.randn(4, 4)})
    error = refused(zoo, zoo.save({"a": torch.randn(4, 4)}))
    assert error.code == "CKM413"
    assert len(error.details) == 2
    assert "base" in error.details[0]
    assert "0001_step_1" in error.details[1]


def test_exact_shapes_decide_between_revisions_of_one_signature(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.resize('a', (8, 4))", base={"a": torch.randn(4, 4)})
    assert found(zoo, zoo.save({"a": torch.randn(8, 4)})).revision == revision(1)
    assert found(zoo, zoo.save({"a": torch.randn(4, 4)})).revision is None
    assert refused(zoo, zoo.save({"a": torch.randn(5, 4)})).code == "CKM413"


def test_what_fits_nothing_is_told_the_nearest_differences(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    state = {f"body.{i}.qkv": torch.randn(6, 4) for i in range(2)} | {"extra": torch.ones(2)}
    error = refused(zoo, zoo.save(state))
    assert error.code == "CKM414"
    assert "0001_step_1" in (error.why or "")
    assert any("extra" in line for line in error.details)


def test_without_a_snapshot_nothing_is_guessed(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN)
    error = refused(zoo, zoo.save(base()))
    assert error.code == "CKM414"
    assert "snapshot" in error.what


def test_a_file_without_a_tag_is_neither_the_oldest_nor_the_newest(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.init('x', shape=(1,), if_missing=True)")
    with pytest.raises(IdentifyError):
        zoo.prepare(zoo.save({"a": torch.ones(1)}), Request(use_model=False))


def test_half_precision_is_the_same_architecture(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, *CHAIN, base=base())
    half = {name: tensor.bfloat16() for name, tensor in base().items()}
    assert found(zoo, zoo.save(half)).revision is None
    assert signature(schema_of(half)) == signature(schema_of(base(5)))


def test_revisions_behind_a_script_that_reads_metadata_are_told_by_those_of_the_file(
    tmp_path: Path,
) -> None:
    body = "ck.reshape('a', (ck.meta['heads'], -1))"
    zoo = Zoo(tmp_path, "ck.rename('z', 'a')", body, base={"z": torch.ones(4)})
    before = zoo.save({"model": {"a": torch.ones(4)}, "heads": 2})
    assert found(zoo, before).revision == revision(1)
    assert refused(zoo, zoo.save({"a": torch.ones(2, 2)})).code == "CKM414"


def test_a_revision_that_metadata_decide_is_not_ruled_out_because_it_was_not_replayed(
    tmp_path: Path,
) -> None:
    # Names and shapes are those of the base, and the script would permute a second time.
    body = "if ck.meta['heads'] == 2: ck.permute('a', (1, 0))"
    zoo = Zoo(tmp_path, body, base={"a": torch.ones(2, 2)})
    error = refused(zoo, zoo.save({"model": {"a": torch.ones(2, 2)}, "heads": 2}))
    assert error.code == "CKM413"
    assert error.details == ("base", zoo.history.label(revision(1)))


def test_a_file_whose_metadata_were_renamed_may_be_behind_the_script_that_did_it(
    tmp_path: Path,
) -> None:
    body = "ck.meta.get('heads')\nck.meta.rename('heads', 'n')\nck.transpose('a', 0, 1)"
    zoo = Zoo(tmp_path, body, "ck.rename('a', 'b')", base={"a": torch.ones(2, 2)})
    error = refused(zoo, zoo.save({"model": {"a": torch.ones(2, 2)}, "n": 2}))
    assert error.code == "CKM413"
    assert error.details[:2] == ("base", zoo.history.label(revision(1)))
