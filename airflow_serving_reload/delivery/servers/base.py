"""What every kind of model server offers: a look at what it serves, and the patience to wait for it."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow_serving_reload.delivery.errors import ReloadRefused

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

Mark = dict[str, Any]
"""Where a server stood when it was asked to reload; only the server that gave it can read it."""


class Expected(NamedTuple):
    """What a server should serve.

    :param release: name of the release; None if any will do that was asked for after the mark.
    :param mtime_ns: modification time of the timestamp file, nanoseconds since the epoch; None if unknown.
    :param version: what training calls the model of that release; None if unknown.
    """

    release: str | None
    mtime_ns: int | None
    version: str | None = None


class State(Enum):
    """How far a server is with a reload."""

    WAITING = "it has not begun to load it"
    LOADING = "it is loading it"
    SERVED = "it serves it"
    REFUSED = "it failed to load it"


class Look(NamedTuple):
    """One look at a server.

    :param state: how far it is.
    :param evidence: what says so, in the server's own words.
    """

    state: State
    evidence: str = ""


class HttpClient(NamedTuple):
    """An opened way to a server that speaks HTTP.

    :param session: with authentication, TLS and proxies as they should be.
    :param base_url: address that every path is appended to.
    :param timeout: seconds to wait for a connection, and for each next piece of an answer.
    """

    session: requests.Session
    base_url: str
    timeout: tuple[float, float] = (10, 60)


Connect = Callable[[str], AbstractContextManager[HttpClient]]
"""Opens the way that a connection id leads to; how, is not the engine's business."""


class ServerDescription(ABC):
    """Where a model server is and how to confirm it; small, and made of plain values so that a Dag can carry it.

    Attributes named in `template_fields` are rendered by Airflow.
    """

    template_fields: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def open(self, connect: Connect) -> AbstractContextManager[ModelServer]:
        """Give the server itself, for as long as the context lasts.

        :param connect: opens the way to it, where a connection id stands for one.
        """


class ModelServer(ABC):
    """A running model server that can be asked."""

    @abstractmethod
    def mark(self) -> Mark:
        """Note where the server stands, right before it is given something to reload."""

    @abstractmethod
    def ask(self, mark: Mark) -> Mark:
        """Ask for a reload, beyond the timestamp file that has moved.

        :return: the mark, and with it what the server answered.
        :raises ReloadRefused: it says no.
        """

    @abstractmethod
    def mark_since(self, seconds: float) -> Mark:
        """Give the mark for a moment in the past, in seconds since the epoch."""

    @abstractmethod
    def look(self, expected: Expected, mark: Mark) -> Look:
        """Look once how far the server is since the mark, in which the next look may find how far this one got."""

    @abstractmethod
    def patience(self, state: State) -> float:
        """Give the seconds to wait in this state, all in all, before the server counts as having refused."""

    @abstractmethod
    def __str__(self) -> str:
        """Name the server for people."""

    def confirm(self, expected: Expected, mark: Mark, *, pause: float = 0.2) -> str:
        """Wait until the server serves what is expected, but in no state for longer than its patience, all in all.

        :param pause: seconds between two looks.
        :return: the evidence.
        :raises ReloadRefused: it failed to load it, or its time was over.
        """
        waited = dict.fromkeys(State, 0.0)
        looked = time.monotonic()
        told = State.WAITING
        while True:
            look = self.look(expected, mark)
            before, looked = looked, time.monotonic()
            waited[look.state] += looked - before
            log.debug("%s: %s (%s)", self, look.state.value, look.evidence)
            if look.state is State.SERVED:
                return look.evidence
            if look.state is State.REFUSED:
                raise ReloadRefused(f"{self} failed to load the release {expected.release}: {look.evidence}")
            if look.state is not told:
                log.info("%s: %s (%s)", self, look.state.value, look.evidence)
                told = look.state
            patience = self.patience(look.state)
            if waited[look.state] > patience:
                raise ReloadRefused(
                    f"{self} does not serve the release {expected.release}: for {patience:g} s {look.state.value}"
                    f"{f' ({look.evidence})' if look.evidence else ''}; see whether it runs and where it logs"
                )
            time.sleep(pause)
