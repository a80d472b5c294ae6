"""The trigger that watches a donefile, and the asset that it feeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_serving_reload.delivery.donefile import Decision, DonefileVersion
from airflow_serving_reload.delivery.errors import DeliveryError, Refused
from airflow_serving_reload.delivery.listing import Evidence
from airflow_serving_reload.store_threads import StoreThreads, threads_for
from airflow_serving_reload.task import donefile_version
from airflow_serving_reload.triggers.folder import Folder, Glance, pause_after
from airflow_serving_reload.triggers.watermark import Watermark

if TYPE_CHECKING:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor, AssetStateStoreAccessors

UNSETTLED_PAUSE = 0.5
"""Seconds until the next look at a donefile that is too young to be told from its successor, at most."""


class DonefileTrigger(BaseEventTrigger):
    """Watch a donefile, and fire once for each version of it.

    As an asset's watcher it begins with the version that the asset's state remembers, and watches already while Airflow
    takes long to tell it. It writes a version there only after its event is safe, so that an event is repeated rather
    than lost when the triggerer dies. As a deferred sensor's trigger it begins with `last_seen`. A store that cannot be
    reached is tried again, ever more slowly. That there is no donefile is told once in the log, until there was one.

    Triggers of donefiles in one folder, with one interval, share what the triggerer asks of the store: one listing
    serves all of those of which it proves that they are what they were, and only the others are looked at.

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
        # as the store's own paths begin, so that whoever watches the same folder is known
        folder = remote_path if "://" in remote_path else f"/{remote_path.strip('/')}"
        self._folder = Folder(conn_id, folder, poke_interval)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what makes the same trigger elsewhere."""
        names = ("conn_id", "remote_path", "remote_donefile_name", "poke_interval", "last_seen", "asset_name")
        return f"{DonefileTrigger.__module__}.DonefileTrigger", {name: getattr(self, name) for name in names}

    def shared_stream_key(self) -> Hashable:
        """Name the folder and the interval, which the triggers that share their listings have in common."""
        return self._folder

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Glance]:
        """Glance at the folder at each interval, for all who watch donefiles in it."""
        async with aclosing(cls(**kwargs)._folder.glances()) as glances:
            async for glance in glances:
                yield glance

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Fire for each new version, for as long as somebody listens, without a share in the glances of others."""
        async with aclosing(self._folder.glances()) as glances, aclosing(self.filter_shared_stream(glances)) as events:
            async for event in events:
                yield event

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Glance]) -> AsyncGenerator[TriggerEvent]:
        """Fire for each new version: at once, and then whenever a glance does not prove that nothing has changed."""
        watermark = Watermark(self._state(), donefile_version(self.last_seen))
        evidence = Evidence(self.remote_donefile_name)
        faults = 0
        due = 0.0
        missing = False
        with (
            self._folder.watched(self.remote_donefile_name),
            threads_for(self.conn_id, self.remote_path) as threads,
            watermark.being_read() as reading,
        ):
            await asyncio.wait([reading], timeout=self.poke_interval)
            async for glance in _at_once(shared_stream):
                await watermark.write_if_safe()
                if overdue := watermark.overdue():
                    yield self._changed(overdue)
                if glance.fault is not None:
                    faults += 1
                    if self.task_instance is not None:
                        # a task has a log of its own, while those of watchers are one, where this stands already
                        self._complain(glance.fault, faults)
                    continue
                if glance.began < due or evidence.proves_unchanged(glance.listing):
                    continue
                try:
                    decision, seen = await self._look(threads, watermark.last)
                except Exception as fault:  # noqa: BLE001 - a watcher that raises is started again without a pause
                    evidence.forget()
                    if isinstance(fault, Refused) and self.task_instance is not None:
                        # A sensor's task can fail and tell why; a watcher has only its log, and must not die.
                        yield _event({"error": str(fault)})
                        return
                    faults += 1
                    self._complain(fault, faults)
                    pause = pause_after(faults, self.poke_interval)
                    due = max(time.monotonic(), glance.began + pause - self.poke_interval / 2)
                    continue
                faults = 0
                due = time.monotonic()
                evidence.looked(seen, glance.listing)
                if decision is Decision.MISSING and not missing:
                    self.log.info("watching %s: there is no donefile yet", self._where)
                missing = decision is Decision.MISSING
                if decision is Decision.CHANGED and seen is not None and watermark.is_news(seen):
                    yield self._changed(seen)

    async def _look(
        self, threads: StoreThreads, last: DonefileVersion | None
    ) -> tuple[Decision, DonefileVersion | None]:
        """Look until the donefile can be told from its successor, or for an interval."""
        from airflow_serving_reload.watch import look

        until = time.monotonic() + self.poke_interval
        while True:
            decision, seen = await threads.ask(
                lambda store: look(store, self.remote_path, self.remote_donefile_name, last)
            )
            if decision is not Decision.UNSETTLED or time.monotonic() >= until:
                return decision, seen
            await asyncio.sleep(min(self.poke_interval, UNSETTLED_PAUSE))

    def _changed(self, version: DonefileVersion) -> TriggerEvent:
        self.log.info("the donefile %s changed: %s", version.path, version)
        return _event(version.to_dict())

    def _complain(self, fault: Exception, faults: int) -> None:
        if isinstance(fault, DeliveryError):
            self.log.warning("watching %s, fault %d in a row: %s", self._where, faults, fault)
        else:
            self.log.error("watching %s, fault %d in a row", self._where, faults, exc_info=fault)

    @property
    def _where(self) -> str:
        return f"{self.conn_id}:{self.remote_path}/{self.remote_donefile_name}"

    def _state(self) -> AssetStateStoreAccessors | AssetStateStoreAccessor | None:
        if self.asset_state_store is None or self.asset_name is None:
            return self.asset_state_store
        return self.asset_state_store[Asset.ref(name=self.asset_name)]


async def _at_once(glances: AsyncIterator[Glance]) -> AsyncGenerator[Glance]:
    """Have the first look taken now, not at the next interval of those who have been watching before."""
    yield Glance(time.monotonic())
    async for glance in glances:
        yield glance


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
    :raises Refused: connection, folder or name is a template.
    """
    watched = {"conn_id": conn_id, "remote_path": remote_path, "remote_donefile_name": remote_donefile_name}
    for argument, value in watched.items():
        if any(opening in str(value) for opening in ("{{", "{%")):
            raise Refused(
                f"making the asset {name!r}: {argument} is {str(value)!r}, but watchers render no templates; spell it "
                "out, or have a task of a scheduled Dag look at the donefile, which does render them"
            )
    trigger = DonefileTrigger(
        conn_id=conn_id,
        remote_path=remote_path,
        remote_donefile_name=remote_donefile_name,
        poke_interval=poke_interval,
        asset_name=name,
    )
    return Asset(name=name, watchers=[AssetWatcher(name=f"{name} watcher", trigger=trigger)])
