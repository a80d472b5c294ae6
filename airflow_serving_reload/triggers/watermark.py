"""What the state of a donefile's asset remembers: the version announced last, written only once its event is safe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_serving_reload.task import donefile_version

if TYPE_CHECKING:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor, AssetStateStoreAccessors

    from airflow_serving_reload.delivery.donefile import DonefileVersion

log = logging.getLogger(__name__)

WATERMARK = "donefile"
"""Key in the state of the donefile's asset under which stands the version announced last."""

PERSISTED_AFTER = 5.0
"""Seconds within which the triggerer passes an event on to its supervisor, unless that keeps it waiting."""

AT_ONCE = 2
"""States that are read at once, and written, at most: Airflow tells one after the other, and stores events in between,
which must not queue behind those of ten thousand."""


class Watermark:
    """The version of a donefile that was announced last.

    With ten thousand assets it takes Airflow minutes to tell all their states. Until it is known, the version seen
    first stands in for it: any other one behind that is new, and whether that one is shows once the state is known. If
    it has been replaced by then, only its successor is announced.

    :param state: state of the donefile's asset; None if there is no asset.
    :param last_seen: what it is if nothing is remembered.
    """

    def __init__(
        self, state: AssetStateStoreAccessors | AssetStateStoreAccessor | None, last_seen: DonefileVersion | None
    ) -> None:
        self.last: DonefileVersion | None = None
        self._state = state
        self._last_seen = last_seen
        self._supervisor = _supervisors.setdefault(asyncio.get_running_loop(), _Supervisor())
        self._known = False
        self._standing_in: DonefileVersion | None = None
        self._announced: tuple[float, DonefileVersion] | None = None

    @contextmanager
    def being_read(self) -> Iterator[asyncio.Task[DonefileVersion | None]]:
        """Read it meanwhile; gives the task that does."""
        self._reading = asyncio.create_task(self._read())
        try:
            yield self._reading
        finally:
            self._reading.cancel()

    async def _read(self) -> DonefileVersion | None:
        if self._state is None:
            return self._last_seen
        try:
            async with self._supervisor.reads:
                return donefile_version(await self._state.aget(WATERMARK)) or self._last_seen
        except ValueError as several:
            log.warning(
                "watching a donefile for several assets without remembering what was announced (%s); "
                "give each a DonefileTrigger of its own by asset_name, as donefile_asset does",
                several,
            )
            self._state = None
            return self._last_seen

    def overdue(self) -> DonefileVersion | None:
        """Give the version that was seen first if it now turns out to be new; it counts as announced then."""
        if self._known or not self._reading.done():
            return None
        self._known = True
        last = self._reading.result()
        if self._standing_in not in (None, last):
            return self._announce(self._standing_in)
        self.last = self.last or last
        return None

    def is_news(self, version: DonefileVersion) -> bool:
        """Take in another version than the last, and tell whether it is surely new; if so, it counts as announced."""
        if self.last is None and not self._known:
            self.last = self._standing_in = version
            return False
        self._announce(version)
        return True

    def _announce(self, version: DonefileVersion) -> DonefileVersion:
        self.last, self._standing_in = version, None
        self._announced = time.monotonic(), version
        return version

    async def write_if_safe(self) -> None:
        """Have the version announced last remembered if its event is in Airflow's database, as far as can be known."""
        if self._state is None or self._announced is None:
            return
        at, version = self._announced
        if not self._supervisor.has_stored_events_until(at, self._state):
            return
        async with self._supervisor.writes:
            await self._state.aset(WATERMARK, version.to_dict())
        self._announced = None


class _Supervisor:
    """What is known of the process that stores the events, and that answers questions about states in between."""

    def __init__(self) -> None:
        # who has something to remember watches on only when it is, and so must not wait for those who begin
        self.reads, self.writes = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)
        self._stored_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    def has_stored_events_until(self, moment: float, state: AssetStateStoreAccessors | AssetStateStoreAccessor) -> bool:
        """Whether all events handed over until a moment are stored; if it is not known, it is found out meanwhile."""
        if moment < self._stored_until:
            return True
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(state))
        return False

    async def _ask(self, state: AssetStateStoreAccessors | AssetStateStoreAccessor) -> None:
        """Ask twice: who answers had time to take the events, and who answers again has stored what it had taken."""
        began = time.monotonic()
        try:
            await state.aget(WATERMARK)
            await asyncio.sleep(PERSISTED_AFTER)
            await state.aget(WATERMARK)
        except Exception:
            log.warning("cannot tell yet whether Airflow has stored the events of donefiles", exc_info=True)
        else:
            self._stored_until = began


_supervisors: WeakKeyDictionary[asyncio.AbstractEventLoop, _Supervisor] = WeakKeyDictionary()
