"""Several changes at once, as a refactor makes them: what a careful colleague would write."""

from __future__ import annotations

from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.replay import replay
from ckmigrate.expr import sources
from tests.autogenerate.schemas import calls, left, linear, snapshot


def _blocks(prefix: str, norms: list[str], linears: dict[str, int]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for index in range(12):
        for norm in norms:
            found |= {f"{prefix}.{index}.{norm}.{leaf}": (8,) for leaf in ("weight", "bias")}
        for name, out in linears.items():
            found |= linear(f"{prefix}.{index}.{name}", out, 8)
    return found


OLD = snapshot(
    linear("stem", 8, 4) | _blocks("blocks", ["norm"], {"qkv": 24, "out": 8}) | linear("fc", 10, 8)
)
NEW = snapshot(
    linear("stem", 8, 4)
    | _blocks("encoder.blocks", ["ln", "scale"], {"q": 8, "k": 8, "v": 8, "out": 8})
    | linear("head", 12, 8)
)
TEXTS = dict.fromkeys(NEW.schema, "init.ones()")


def test_each_change_is_one_call() -> None:
    found = draft(OLD, NEW, initialisers=TEXTS)
    assert calls(found, "certain") == ['ck.rename("blocks.**", "encoder.blocks.**")']
    assert calls(found, "guess", "ambiguous") == [
        'ck.split("encoder.blocks.{i}.qkv.{p}", "encoder.blocks.{i}.{q,k,v}.{p}", dim=0)',
        'ck.rename("encoder.blocks.{i}.norm.{p}", "encoder.blocks.{i}.ln.{p}")',
        'ck.rename("fc.{p}", "head.{p}")',
        'ck.resize("head.weight", (12, 8))',
        'ck.resize("head.bias", (12,))',
        *(
            f'for i in range(12):\n    ck.init(f"encoder.blocks.{{i}}.scale.{leaf}", shape=(8,), '
            "value=init.ones())"
            for leaf in ("weight", "bias")
        ),
    ]


def test_a_norm_beside_a_new_one_is_asked() -> None:
    norm = next(p for p in draft(OLD, NEW).proposals if ".norm." in p.call)
    assert norm.certainty == "ambiguous"
    assert [other.call for other in norm.alternatives] == [
        'ck.rename("encoder.blocks.{i}.norm.{p}", "encoder.blocks.{i}.scale.{p}")'
    ]


def test_everything_accepted_reaches_the_model_from_the_expected_origins() -> None:
    found = draft(OLD, NEW, initialisers=TEXTS)
    assert not left(found, OLD, NEW)
    origins = {n: sources(e) for n, e in replay(calls(found), OLD).entries.items()}
    for index in range(12):
        old, new = f"blocks.{index}", f"encoder.blocks.{index}"
        for part in "qkv":
            assert origins[f"{new}.{part}.weight"] == (f"{old}.qkv.weight",)
        assert origins[f"{new}.ln.bias"] == (f"{old}.norm.bias",)
        assert origins[f"{new}.out.weight"] == (f"{old}.out.weight",)
        assert origins[f"{new}.scale.weight"] == ()
    assert origins["head.weight"] == ("fc.weight",)
    assert origins["stem.bias"] == ("stem.bias",)
