"""One folder of a store, asked for at intervals for all triggers that watch donefiles in it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from airflow_serving_reload.delivery.errors import NotThereYet, StoreUnreachable
from airflow_serving_reload.store_threads import threads_for

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.stores.base import FileFacts, Store

log = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two tries at a store that cannot be reached, at most."""

RAREST = 6
"""How many intervals lie between two such tries at most, so that who looks often soon sees the store again."""

NAMES_EACH = 500
"""Names in a folder, for each donefile watched there, up to which listing it costs less than asking for each."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What those who watch a folder are told at each interval.

    :param began: when, on the clock of `time.monotonic`; whoever looked later knows more.
    :param listing: what is told of each donefile that is there; None if nothing is, so that each looks for itself.
    :param fault: why the store could not be reached.
    """

    began: float
    listing: Mapping[str, FileFacts] | None = None
    fault: StoreUnreachable | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is looked at every so often; equal ones share their glances.

    :param conn_id: connection to the store.
    :param remote_path: path in the store.
    :param poke_interval: seconds between two glances.
    """

    conn_id: str
    remote_path: str
    poke_interval: float

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Have glances tell of a donefile.

        :param name: of the donefile.
        """
        names = _watched[self]
        names[name] += 1
        try:
            yield
        finally:
            names[name] -= 1
            if not names[name]:
                del names[name]
            if not names:
                _watched.pop(self, None)

    async def glances(self) -> AsyncGenerator[Glance]:
        """Glance at it at each interval, for ever.

        It is asked for behind all looks, so that what has changed is looked at before what may have.
        """
        faults = names = 0
        with threads_for(self.conn_id, self.remote_path) as threads:
            while True:
                began = time.monotonic()
                listing: Mapping[str, FileFacts] | None = None
                fault: StoreUnreachable | None = None
                watched = tuple(_watched.get(self, ()))
                few = len(watched) < max(names / NAMES_EACH, 2)
                try:
                    listing = await threads.ask_last(partial(self._tell_of, watched, by_name=few))
                    names = names if few else len(listing or ())
                except StoreUnreachable as unreachable:
                    fault = unreachable
                except Exception:
                    # those who look for themselves are told what it is
                    log.debug("%s tells nothing of its files", self, exc_info=True)
                faults = 0 if fault is None else faults + 1
                if fault:
                    log.warning("watching %s:%s, fault %d in a row: %s", self.conn_id, self.remote_path, faults, fault)
                yield Glance(began, listing, fault)
                await asyncio.sleep(began + pause_after(faults, self.poke_interval) - time.monotonic())

    def _tell_of(self, watched: Collection[str], store: Store, *, by_name: bool) -> Mapping[str, FileFacts] | None:
        """Ask what is known of the watched donefiles without reading them.

        :return: None if this store tells nothing, or fails over this question alone.
        :raises StoreUnreachable: it does not let a donefile be read either.
        """
        from airflow_serving_reload.delivery.stores.base import child

        try:
            return self._ask_for(watched, store) if by_name else self._list(store)
        except StoreUnreachable as fault:
            # a proxy may give up on a listing that is long, and some servers answer HEAD by 500
            for name in tuple(watched)[:1]:
                store.donefile(child(self.remote_path, name))
                log.debug("%s; but its donefiles can be read", fault)
                return None
            raise

    def _list(self, store: Store) -> Mapping[str, FileFacts] | None:
        try:
            return store.scan(self.remote_path)
        except NotThereYet:
            return {}

    def _ask_for(self, names: Collection[str], store: Store) -> Mapping[str, FileFacts]:
        from airflow_serving_reload.delivery.stores.base import child

        told = {}
        for name in names:
            with suppress(NotThereYet):
                told[name] = store.stat(child(self.remote_path, name))
        return told


_watched: defaultdict[Folder, Counter[str]] = defaultdict(Counter)


def pause_after(faults: int, poke_interval: float) -> float:
    """Give the seconds until the next try, the longer the more faults there were in a row."""
    if not faults:
        return poke_interval
    # beyond these the longest pause is reached, and much beyond them a float cannot hold the power
    growing = 2.0 ** min(faults, 10)
    return max(poke_interval, min(LONGEST_PAUSE, RAREST * poke_interval, growing))
