"""Ctrl-C and SIGTERM: finish the step, save, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from stages.distributed import launched
from stages.say import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether somebody asked the run to stop.

    Under torchrun one Ctrl-C is two signals, the terminal's and its own: then all of them ask.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """From now on the first signal only asks; the second one has its usual effect."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def remove(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if launched():
            self.asked = True
            return
        self.asked = True
        self.remove()
        say("stopping after this step; once more to stop at once, without saving")


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Signals ask politely within the context."""
    interrupt = Interrupt()
    interrupt.install()
    try:
        yield interrupt
    finally:
        interrupt.remove()
