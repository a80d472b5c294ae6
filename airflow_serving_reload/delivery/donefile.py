"""Donefile versions, and the one decision about them: missing, unchanged, unsettled or changed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Self

UNPORTABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that JSON can spell, but not every database or encoding can hold."""

SMALL = 64 * 1024
"""Content of a donefile up to this many bytes is part of its version; a larger one is no donefile."""


class Decision(Enum):
    """What one look at a donefile means to whoever waits for it."""

    MISSING = "missing"
    """There is no donefile: training has not finished a model yet."""
    UNCHANGED = "unchanged"
    """The donefile is the one that is known already."""
    UNSETTLED = "unsettled"
    """New, but so young that the store could not tell a further upload from it: look again."""
    CHANGED = "changed"
    """A new model is complete in the store."""


@dataclass(frozen=True, slots=True)
class DonefileVersion:
    """Every fact that a store offers about one state of a donefile.

    Two looks saw the same upload when the first four facts are equal.

    :param mtime_ns: modification time in nanoseconds since the epoch, as exact as the store tells it.
    :param size: length in bytes.
    :param etag: the store's entity tag or checksum.
    :param sha256: digest of the content, as lower-case hexadecimal digits.
    :param content: the plain values of the content if it is a JSON object, as `UploadModelOperator` writes it; else
        empty.
    :param settled: whether a further upload is sure to change at least one of these facts.
    :param path: where in the store it was seen.
    :param observed_ns: the store's time when it was seen, nanoseconds since the epoch; it is not kept.
    """

    mtime_ns: int | None = None
    size: int | None = None
    etag: str | None = None
    sha256: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict, compare=False)
    settled: bool = field(default=True, compare=False)
    path: str | None = field(default=None, compare=False)
    observed_ns: int | None = field(default=None, compare=False)

    @property
    def model_sha256(self) -> str | None:
        """The digest that the donefile promises for its model, if it promises one."""
        value = self.content.get("sha256")
        return value.lower() if isinstance(value, str) else None

    @property
    def model_size(self) -> int | None:
        """The length in bytes that the donefile promises for its model, if it promises one."""
        value = self.content.get("size")
        return value if isinstance(value, int) else None

    @property
    def model_version(self) -> str | None:
        """What training calls the model, if the donefile says it."""
        value = self.content.get("version")
        return str(value) if isinstance(value, str | int) and value != "" else None

    def to_dict(self) -> dict[str, Any]:
        """Give the version as a small dict of plain values, fit for XCom, state stores and JSON."""
        return {
            "mtime_ns": self.mtime_ns,
            "size": self.size,
            "etag": self.etag,
            "sha256": self.sha256,
            "content": dict(self.content),
            "settled": self.settled,
            "path": self.path,
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave; keys that are not known are ignored, so that old records stay readable."""
        return cls(**{name: value for name, value in facts.items() if name in cls.__slots__})

    def __str__(self) -> str:
        """Describe the version in a few words for a log."""
        name = self.content.get("version")
        words = [f"version {name}"] if name else []
        if self.mtime_ns is not None:
            moment = datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)
            words.append(f"of {moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}")
        if self.size is not None:
            words.append(f"{self.size} bytes")
        if self.etag is not None:
            words.append(f"tag {self.etag}")
        return ", ".join(words) or "without any fact"


def version_of(
    content: bytes,
    *,
    path: str,
    mtime_ns: int | None,
    resolution_ns: int,
    etag: str | None,
    observed_ns: int,
) -> DonefileVersion:
    """Make a version out of one look at a donefile.

    A donefile that names the digest of its model is settled at once: a different model has a different
    content. Any other is settled when the store's clock has left the smallest step in which the modification
    time was written, with one step to spare on both sides: file systems stamp with a clock that runs a little
    behind, and some servers round a time up. A time further ahead was set by hand, and waiting tells nothing.

    :param content: the whole content.
    :param path: where in the store it lies.
    :param mtime_ns: modification time, nanoseconds since the epoch.
    :param resolution_ns: the step in which the store counts modification times, in nanoseconds.
    :param etag: the store's entity tag or checksum.
    :param observed_ns: the store's time when it answered, nanoseconds since the epoch.
    """
    described = _json_object(content)
    names_its_model = isinstance(described.get("sha256"), str)
    age_ns = None if mtime_ns is None else observed_ns - mtime_ns
    young = age_ns is not None and -resolution_ns <= age_ns < 2 * resolution_ns
    return DonefileVersion(
        mtime_ns=mtime_ns,
        size=len(content),
        etag=etag,
        sha256=hashlib.sha256(content).hexdigest(),
        content=described,
        settled=names_its_model or not young,
        path=path,
        observed_ns=observed_ns,
    )


def decide(seen: DonefileVersion | None, last: DonefileVersion | None) -> Decision:
    """Say what the donefile that was seen means, given the last one known.

    :param seen: the donefile now; None if there is none.
    :param last: the version delivered, or announced, last; None if none ever was.
    """
    if seen is None:
        return Decision.MISSING
    if seen == last:
        return Decision.UNCHANGED
    return Decision.CHANGED if seen.settled else Decision.UNSETTLED


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: each for name, each in value.items() if not name.startswith("__") and _is_plain(name, each)}


def _is_plain(*values: object) -> bool:
    """Whether everything that carries a version can carry these values: JSON, msgpack, and databases.

    One that they cannot carry would fail in the triggerer, and end all triggers with it.
    """
    for value in values:
        match value:
            case None | bool():
                continue
            case str() if not UNPORTABLE.search(value):
                continue
            case float() if math.isfinite(value):
                continue
            case int() if -(1 << 63) <= value < 1 << 63:
                continue
        return False
    return True
