"""What the state of a donefile's asset remembers: the version announced last, written only once its event is safe."""

from __future__ import annotations

import asyncio
import logging
import time
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

AT_ONCE = 64
"""Questions about states under way at most, so that events do not have to queue behind those of ten thousand assets."""


class Watermark:
    """The version of a donefile that was announced last.

    :param state: state of the donefile's asset; None if there is no asset.
    """

    def __init__(self, state: AssetStateStoreAccessors | AssetStateStoreAccessor | None) -> None:
        self._state = state
        self._supervisor = _supervisors.setdefault(asyncio.get_running_loop(), _Supervisor())
        self._announced: tuple[float, DonefileVersion] | None = None

    async def read(self) -> DonefileVersion | None:
        """Give the version that is remembered."""
        if self._state is None:
            return None
        async with self._supervisor.turns:
            return donefile_version(await self._state.aget(WATERMARK))

    def announce(self, version: DonefileVersion) -> None:
        """Take note of a version whose event is about to be handed to the triggerer."""
        self._announced = time.monotonic(), version

    async def write_if_safe(self) -> None:
        """Remember the version announced last if its event is in Airflow's database, as far as can be known."""
        if self._state is None or self._announced is None:
            return
        at, version = self._announced
        if not self._supervisor.has_stored_events_until(at, self._state):
            return
        async with self._supervisor.turns:
            await self._state.aset(WATERMARK, version.to_dict())
        self._announced = None


class _Supervisor:
    """What is known of the process that stores the events, and that answers questions about states in between."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
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
