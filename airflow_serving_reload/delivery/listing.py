"""What a listing proves about a donefile that was looked at before: that it is still the same, or nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.donefile import DonefileVersion
    from airflow_serving_reload.delivery.stores.base import FileFacts

TRUSTED_SECONDS = 600.0
"""How long listings stand in for looks, at most; in none does a file show that has the time and length of the last."""

ABSENCE_TRUSTED_SECONDS = 60.0
"""The same for a donefile that is absent, since a server may leave names out of its listings."""


class Evidence:
    """What looks at one donefile, and listings between them, have shown.

    What a listing told between two equal looks belongs to the version that both saw, whatever the listing's time zone
    and however coarse its times. A later upload has a later time; it shows in the listing, too, if the last look was
    at least one of the listing's steps after the time of the version, with one to spare. So where all that is so, a
    listing that tells the same again proves that there was no upload since the last look.

    :param name: name of the donefile in its folder.
    """

    __slots__ = ("_hidden", "_listed", "_looked", "_name", "_seen", "_trusted_until")

    def __init__(self, name: str) -> None:
        self._name = name
        # many servers leave such names out
        self._hidden = name.startswith(".")
        self.forget()

    def forget(self) -> None:
        """Begin anew, since a look has failed."""
        self._looked = False
        self._seen: DonefileVersion | None = None
        self._listed: FileFacts | None = None
        self._trusted_until = 0.0

    def looked(self, seen: DonefileVersion | None, listing: Mapping[str, FileFacts] | None) -> None:
        """Take in a look.

        :param seen: the version; None if there was no donefile.
        :param listing: what was listed between the look before and this one; None if nothing was.
        """
        equal = self._looked and seen == self._seen
        self._looked, self._seen, self._trusted_until = True, seen, 0.0
        if listing is None or not equal:
            return
        self._listed = listing.get(self._name)
        if self._would_show_a_change():
            longest = TRUSTED_SECONDS if seen is not None else ABSENCE_TRUSTED_SECONDS
            # those who looked at the same time shall not do so again
            self._trusted_until = time.monotonic() + longest * random.uniform(0.5, 1)  # noqa: S311

    def proves_unchanged(self, listing: Mapping[str, FileFacts] | None) -> bool:
        """Whether there was no upload between the last look and a listing that was begun after it."""
        if listing is None or time.monotonic() >= self._trusted_until:
            return False
        return listing.get(self._name) == self._listed

    def _would_show_a_change(self) -> bool:
        seen, listed = self._seen, self._listed
        if seen is None:
            return listed is None and not self._hidden
        if listed is None or listed.mtime_ns is None or seen.mtime_ns is None or seen.observed_ns is None:
            return False
        return seen.observed_ns - seen.mtime_ns >= 2 * listed.resolution_ns
