"""The thread that runs the coroutines of `hdfs-native`, each with a time limit, and can be ended without a deadlock.

Threads of the library tell its answers, for which they need Python's lock, and it is not careful with that: to drop a
client is to wait for its threads with the lock held, and after a lost connection they hold a lock of the library, for
which the next question waits with Python's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextvars import Context
from typing import TypeVar, TypeVarTuple

LATE_SECONDS = 0.05
"""Far beyond what a thread of the library takes from an answer to telling it."""

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class HdfsLoop:
    """Waits for coroutines in a loop of its own, since whoever asks may be inside of one.

    :param timeout: seconds to wait for each, since the library waits for a silent server for ever.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = _Loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"hdfs-{id(self):x}", daemon=True)
        self._thread.start()
        self._closed = False
        self._gave_up = False
        """Whether an answer may come for which nobody waits any more."""
        self._closing = threading.Lock()
        """Held while something is asked, so that it is either there to be given up, or not asked any more."""

    def wait(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask, and wait for the answer.

        :raises TimeoutError: none came in time.
        :raises CancelledError: this is closed, or was meanwhile.
        :raises Exception: what the library raises.
        """
        with self._closing:
            if self._closed:
                raise CancelledError
            asked = asyncio.run_coroutine_threadsafe(self._ask(ask), self._loop)
        return asked.result()

    async def _ask(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await asyncio.wait_for(ask(), self._timeout)
        except TimeoutError:
            self._gave_up = True
            raise
        except ConnectionError:
            # nothing else is asked while the library tells this to all who wait
            time.sleep(LATE_SECONDS)  # noqa: ASYNC251
            raise

    def close(self) -> None:
        """Give up what other threads wait for, and wait until no client is in use any more."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._gave_up |= asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop.wait_for_tellers(LATE_SECONDS if self._gave_up else 0)


class _Loop(asyncio.SelectorEventLoop):
    """A loop that knows whether threads are about to tell it something."""

    def __init__(self) -> None:
        super().__init__()
        self.tellers = 0

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *arguments: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Have the loop call something."""
        self.tellers += 1
        try:
            return super().call_soon_threadsafe(callback, *arguments, context=context)
        finally:
            # from here on the thread keeps Python's lock until it is back in the library
            self.tellers -= 1

    def wait_for_tellers(self, late: float) -> None:
        """Wait until no thread is about to tell anything.

        :param late: seconds for those that have not begun.
        """
        time.sleep(late)
        while self.tellers:
            time.sleep(0.001)


async def _cancel_all() -> bool:
    """End what a thread may still wait for, as it would for ever once the loop has ended; tell whether any did."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return bool(others)
