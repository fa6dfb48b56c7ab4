"""Signals that must wait until a commit is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["signals_held"]

# SIGINT first: once it is held, nothing can raise KeyboardInterrupt into the code below.
_HELD: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], object] | int | None


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP; what arrived is delivered at the end of the block.

    Handlers are exchanged instead of the mask being set: a signal for the process may reach any
    thread, and Python would still raise KeyboardInterrupt in the main one. Outside the main thread
    nothing is raised and nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous: dict[int, _Handler] = {}
    try:
        for number in _HELD:
            # None: installed by code that is not Python's, which could not be put back.
            if (handler := signal.getsignal(number)) is not None:
                previous[number] = handler
                signal.signal(number, lambda number, _: arrived.append(number))
        yield
    finally:
        for held, handler in reversed(previous.items()):
            signal.signal(held, handler)
        for held in arrived:
            _deliver(held, previous[held])


def _deliver(number: int, handler: _Handler) -> None:
    """Give a signal to the handler that it was meant for."""
    if callable(handler):
        handler(number, None)
    else:
        signal.raise_signal(number)
