"""Ctrl-C while a run goes on: the step is finished and saved, then the run ends."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Holds the first Ctrl-C back to the end of the block; a second interrupts at once.

    Where it would change more than this run, Ctrl-C is left as it is: in a program with
    a handler of its own, in a thread, and with several processes, which would not stop
    after the same step.

    Yields:
      Whether one is held back. Who finds one saves and leaves the block.

    Raises:
      KeyboardInterrupt: at the end of the block, where one was held back.
    """
    came = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        _log.warning("stopping: this step is finished and saved first; Ctrl-C again "
                     "stops at once and goes back to the last checkpoint")

    if (threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            or jax.process_count() > 1):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
