"""What is remembered of a release, in a JSON file beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from airflow_serving_reload.delivery import filesystem
from airflow_serving_reload.delivery.errors import Refused


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered about a release, beside it.

    :param release: its name.
    :param origin: `delivered`, or `adopted` for the model that was there before the first delivery.
    :param created: when it was complete on this host, as ISO 8601 in UTC.
    :param donefile: the donefile version that announced it, as `DonefileVersion.to_dict` gives it.
    :param source: where it was fetched from.
    :param unpacked_filename: the folder inside the archive that it was; None if it was no archive, or nobody knows.
    :param sha256: digest of what was fetched.
    :param total_bytes: bytes of what was fetched: those of an archive are the packed ones.
    :param files: number of files in what was fetched: those of an archive are the unpacked ones.
    :param run: what delivered it, for example Dag and run.
    :param published: when it last became the live one.
    :param confirmed: when the server was last proved to serve it.
    :param refused: why the server did not serve it.
    :param withdrawn: why somebody rolled back from it; its donefile is not delivered again unless forced.
    """

    release: str
    origin: str
    created: str
    donefile: Mapping[str, Any] | None = None
    source: str | None = None
    unpacked_filename: str | None = None
    sha256: str | None = None
    total_bytes: int | None = None
    files: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None
    confirmed: str | None = None
    refused: str | None = None
    withdrawn: str | None = None

    @property
    def given_up(self) -> str | None:
        """Why nobody wants to go back to it; None if nothing is held against it."""
        return self.refused or self.withdrawn

    def to_dict(self) -> dict[str, Any]:
        """Give the record as a dict of plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave; keys that are not known are ignored."""
        return cls(**{name: value for name, value in values.items() if name in cls.__slots__})


class Records:
    """The records of a model's releases, which lie in one folder with them.

    :param folder: that folder; absent as long as there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self, origin: str, version: object = None, **facts: Any) -> Record:
        """Make the record of a release that is complete now, without writing it.

        :param version: what training calls it; becomes part of its name.
        :param facts: further fields.
        """
        moment = self.next_moment()
        return Record(release=_name_at(moment, version), origin=origin, created=moment, **facts)

    def write(self, record: Record, **changes: Any) -> Record:
        """Write a record with some fields changed.

        :return: the changed record.
        :raises OSError: the host did not let it.
        """
        changed = replace(record, **changes)
        filesystem.replace_json(self._file(record), changed.to_dict())
        return changed

    def remove(self, record: Record) -> None:
        """Forget a release; it has to be gone.

        :raises OSError: the host did not let it.
        """
        self._file(record).unlink()

    def history(self) -> list[Record]:
        """Give the records of all complete releases, the one published last first.

        :raises Refused: one of them cannot be read.
        """
        records = [_read(file) for file in self._folder.glob("[!.]*.json") if file.with_suffix("").is_dir()]
        return sorted(records, key=lambda record: (record.published or "", record.created), reverse=True)

    def next_moment(self) -> str:
        """Give the time, or the next after the newest on record if the clock was set back: times tell the order."""
        moments = [moment for record in self.history() for moment in (record.created, record.published) if moment]
        newest, now = max(moments, default=""), clock()
        return now if now > newest else _written(datetime.fromisoformat(newest) + timedelta(microseconds=1))

    def _file(self, record: Record) -> Path:
        return self._folder / f"{record.release}.json"


def clock() -> str:
    """Give the time as records have it, ISO 8601 in UTC."""
    return _written(datetime.now(UTC))


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _read(file: Path) -> Record:
    try:
        return Record.from_dict(filesystem.read_json(file))
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(
            f"reading the record {file}: it is none ({error}); remove it, after which nobody knows of its release"
        ) from error


def _name_at(moment: str, version: object) -> str:
    compact = re.sub(r"[-:]", "", moment)
    hint = re.sub(r"[^A-Za-z0-9._-]+", "-", str(version))[:40].strip(".-") if version else ""
    return f"{compact}-{hint}" if hint else compact
