"""Zip archives: unpacked by what stands before each member, and compared with the directory at their end."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stream_unzip import MissingPasswordError, UnsupportedFeatureError, UnzipError, stream_unzip

from airflow_serving_reload.delivery.archive.destination import Destination
from airflow_serving_reload.delivery.errors import Corrupt, Refused
from airflow_serving_reload.delivery.streams import CHUNK, Readable

LOOKED_AHEAD = 64
"""Bytes behind a member, at most, that are read to find its end."""

ENTRY = struct.Struct("<4s16x2I3H12x")
"""Of an entry of the directory: how it begins, packed and unpacked length, lengths of its name, extra and comment."""

END = struct.Struct("<4s8xI4xH")
"""The record at the end: how it begins, length of the directory before it and of the comment behind it."""

END_64 = struct.Struct("<4s36xQ8x")
"""The record before that one where 32 bits do not do: how it begins, and the length of the directory."""

LOCATOR_64_BYTES = 20
"""What stands between the two."""

UNTOLD = 0xFFFFFFFF
"""What 32 bits tell of a length that they cannot tell."""

MORE_PER_ENTRY = 1024
"""Bytes of the directory that one member may take besides its name."""


def unzip(source: Readable, destination: Destination) -> None:
    """Unpack a zip archive.

    Whoever unpacks it by its directory must find the same in it: other tools do, and so does who looks into it first.

    :raises Refused: its directory tells of other members than came, or of others beside them.
    :raises Corrupt: it is damaged, or does not end with its directory.
    """
    try:
        _unzip(source, destination)
    except (MissingPasswordError, UnsupportedFeatureError) as error:
        raise Refused(
            f"unpacking {destination.archive}: it is a zip that cannot be read while it comes "
            f"({type(error).__name__}); pack it by deflate and without a password, or as tar"
        ) from error
    except (UnzipError, zlib.error) as error:
        why = type(error).__name__
        raise Corrupt(f"unpacking {destination.archive}: it is damaged ({why}); upload it again") from error


def _unzip(source: Readable, destination: Destination) -> None:
    ending = _Ending(destination.archive)
    packed = ending.watch(source)
    lengths: dict[bytes, int] = {}
    for raw_name, size, chunks in stream_unzip(packed, chunk_size=CHUNK):
        ending.begin_member()
        name, counted = _decoded(raw_name), _Counted(chunks)
        if name.endswith("/"):
            destination.add_folder(name)
            if any(counted):
                destination.refuse(name, "it is a folder that holds bytes itself")
        else:
            destination.add_file(name, counted, size=size or 0, executable=False)
        lengths[raw_name] = counted.total
        ending.end_member(raw_name)
    for _ in packed:
        pass
    for raw_name, length in ending.directory():
        found = lengths.pop(raw_name, None)
        if found is None:
            destination.refuse(_decoded(raw_name), "the directory at the end names it, but no such member came")
        if length not in (found, UNTOLD):
            destination.refuse(_decoded(raw_name), f"{found} bytes came, but the directory at the end says {length}")
    for raw_name in lengths:
        destination.refuse(_decoded(raw_name), "the directory at the end does not name it")


def _decoded(raw_name: bytes) -> str:
    return raw_name.decode("utf-8", "surrogateescape")


@dataclass
class _Counted:
    """The bytes of a member, counted while they are given on."""

    chunks: Iterable[bytes]
    total: int = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.total += len(chunk)
            yield chunk


@dataclass
class _Ending:
    """What stands behind the last member, kept out of the passing stream.

    :param archive: what to call the archive in messages.
    """

    archive: str
    _kept: bytearray = field(default_factory=bytearray)
    _in_member: bool = False
    _longest: int = END.size + 0xFFFF + 2 * CHUNK

    def watch(self, source: Readable) -> Iterator[bytes]:
        """Give what comes."""
        while chunk := source.read(CHUNK):
            if self._in_member:
                del self._kept[:-LOOKED_AHEAD]
            self._kept += chunk
            if not self._in_member and len(self._kept) > self._longest:
                raise self._without_end()
            yield chunk

    def begin_member(self) -> None:
        """Forget what stands before the data of a member, as soon as more comes."""
        self._in_member = True

    def end_member(self, raw_name: bytes) -> None:
        """Keep what comes from here on: it may be the end of the archive."""
        self._in_member = False
        self._longest += ENTRY.size + len(raw_name) + MORE_PER_ENTRY

    def directory(self) -> Iterator[tuple[bytes, int]]:
        """Give name and length of all that the directory names.

        :raises Corrupt: there is no whole one at the end.
        """
        at, end = self._place()
        while at < end:
            if end - at < ENTRY.size:
                raise self._without_end()
            begins, _, length, *lengths = ENTRY.unpack_from(self._kept, at)
            if begins != b"PK\x01\x02":
                raise self._without_end()
            at += ENTRY.size
            yield bytes(self._kept[at : at + lengths[0]]), length
            at += sum(lengths)
        if at != end:
            raise self._without_end()

    def _place(self) -> tuple[int, int]:
        """Find where the directory begins and ends."""
        end = self._kept.rfind(b"PK\x05\x06", max(0, len(self._kept) - END.size - 0xFFFF))
        if end < 0 or len(self._kept) < end + END.size:
            raise self._without_end()
        _, size, comment = END.unpack_from(self._kept, end)
        if len(self._kept) != end + END.size + comment:
            raise self._without_end()
        end_64 = end - LOCATOR_64_BYTES - END_64.size
        if end_64 >= 0 and self._kept.startswith(b"PK\x06\x06", end_64):
            _, size = END_64.unpack_from(self._kept, end_64)
            end = end_64
        if size > end:
            raise self._without_end()
        return end - size, end

    def _without_end(self) -> Corrupt:
        return Corrupt(f"unpacking {self.archive}: it does not end with the record that ends a zip; upload it again")
