"""Torch distributed checkpoints: saved by torch in one process, by several ranks, or put together
from chunks by hand as its FileSystemWriter would.

save(path, {"model": state, "step": 3})
handmade(path, {"w": rows(tensor, 3, 4), "v": grid(other, (2, 5), (1, 3)), "b": whole(bias)})
ranks(folder, 2, "…code that sees `rank`, `world`, `dcp`, `dist`, `torch`…")
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.cli_project import ROOT

__all__ = [
    "grid",
    "handmade",
    "load",
    "metadata_of",
    "ranks",
    "rewrite",
    "rows",
    "save",
    "save_item",
    "whole",
]

Box = tuple[tuple[int, ...], tuple[int, ...]]
Chunked = tuple[Tensor, Sequence[Box]]


def rows(tensor: Tensor, *counts: int) -> Chunked:
    """The tensor in chunks of so many rows."""
    starts = [sum(counts[:number]) for number in range(len(counts))]
    rest = tuple(tensor.shape[1:])
    zeros = (0,) * len(rest)
    boxes = [((s, *zeros), (n, *rest)) for s, n in zip(starts, counts, strict=True)]
    return tensor, boxes


def whole(tensor: Tensor) -> Chunked:
    """The tensor as one chunk."""
    return tensor, [((0,) * tensor.ndim, tuple(tensor.shape))]


def grid(tensor: Tensor, *cuts: Sequence[int]) -> Chunked:
    """The tensor cut in every dimension: grid(t, (2, 5), (1, 3)) is 2 x 2 chunks of a 7 x 4."""
    boxes: list[Box] = [((), ())]
    for sizes in cuts:
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        boxes = [
            ((*o, start), (*n, size))
            for o, n in boxes
            for start, size in zip(starts, sizes, strict=True)
        ]
    return tensor, boxes


def save(path: Path, state: Mapping[str, Any]) -> Path:
    """`torch.distributed.checkpoint.save` in this process."""
    from torch.distributed.checkpoint import state_dict_saver

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_saver.save(dict(state), checkpoint_id=path, no_dist=True)
    return path


def load(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """`torch.distributed.checkpoint.load` into a copy of `state`, which must be there entirely."""
    from torch.distributed.checkpoint import state_dict_loader

    wanted = dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_loader.load(wanted, checkpoint_id=path, no_dist=True)
    return wanted


def metadata_of(path: Path) -> Any:
    """The .metadata as torch reads it."""
    return pickle.loads((path / ".metadata").read_bytes())


def rewrite(path: Path, change: Callable[[Any], object]) -> Path:
    """The folder with another .metadata."""
    found = metadata_of(path)
    change(found)
    (path / ".metadata").write_bytes(pickle.dumps(found))
    return path


def save_item(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def handmade(
    path: Path,
    tensors: Mapping[str, Chunked],
    *,
    objects: Mapping[str, object] | None = None,
    paths: Mapping[str, tuple[str | int, ...]] | None = None,
    files: int = 2,
    value: Callable[[Tensor], object] = lambda chunk: chunk.clone(),
) -> Path:
    """A folder with these chunks of these tensors, dealt to files in turn.

    value  what is saved of a chunk
    """
    from torch.distributed.checkpoint import metadata as names
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    path.mkdir(parents=True)
    data = [b"" for _ in range(files)]
    described: dict[str, Any] = {}
    stored: dict[Any, Any] = {}

    def put(index: Any, raw: bytes) -> None:
        number = len(stored) % files
        stored[index] = _StorageInfo(f"__{number}_0.distcp", len(data[number]), len(raw))
        data[number] += raw

    for name, (tensor, boxes) in tensors.items():
        chunks = [names.ChunkStorageMetadata(torch.Size(o), torch.Size(n)) for o, n in boxes]
        properties = names.TensorProperties.create_from_tensor(tensor)
        described[name] = names.TensorStorageMetadata(properties, tensor.size(), chunks)
        for number, (offsets, sizes) in enumerate(boxes):
            part = tensor[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
            put(names.MetadataIndex(name, torch.Size(offsets), number), save_item(value(part)))
    for name, item in (objects or {}).items():
        described[name] = names.BytesStorageMetadata()
        put(names.MetadataIndex(name), save_item(item))
    plan = {name: (name,) for name in described} if paths is None else dict(paths)
    for number, raw in enumerate(data):
        (path / f"__{number}_0.distcp").write_bytes(raw)
    found = names.Metadata(described, plan, stored, names.StorageMeta(path), "1.0.0")
    (path / ".metadata").write_bytes(pickle.dumps(found))
    return path


_RANK = """
import os, sys, traceback, torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
rank, world = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(1)
try:
    dist.init_process_group("gloo", f"file://{sys.argv[3]}", rank=rank, world_size=world)
    exec(compile(open(sys.argv[4]).read(), sys.argv[4], "exec"))
except BaseException:
    traceback.print_exc()
    os._exit(1)
os._exit(0)
"""
"""A rank, which ends without finalizing the interpreter.

FSDP's modules keep the process group alive past `destroy_process_group`, and with it gloo's worker
threads. A worker lets go of the tensors of a collective after the collective counts as done; where
the interpreter is being finalized by then, taking the lock to release them aborts the process:
"terminate called without an active exception".
"""

_LIMIT = 120
"""Seconds for all ranks together."""


def ranks(folder: Path, world: int, code: str, *, path: Iterable[Path] = ()) -> None:
    """Run the code under several ranks with gloo, each a process; `path` is importable there."""
    script, store = folder / "ranks.py", folder / "ranks.store"
    script.write_text(textwrap.dedent(code))
    store.unlink(missing_ok=True)
    environment = {"PYTHONPATH": ":".join(map(str, [*path, ROOT])), "GLOO_SOCKET_IFNAME": "lo"}
    said = [folder / f"rank{rank}.log" for rank in range(world)]
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for rank, log in enumerate(said):
            arguments = [str(rank), str(world), str(store), str(script)]
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", _RANK, *arguments],
                cwd=folder,
                env=environment,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        ended = _ended(started)
    logs = [f"exit code {end}\n{log.read_text()}" for end, log in zip(ended, said, strict=True)]
    assert ended == [0] * world, "\n".join(f"rank {n}: {log}" for n, log in enumerate(logs))


def _ended(started: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """The exit code of each, None where it still runs at the limit."""
    limit = time.monotonic() + _LIMIT
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, limit - time.monotonic()))
    return [process.poll() for process in started]
