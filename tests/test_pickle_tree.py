"""The pickle machine: what pickle itself writes comes out as data, and nothing else comes out."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import decimal
import fractions
import pathlib
import pickle
import pickletools
import struct
import types
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.errors import StorageError
from ckmigrate.formats.pickle_tree import MAX_DEPTH, Truncated, load_prefix, loads
from ckmigrate.formats.tree import Global, Object, Storage
from ckmigrate.spec import DType
from tests.torch_files import differences, no_storage, torch_pickle
from tests.torch_files import read_pickle as read
from tests.torch_files import refused_pickle as refused
from tests.torch_files import write_pickle as write

PROTOCOLS = [2, 3, 4, 5]
HERE = f"{__name__}.*"


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**1500), 2**1500)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
)
keys = st.text() | st.integers(-(2**60), 2**60) | st.booleans() | st.binary()
values = st.recursive(
    scalars | st.sets(keys) | st.frozensets(st.text()),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values, st.sampled_from([0, 1, *PROTOCOLS]))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    tree = read(pickle.dumps(value, protocol))
    assert (tree, repr(type(tree))) == (value, repr(type(value)))


@given(values)
def test_what_is_written_is_read_by_pickle_and_by_us(value: object) -> None:
    data = write(value)
    assert pickle.loads(data) == value
    assert differences(read(data), value) == []


@given(values)
def test_floats_keep_their_bits_and_trees_their_bytes(value: object) -> None:
    tree = read(write(value))
    assert write(tree) == write(value)
    payload = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]
    assert b"\xff\xf8\x00\x00\x00\x00\x01\x23" in write([payload])


PLAIN: dict[str, object] = {
    "OrderedDict": collections.OrderedDict(a=1, b=[2]),
    "defaultdict": collections.defaultdict(list, {1: [2]}),
    "Counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], maxlen=3),
    "Namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "path": pathlib.PurePosixPath("a/b"),
    "real path": pathlib.Path("a/b"),
    "datetime": dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
    "timedelta": dt.timedelta(days=1, seconds=3),
    "Decimal": decimal.Decimal("1.50"),
    "Fraction": fractions.Fraction(1, 3),
    "UUID": uuid.UUID(int=7),
    "slice and range": [slice(1, None, 2), range(3)],
    "Ellipsis": [..., NotImplemented],
    "types": [int, float, str, list, dict],
    "numpy scalar": np.float32(1.5),
    "numpy bool": np.bool_(True),
    "numpy dtype": np.dtype("int16"),
    "torch.Size": torch.Size([1, 2]),
    "torch.device": torch.device("cuda", 3),
    "torch.dtype": [torch.float32, torch.uint16, torch.float8_e4m3fn, torch.complex32],
    "layout": [torch.strided, torch.sparse_coo],
    "bytes": [b"", b"\x00\xff", bytearray(b"ab")],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_classes_come_back_through_the_tree(name: str, protocol: int) -> None:
    tree = read(pickle.dumps(PLAIN[name], protocol))
    back = pickle.loads(write(tree))
    assert back == PLAIN[name]
    assert type(back) is type(PLAIN[name])
    assert differences(read(write(tree)), tree) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_arrays_and_generators_come_back(protocol: int) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    for value in (array, np.asfortranarray(array), np.array(["a", None], dtype=object)):
        back = pickle.loads(write(read(pickle.dumps(value, protocol))))
        assert np.array_equal(back, value)
        assert back.dtype == value.dtype
    generator = np.random.default_rng(3)
    again = pickle.loads(write(read(pickle.dumps(generator, protocol))))
    assert again.random() == generator.random()


def test_older_numpy_names_pass() -> None:
    data = pickle.dumps(np.float64(2.0), 2).replace(b"numpy._core.", b"numpy.core.")
    assert isinstance(read(data), Object)


def test_names_of_python_2_are_read_as_those_of_python_3() -> None:
    data = b"\x80\x02c__builtin__\nset\n]K\x01a\x85R."
    assert read(data) == {1}
    assert read(b"\x80\x02c__builtin__\nlong\n.") == Global("builtins", "int")
    pairs = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R."
    tree = read(pairs)
    assert isinstance(tree, Object)
    assert (tree.args, tree.entries) == ((), {"a": 1})
    assert read(b"\x80\x02U\x02\xff\xfe.") == b"\xff\xfe"


# --- sharing ----------------------------------------------------------------------------------


def test_shared_nodes_stay_shared() -> None:
    inner: list[object] = [1]
    shared_tuple = (inner, 2)
    value = {"a": inner, "b": [shared_tuple, shared_tuple], "c": inner}
    back = pickle.loads(write(read(pickle.dumps(value))))
    assert back["a"] is back["c"] is back["b"][0][0]
    assert back["b"][0] is back["b"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_in_themselves_come_back(protocol: int) -> None:
    knot: list[Any] = []
    knot.append((knot,))
    knot.append({"knot": knot})
    namespace = argparse.Namespace()
    namespace.me = [namespace]
    back = pickle.loads(write(read(pickle.dumps([knot, namespace], protocol))))
    assert back[0][0][0] is back[0]
    assert back[0][1]["knot"] is back[0]
    assert back[1].me[0] is back[1]
    pair: Any = (1, argparse.Namespace())
    pair[1].pair = pair
    back = pickle.loads(write(read(pickle.dumps(pair, protocol))))
    assert back[1].pair is back
    tree = read(pickle.dumps(knot, protocol))
    assert differences(read(write(tree)), tree) == []


class Ring:
    def __init__(self, members: list[object]) -> None:
        self.members = members

    def __reduce__(self) -> tuple[type[Ring], tuple[list[object]]]:
        return Ring, (self.members,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_object_in_its_own_arguments_comes_back(protocol: int) -> None:
    members: list[Any] = []
    members.append(Ring(members))
    back = pickle.loads(write(read(pickle.dumps(members[0], protocol), HERE)))
    assert back.members[0] is back


def test_an_object_that_is_its_own_argument_cannot_be_written() -> None:
    knot = Object(Global("collections", "deque"))
    knot.args = (knot,)
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write(knot)
    assert caught.value.code == "CKM718"


def test_sets_are_written_in_one_order() -> None:
    paths = [Object(Global("pathlib", "PurePosixPath"), (f"p{i}",)) for i in range(20)]
    names = [f"n{i}" for i in range(50)]
    one = {*names, *paths, (1, "a"), frozenset(names)}
    two = {frozenset(reversed(names)), *reversed(paths), (1, "a"), *reversed(names)}
    assert write(one) == write(two)
    assert len(pickle.loads(write(one))) == 72


# --- what is malformed ------------------------------------------------------------------------

TENSOR_CALL = b"ctorch._utils\n_rebuild_tensor_v2\n"
MALFORMED = {
    "empty": b"",
    "no stop": b"\x80\x02}",
    "underflow": b"\x80\x02R.",
    "stop on nothing": b"\x80\x02.",
    "left over": b"\x80\x02}}.",
    "open mark": b"\x80\x02(}.",
    "mark missing": b"\x80\x02t.",
    "trailing": b"\x80\x02}.x",
    "protocol 6": b"\x80\x06}.",
    "no such opcode": b"\x80\x02\xff.",
    "next buffer": b"\x80\x05\x97.",
    "inst": b"(ios\nsystem\n.",
    "ext": b"\x80\x02\x82\x01.",
    "memo hole": b"\x80\x02h\x05.",
    "8 GiB of text": b"\x80\x04\x8d" + (8 << 30).to_bytes(8, "little") + b"abc.",
    "8 GiB of bytes": b"\x80\x04\x8e" + (8 << 30).to_bytes(8, "little") + b"abc.",
    "8 GiB of bytearray": b"\x80\x05\x96" + (8 << 30).to_bytes(8, "little") + b"abc.",
    "2 GiB of number": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "negative length": b"\x80\x02\x8b\xff\xff\xff\xffabc.",
    "huge number": b"\x80\x02\x8b\x01\x08\x00\x00" + b"\x7f" * 2049 + b".",
    "long frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "list as key": b"\x80\x02}]K\x01s.",
    "dict in key": b"\x80\x02}}\x85K\x01s.",
    "set in set": b"\x80\x04\x8f(\x8f\x90.",
    "huge key": b"\x80\x02}\x8a\x10" + b"\x7f" * 16 + b"Ns.",
    "key without value": b"\x80\x02}(K\x01u.",
    "append to dict": b"\x80\x02}K\x01a.",
    "set on list": b"\x80\x02]K\x01K\x02s.",
    "add to list": b"\x80\x04](K\x01\x90.",
    "state of a dict": b"\x80\x02}}b.",
    "two states": b"\x80\x02cargparse\nNamespace\n)\x81}b}b.",
    "append after state": b"\x80\x02ccollections\ndeque\n)R}bK\x01a.",
    "call of a dict": b"\x80\x02})R.",
    "call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "call without tuple": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "new without class": b"\x80\x02])\x81.",
    "new of a function": b"\x80\x02c_codecs\nencode\n)\x81.",
    "keywords of numbers": b"\x80\x04cargparse\nNamespace\n)}K\x01K\x02s\x92.",
    "bytes above 255": b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xac"
    b"X\x06\x00\x00\x00latin1\x86R.",
    "other encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "bytes of a size": b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "bytearray of a size": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "set of a text": b"\x80\x02cbuiltins\nset\nX\x01\x00\x00\x00a\x85R.",
    "complex of text": b"\x80\x02cbuiltins\ncomplex\nX\x01\x00\x00\x001N\x86R.",
    "complex too large": b"\x80\x02cbuiltins\ncomplex\n\x8a\xc8" + b"\x7f" * 200 + b"K\x00\x86R.",
    "not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "name not UTF-8": b"\x80\x02c\xff\nx\n.",
    "name of numbers": b"\x80\x04K\x01K\x02\x93.",
    "line without end": b"\x80\x02c" + b"a" * 5000 + b"\nb\n.",
    "text of a number": b"I" + b"9" * 3000 + b"\n.",
    "bad escape": b"V\\u12\n.",
    "word as number": b"Ix\n.",
    "word as float": b"F1_0\n.",
    "odd ordered dict": b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.",
    "tensor of nothing": b"\x80\x02" + TENSOR_CALL + b"(NK\x00))\x89NtR.",
    "tensor of three": b"\x80\x02" + TENSOR_CALL + b"NNN\x87R.",
    "bad persistent id": b"\x80\x02K\x01Q.",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_pickles_are_told_with_their_place(name: str) -> None:
    assert refused(MALFORMED[name]).code == "CKM710"


def test_deep_trees_are_refused_without_recursion() -> None:
    for opcode in (b"\x85", b"]"):
        deep = b"\x80\x02" + (b")" + b"\x85" * 500_000 if opcode == b"\x85" else b"]" * 500_000)
        tail = b"." if opcode == b"\x85" else b"a" * 499_999 + b"."
        assert "deeper" in refused(deep + tail).what
    fits = b"\x80\x02" + b"]" * MAX_DEPTH + b"a" * (MAX_DEPTH - 1) + b"."
    assert read(write(read(fits)))
    assert "deeper" in refused(b"\x80\x02" + b"]" + fits[2:-1] + b"a.").what


def test_a_deep_key_is_refused_before_it_is_hashed() -> None:
    data = b"\x80\x02})" + b"\x85" * 500_000 + b"Ns."
    assert refused(data).code == "CKM710"
    doubling = b"\x80\x02})" + b"".join(b"q%c\x85h%c\x86" % (i, i) for i in range(60)) + b"Ns."
    assert refused(doubling).code == "CKM710"


def test_a_bomb_of_shared_lists_is_refused() -> None:
    bomb = b"\x80\x02]q\x00"
    for level in range(60):
        bomb += b"0](h%ch%ceq%c" % (level, level, level + 1)
    assert "over and over" in refused(bomb + b".").what


def test_copying_one_list_into_many_sets_is_refused() -> None:
    data = b"\x80\x02](" + b"".join(b"M" + struct.pack("<H", i) for i in range(60_000)) + b"e"
    data += b"q\x000" + b"cbuiltins\nset\nq\x010]" + b"h\x01h\x00\x85Ra" * 2000 + b"."
    assert "copies the same" in refused(data).what


def test_a_prefix_tells_where_it_ends_and_when_it_is_cut() -> None:
    data = pickle.dumps([1, "a"], 2) + pickle.dumps({}, 2)
    value, end = load_prefix(data, 0, persistent=no_storage)
    assert value == [1, "a"]
    assert load_prefix(data, end, persistent=no_storage) == ({}, len(data))
    for length in range(end):
        with pytest.raises(Truncated):
            load_prefix(data[:length], 0, persistent=no_storage)


# --- fuzzing ----------------------------------------------------------------------------------


def storages(claim: object) -> object:
    return Storage("0", DType.F32, 64) if isinstance(claim, tuple) else None


SEEDS = [
    *(pickle.dumps(list(PLAIN.values()), protocol) for protocol in PROTOCOLS),
    *(
        torch_pickle(
            {
                "w": torch.nn.Parameter(torch.ones(4, 4)),
                "v": torch.zeros(4, dtype=torch.uint16),
                "c": torch.ones(2, dtype=torch.complex64).conj(),
                "s": torch.nn.Linear(2, 2).state_dict(),
                "knot": {1, frozenset("ab")},
            },
            protocol,
        )
        for protocol in (2, 4)
    ),
]
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(
            st.integers(0, 5000),
            st.integers(0, 3),
            st.sampled_from(OPCODES) | st.binary(max_size=4),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_mutations_give_a_tree_or_an_error_of_ours(
    seed: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    data = bytearray(seed)
    for position, length, part in edits:
        position %= len(data) + 1
        data[position : position + length] = part
    try:
        tree = loads(bytes(data), persistent=storages, carry=["a.*"])
    except StorageError:
        return
    assert differences(loads(write(tree), persistent=storages, carry=["a.*"]), tree) == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(OPCODES) | st.binary(max_size=3), max_size=60))
def test_random_opcodes_give_a_tree_or_an_error_of_ours(parts: list[bytes]) -> None:
    data = b"\x80\x04" + b"".join(parts) + b"."
    with contextlib.suppress(StorageError):
        loads(data, persistent=storages)


def test_a_tree_with_something_else_in_it_cannot_be_written() -> None:
    with pytest.raises(StorageError) as caught:
        write({"a": object()})
    assert caught.value.code == "CKM718"
