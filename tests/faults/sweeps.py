"""Every system call of an upgrade of a folder fails, or is the last one; what is found wrong then.

A run claims "done", "failed", that it is "in doubt" whether a power cut leaves what was done, or,
being killed, nothing. A world says what is wrong where that was claimed.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls

ATTEMPTS = range(1, 1000)
FEWEST = 20
"""No writer of a folder makes fewer calls: a sweep that ends before that has proved nothing."""


class World(Protocol):
    """A folder with a checkpoint in it, and what somebody wants done with that."""

    @property
    def folder(self) -> Path: ...

    @property
    def is_within(self) -> bool:
        """Whether this is a file system on which folders cannot change places."""

    def build(self) -> Self: ...

    def run(self) -> None: ...

    def problems(self, claim: str) -> Iterator[str]:
        """What is wrong after a run with this claim, and after the next one, which it makes."""


class Trigger:
    """Does something at the N-th call; and refuses to exchange folders where it is told to."""

    def __init__(self, number: int, action: Callable[[], object], *, within: bool) -> None:
        self.number, self.action, self.within = number, action, within
        self.calls = 0
        self.name = ""

    def __call__(self, name: str, _: tuple[object, ...]) -> None:
        self.calls += 1
        if self.calls == self.number:
            self.name = name
            self.action()
        if name == "renameat2" and self.within:
            raising(errno.EXDEV)()


def raising(number: int) -> Callable[[], None]:
    def action() -> None:
        raise OSError(number, os.strerror(number))

    return action


def undisturbed(world: World) -> Trigger:
    return Trigger(0, lambda: None, within=world.is_within)


def claim_of(world: World, trigger: Trigger | None = None) -> str:
    """What a run claims, to which this happens; the error itself where it has no explanation."""
    syscalls.before = trigger or undisturbed(world)
    try:
        world.run()
    except StorageError as error:
        return "in doubt" if error.code == "CKM758" else "failed"
    except Exception as error:  # noqa: BLE001 -- that there is one is what is reported
        return repr(error)
    finally:
        syscalls.before = None
    return "done"


def misclaimed(claim: str, found: object, *, old: object, new: object) -> Iterator[str]:
    """What is wrong with this claim where the target holds what was found."""
    if found not in (old, new):
        yield f"the target is neither old nor new: {found}"
    if claim == "done" and found != new:
        yield "success was claimed and the target is not new"
    if claim == "failed" and found != old:
        yield "failure was claimed and the target is not as before"
    if claim not in ("done", "failed", "in doubt", "killed"):
        yield f"the error has no explanation: {claim}"


def killed_at(world: World, number: int) -> bool:
    """Run in a child that is killed before its N-th call; False where it makes fewer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        end = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        syscalls.before = Trigger(number, end, within=world.is_within)
        try:
            world.run()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def sweep_kills(world_at: Callable[[int], World]) -> list[str]:
    """Kill before every call once, each time in the world of that number; every violation."""
    found: list[str] = []
    for call in ATTEMPTS:
        world = world_at(call).build()
        killed = killed_at(world, call)
        claim = "killed" if killed else "done"
        found += [f"call {call}: {problem}" for problem in world.problems(claim)]
        shutil.rmtree(world.folder)
        if not killed:
            assert call > FEWEST
            return found
    raise AssertionError("the writer never ends")


def sweep_errors(world_at: Callable[[int], World], code_at: Callable[[int], int]) -> list[str]:
    """Fail every call once with the errno of that number; every violation."""
    found: list[str] = []
    for call in ATTEMPTS:
        world = world_at(call).build()
        trigger = Trigger(call, raising(code_at(call)), within=world.is_within)
        claim = claim_of(world, trigger)
        found += [f"call {call} {trigger.name}: {p}" for p in world.problems(claim)]
        shutil.rmtree(world.folder)
        if not trigger.name:
            assert call > FEWEST
            assert claim == "done"
            return found
    raise AssertionError("the writer never ends")
