"""Threads that ask the stores for all triggers of a process: a few for each connection, so that none delays another.

The threads that asyncio has for everybody would all wait for the first store that is silent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from airflow_serving_reload.connections import StoreOpener
    from airflow_serving_reload.delivery.stores.base import Store

log = logging.getLogger(__name__)

THREADS = 8
"""Threads, and connections, to one store at most."""

IDLE_SECONDS = 60.0
"""A connection that was not used for so long is closed, if another one was."""

CONNECTION_SECONDS = 300.0
"""After so long a connection is read anew, since somebody may have changed it while its old store answers still."""

SWEEP_SECONDS = 0.05
"""How long a thread goes through the questions that wait, before it tells the answers."""

Answer = TypeVar("Answer")


class _Idle(NamedTuple):
    since: float
    opener: StoreOpener
    store: Store


class _Waiting(NamedTuple):
    question: Callable[[Store], Any]
    answer: asyncio.Future[Any]


class _Told(NamedTuple):
    to: asyncio.Future[Any]
    answer: Any = None
    fault: BaseException | None = None


class StoreThreads:
    """The threads for one connection, each with a store of its own while it asks.

    A store that fails is closed, and the connection is read anew for the next one; so it is every few minutes.

    :param conn_id: connection to the store.
    :param remote_path: folder in the store; only its scheme and its server matter.
    """

    def __init__(self, conn_id: str, remote_path: str) -> None:
        self._conn_id = conn_id
        self._remote_path = remote_path
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"store {conn_id}")
        self._idle: deque[_Idle] = deque()
        self._opener: StoreOpener | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._reading_anew: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._prompt_sweeps = 0
        self._closed = False
        self.users = 0

    async def ask(self, question: Callable[[Store], Answer]) -> Answer:
        """Ask the store something, once a thread is free.

        :raises DeliveryError: there is no store behind the connection.
        :raises Exception: what the question raises.
        """
        opener = await self._current_opener()
        return await asyncio.wrap_future(self._threads.submit(self._ask, opener, question))

    async def ask_last(self, question: Callable[[Store], Answer]) -> Answer:
        """Ask the store something that ten thousand others ask, too, and that must not keep `ask` waiting.

        A thread answers several such questions in turn, since to go from thread to thread costs as much as to ask.

        :raises DeliveryError: there is no store behind the connection.
        :raises Exception: what the question raises.
        """
        opener = await self._current_opener()
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not self._prompt_sweeps:
            self._begin_sweeps(1, opener)
        return await waiting.answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let the threads end, and close each store once nobody waits for its answer."""
        self._closed = True
        if self._reading_anew:
            self._reading_anew.cancel()
        self._threads.submit(self._close_idle)
        self._threads.shutdown(wait=False)

    async def _current_opener(self) -> StoreOpener:
        if (opener := self._opener) is None:
            async with self._reading:
                # whoever was waited for may have read it
                opener = self._opener or await self._read_connection()
        elif time.monotonic() - self._read_at >= CONNECTION_SECONDS:
            # ten thousand who ask do not wait for that
            self._read_at = time.monotonic()
            self._reading_anew = asyncio.create_task(self._read_anew())
        return opener

    async def _read_connection(self) -> StoreOpener:
        from airflow_serving_reload.connections import StoreOpener

        opener = self._opener = await StoreOpener.read(self._conn_id, self._remote_path)
        self._read_at = time.monotonic()
        return opener

    async def _read_anew(self) -> None:
        try:
            await self._read_connection()
        except Exception:
            log.warning("reading the connection %r anew; going on with what it was", self._conn_id, exc_info=True)

    async def _opener_for_waiting(self) -> StoreOpener | None:
        """Give what opens a store for the questions that wait; they are told why, and wait no more, if nothing does."""
        if not self._waiting or self._closed:
            return None
        try:
            return await self._current_opener()
        except Exception as fault:  # noqa: BLE001 - who has asked is told
            with suppress(IndexError):
                while True:
                    _tell(deque([_Told(self._waiting.popleft().answer, fault=fault)]))
            return None

    def _begin_sweeps(self, most: int, opener: StoreOpener | None) -> None:
        for _ in range(min(most, THREADS - len(self._sweeps))):
            if opener and self._waiting and not self._closed:
                told: deque[_Told] = deque()
                going = asyncio.wrap_future(self._threads.submit(self._go_through, opener, told))
                self._sweeps.add(asyncio.create_task(self._sweep(going, told)))
                self._prompt_sweeps += 1

    async def _sweep(self, going: asyncio.Future[None], told: deque[_Told]) -> None:
        """Tell what a thread has answered; where it takes long, or leaves something, one more thread begins."""
        done, _ = await asyncio.wait([going], timeout=2 * SWEEP_SECONDS)
        self._prompt_sweeps -= 1
        if not done:
            _tell(told)
            self._begin_sweeps(1, await self._opener_for_waiting())
            await asyncio.wait([going])
        _tell(told)
        opener = await self._opener_for_waiting()
        self._sweeps.remove(cast("asyncio.Task[None]", asyncio.current_task()))
        self._begin_sweeps(2, opener)

    def _go_through(self, opener: StoreOpener, told: deque[_Told]) -> None:
        """Answer what waits, as long as a sweep lasts, or until a fault: then the connection has to be read anew."""
        until = time.monotonic() + SWEEP_SECONDS
        with suppress(IndexError):
            while True:
                question, answer = self._waiting.popleft()
                if answer.cancelled():
                    continue
                try:
                    told.append(_Told(answer, self._ask(opener, question)))
                except BaseException as fault:  # noqa: BLE001 - who has asked is told
                    told.append(_Told(answer, fault=fault))
                    return
                if time.monotonic() >= until:
                    return

    def _ask(self, opener: StoreOpener, question: Callable[[Store], Answer]) -> Answer:
        store = self._lend(opener)
        try:
            store = store or opener()
            answer = question(store)
        except BaseException:
            # the connection may be mended meanwhile
            self._opener = None
            if store:
                store.close()
            raise
        self._idle.append(_Idle(time.monotonic(), opener, store))
        self._close_idle(float("inf") if self._closed else time.monotonic() - IDLE_SECONDS)
        return answer

    def _lend(self, opener: StoreOpener) -> Store | None:
        """Take the one that was used last, so that those too many stay idle, and close those of another connection."""
        with suppress(IndexError):
            while True:
                idle = self._idle.pop()
                if idle.opener == opener:
                    return idle.store
                idle.store.close()
        return None

    def _close_idle(self, unused_since: float = float("inf")) -> None:
        # others may take one between the question and the answer
        with suppress(IndexError):
            while self._idle[0].since < unused_since:
                self._idle.popleft().store.close()


def _tell(told: deque[_Told]) -> None:
    while told:
        to, answer, fault = told.popleft()
        if to.cancelled():
            continue
        if fault is None:
            to.set_result(answer)
        else:
            to.set_exception(fault)


_shared: dict[tuple[str, str], StoreThreads] = {}


@contextmanager
def threads_for(conn_id: str, remote_path: str) -> Iterator[StoreThreads]:
    """Share the threads of a connection with whoever else asks its store, for as long as the context lasts.

    :param conn_id: connection to the store.
    :param remote_path: folder in the store.
    """
    scheme, separator, place = remote_path.partition("://")
    server = f"{scheme}://{place.partition('/')[0]}/" if separator else "/"
    threads = _shared.get((conn_id, server))
    if threads is None:
        threads = _shared[conn_id, server] = StoreThreads(conn_id, server)
    threads.users += 1
    try:
        yield threads
    finally:
        threads.users -= 1
        if not threads.users:
            del _shared[conn_id, server]
            threads.close()
