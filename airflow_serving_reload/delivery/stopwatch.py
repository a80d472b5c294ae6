"""How long each stage of a delivery takes, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


def _ignore(*_told: object) -> None:
    """Tell nobody."""


@dataclass
class Stopwatch:
    """The seconds that each stage took.

    :param began: told the name of each stage that begins.
    :param ended: told the name of each stage that has ended, well or not, and its seconds.
    """

    began: Callable[[str], None] = _ignore
    ended: Callable[[str, float], None] = _ignore
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens in the `with` block."""
        self.began(name)
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            self.ended(name, took)
