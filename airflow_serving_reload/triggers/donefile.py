"""The trigger that watches a donefile, and the asset that it feeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_serving_reload.delivery.donefile import Decision, DonefileVersion
from airflow_serving_reload.delivery.errors import DeliveryError, Refused
from airflow_serving_reload.task import donefile_version

if TYPE_CHECKING:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor, AssetStateStoreAccessors

    from airflow_serving_reload.delivery.stores.base import Store

WATERMARK = "donefile"
"""Key in the state of the donefile's asset under which stands the version announced last."""

PERSISTED_AFTER = 5.0
"""Seconds after which an event that was handed to the triggerer is in Airflow's database, as far as can be known."""

LONGEST_PAUSE = 60.0
"""Seconds between two tries at a store that cannot be reached, at most."""

RAREST = 6
"""How many intervals lie between two such tries at most, so that who looks often soon sees the store again."""

UNSETTLED_PAUSE = 0.5
"""Seconds until the next look at a donefile that is too young to be told from its successor, at most."""


class DonefileTrigger(BaseEventTrigger):
    """Watch a donefile, and fire once for each version of it.

    As an asset's watcher it begins with the version that the asset's state remembers. It writes a version there only
    after its event is safe, so that an event is repeated rather than lost when the triggerer dies. As a deferred
    sensor's trigger it begins with `last_seen`. A store that cannot be reached is tried again, ever more slowly.

    :param conn_id: connection to the store.
    :param remote_path: folder in the store.
    :param remote_donefile_name: name of the donefile.
    :param poke_interval: seconds between two looks.
    :param last_seen: version known already, as `DonefileVersion.to_dict` gives it.
    :param asset_name: name of the watched asset; tells apart assets that watch the same donefile.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        remote_path: str,
        remote_donefile_name: str = "donefile",
        poke_interval: float = 10,
        last_seen: Mapping[str, Any] | None = None,
        asset_name: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.remote_path = remote_path
        self.remote_donefile_name = remote_donefile_name
        self.poke_interval = poke_interval
        self.last_seen = last_seen
        self.asset_name = asset_name
        self._store: Store | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what makes the same trigger elsewhere."""
        names = ("conn_id", "remote_path", "remote_donefile_name", "poke_interval", "last_seen", "asset_name")
        return f"{DonefileTrigger.__module__}.DonefileTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire for each new version, for as long as somebody listens."""
        last = await self._last()
        announced_at = None
        faults = 0
        while True:
            decision = Decision.UNCHANGED
            try:
                decision, seen = await self._look(last)
                faults = 0
            except Exception as fault:  # noqa: BLE001 - a watcher that raises is started again without a pause
                await self.cleanup()
                if isinstance(fault, Refused) and self.task_instance is not None:
                    # A sensor's task can fail and tell why; a watcher has only its log, and must not die.
                    yield _event({"error": str(fault)})
                    return
                faults += 1
                self._complain(fault, faults)
            if announced_at is not None and time.monotonic() - announced_at >= PERSISTED_AFTER:
                await self._remember(last)
                announced_at = None
            if decision is Decision.CHANGED and seen is not None:
                last, announced_at = seen, time.monotonic()
                self.log.info("the donefile %s changed: %s", seen.path, seen)
                yield _event(seen.to_dict())
            await asyncio.sleep(self._pause(decision, faults))

    async def cleanup(self) -> None:
        """Give the store's connections back."""
        store, self._store = self._store, None
        if store is not None:
            await asyncio.to_thread(store.close)

    async def _look(self, last: DonefileVersion | None) -> tuple[Decision, DonefileVersion | None]:
        from airflow_serving_reload.connections import open_store_async
        from airflow_serving_reload.watch import look

        if self._store is None:
            self._store = await open_store_async(self.conn_id, self.remote_path)
        return await asyncio.to_thread(look, self._store, self.remote_path, self.remote_donefile_name, last)

    def _pause(self, decision: Decision, faults: int) -> float:
        if decision is Decision.UNSETTLED:
            return min(self.poke_interval, UNSETTLED_PAUSE)
        if faults:
            return max(self.poke_interval, min(LONGEST_PAUSE, RAREST * self.poke_interval, 2.0**faults))
        return self.poke_interval

    def _complain(self, fault: Exception, faults: int) -> None:
        where = f"{self.conn_id}:{self.remote_path}/{self.remote_donefile_name}"
        if isinstance(fault, DeliveryError):
            self.log.warning("watching %s, fault %d in a row: %s", where, faults, fault)
        else:
            self.log.error("watching %s, fault %d in a row", where, faults, exc_info=fault)

    def _state(self) -> AssetStateStoreAccessors | AssetStateStoreAccessor | None:
        if self.asset_state_store is None or self.asset_name is None:
            return self.asset_state_store
        return self.asset_state_store[Asset.ref(name=self.asset_name)]

    async def _last(self) -> DonefileVersion | None:
        state = self._state()
        stored = await state.aget(WATERMARK) if state is not None else None
        return donefile_version(stored or self.last_seen)

    async def _remember(self, version: DonefileVersion | None) -> None:
        state = self._state()
        if state is not None and version is not None:
            await state.aset(WATERMARK, version.to_dict())


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def donefile_asset(
    name: str,
    *,
    conn_id: str,
    remote_path: str,
    remote_donefile_name: str = "donefile",
    poke_interval: float = 10,
) -> Asset:
    """Make the asset of a donefile: each version of it is an event of the asset, and can start Dags.

    :param name: name of the asset; every donefile needs one of its own.
    :param conn_id: connection to the store.
    :param remote_path: folder in the store.
    :param remote_donefile_name: name of the donefile.
    :param poke_interval: seconds between two looks.
    """
    trigger = DonefileTrigger(
        conn_id=conn_id,
        remote_path=remote_path,
        remote_donefile_name=remote_donefile_name,
        poke_interval=poke_interval,
        asset_name=name,
    )
    return Asset(name=name, watchers=[AssetWatcher(name=f"{name} watcher", trigger=trigger)])
