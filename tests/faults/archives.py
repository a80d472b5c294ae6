"""Hostile archives, made by code: what each is, and what has to come of it when it is unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_serving_reload.delivery.archive import DEFAULT_LIMITS, Limits
from airflow_serving_reload.delivery.errors import Corrupt, DeliveryError, Refused
from tests.delivery.packing import COMPRESSORS, Member, file, folder, hard_link, symlink, tar, zipped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MIB = 1 << 20
NOISE = random.Random(0).randbytes(5000)
UP = "../outside/secret"
NAME = "it begins with .*, which is neither tar .* nor zip; check remote_model_name"
LEADS_UP = "its name is absolute or leads upwards"
CONTROL = "its name holds control characters"
TWICE = "the name stands in it twice"
SPECIAL = "it is a device, a FIFO or another special file"
END = "upload it again"

Packed = bytes | Callable[[str], bytes | Iterable[bytes]]
"""An archive, or what makes it in one piece or many, given the path of a folder that is nobody's to touch."""


@dataclass(frozen=True)
class Case:
    """A hostile archive.

    :param packed: its bytes.
    :param fault: what has to be raised; None if it does no harm.
    :param why: pattern of the message behind the archive's name.
    :param limits: bounds to unpack it with.
    """

    packed: Packed
    fault: type[DeliveryError] | None = None
    why: str = ""
    limits: Limits = DEFAULT_LIMITS

    def pieces(self, outside: str) -> Iterable[bytes]:
        """Make it, in pieces of unhandy length."""
        packed = self.packed(outside) if callable(self.packed) else self.packed
        if not isinstance(packed, bytes):
            return packed
        return (packed[begin : begin + 1789] for begin in range(0, len(packed), 1789))


def refused(packed: Packed, why: str, limits: Limits = DEFAULT_LIMITS) -> Case:
    """Describe one that holds what a model has no business to hold."""
    return Case(packed, Refused, why, limits)


def corrupt(packed: Packed, why: str = END) -> Case:
    """Describe one whose bytes are not what its format demands."""
    return Case(packed, Corrupt, why)


def harmless(packed: Packed, limits: Limits = DEFAULT_LIMITS) -> Case:
    """Describe one that looks worse than it is."""
    return Case(packed, limits=limits)


def raw_header(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """Make a header that belongs to the member behind it, as tarfile itself would never write it."""
    header = file("header", type=kind, size=len(data) if size is None else size).header()
    return header.tobuf(format=tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def checksummed(block: bytes | bytearray) -> bytes:
    """Give a header of a tar archive the checksum that it should have."""
    total = sum(block[:148]) + 8 * 0x20 + sum(block[156:512])
    return bytes(block[:148]) + b"%06o\0 " % total + bytes(block[156:])


def sparse(spans: Iterable[tuple[int, int]], size: int, data: bytes = b"x" * 1024, *, continued: bool = False) -> bytes:
    """Make a tar archive with a sparse file as GNU wrote it first, its map in the header."""
    header = bytearray(file("m/sparse", data, type=tarfile.GNUTYPE_SPARSE).header().tobuf(format=tarfile.GNU_FORMAT))
    spans = list(spans)
    for number, (begin, length) in enumerate(spans):
        header[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (begin, length)
    header[482] = continued
    header[483:495] = b"%011o\0" % size
    return checksummed(header) + data + bytes(-len(data) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def with_dictionary(packed: bytes, exponent: int) -> bytes:
    """Change how much memory an xz archive asks for: 40 for 4 GiB, and half of that for each two less."""
    begin, end = 12, 12 + (packed[12] + 1) * 4
    block = bytearray(packed[begin : end - 4])
    block[4] = exponent
    return packed[:begin] + bytes(block) + struct.pack("<I", zlib.crc32(block)) + packed[end:]


def of_zip(place: int, value: bytes, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive of one file, and change its first header."""
    packed = zipped([("m/a", NOISE)], method)
    return packed[:place] + value + packed[place + len(value) :]


class _Unseekable(io.RawIOBase):
    """A file that cannot go back to its beginning, so that zip tells the lengths behind the data."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        self.packed += bytes(data)
        return len(bytes(data))


def described_behind(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Make a zip archive whose headers know neither length nor digest, as packers make that stream."""
    target = _Unseekable()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return bytes(target.packed)


def renamed(old: bytes, new: bytes, *, local: bool) -> bytes:
    """Make a zip archive of two files, one of which has another name in the central directory than before its data."""
    packed = zipped([("m/a", NOISE), ("m/z", NOISE)])
    central = packed.index(b"PK\x01\x02")
    parts = packed[:central], packed[central:]
    return b"".join(part.replace(old, new) if (number == 0) is local else part for number, part in enumerate(parts))


def in_directory(place: int, value: bytes) -> bytes:
    """Make a zip archive of two files, and change the entry of the second one in the directory."""
    packed = bytearray(zipped([("m/a", NOISE), ("m/z", NOISE)]))
    entry = packed.rindex(b"PK\x01\x02") + place
    packed[entry : entry + len(value)] = value
    return bytes(packed)


def at_end(place: int, value: bytes) -> bytes:
    """Make a zip archive of two files, and change the record at its end."""
    packed = bytearray(zipped([("m/a", NOISE), ("m/z", NOISE)]))
    end = packed.rindex(b"PK\x05\x06") + place
    packed[end : end + len(value)] = value
    return bytes(packed)


def without_directory_entry() -> bytes:
    """Make a zip archive of two files, of which the directory names only the first."""
    whole = zipped([("m/a", NOISE), ("m/z", NOISE)])
    entry, end = whole.rindex(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    size = end - whole.index(b"PK\x01\x02") - (end - entry)
    return whole[:entry] + whole[end : end + 12] + size.to_bytes(4, "little") + whole[end + 16 :]


def members(count: int, member: Member) -> Callable[[str], Iterable[bytes]]:
    """Make a tar archive of many equal members."""
    block = member.header().tobuf()
    return lambda _outside: itertools.chain(itertools.repeat(block * 1000, count // 1000), [bytes(1024)])


def flood(count: int) -> Callable[[str], Iterable[bytes]]:
    """Make a gzip that is nothing but zeros behind the end of a short archive."""
    piece = gzip.compress(bytes(MIB))
    return lambda _outside: itertools.chain([gzip.compress(tar(file("m/a")))], itertools.repeat(piece, count))


def chain(*before: str, length: int) -> bytes:
    """Make links of which each leads to the next one."""
    return tar(*(symlink(f"m/{number}", "/".join([*before, str(number + 1)])) for number in range(length)))


FEW = Limits(members=1000)
SMALL = Limits(total_bytes=MIB)
GIGANTIC = b"\xff\xff\xff\xfe"
TIGHT = Limits(ratio=50, ratio_from=1000)
RATIO = "'m/a': it would unpack to more than 50 times its packed size"
BOMB = tar(file("m/a", bytes(MIB)))

CORPUS: dict[str, dict[str, Case]] = {
    "absolute names": {
        "file": refused(lambda outside: tar(file(f"{outside}/evil")), f"evil': {LEADS_UP}"),
        "folder": refused(lambda outside: tar(folder(f"{outside}/evil")), LEADS_UP),
        "of PAX": refused(lambda outside: tar(file("x", pax_headers={"path": f"{outside}/evil"})), LEADS_UP),
        "of GNU": refused(lambda outside: raw_header(b"L", f"{outside}/evil".encode()) + tar(file("x")), LEADS_UP),
        "two slashes": refused(lambda outside: tar(file(f"/{outside}/evil")), LEADS_UP),
        "zip": refused(lambda outside: zipped([(f"{outside}/evil", b"evil")]), LEADS_UP),
        "drive": harmless(zipped([("C:\\evil", b"evil")])),
    },
    "names upwards": {
        "file": refused(tar(file(UP)), f"'{UP}': {LEADS_UP}"),
        "inside": refused(tar(file("m/../../x")), f"'m/../../x': {LEADS_UP}"),
        "staying inside": refused(tar(folder("m"), file("m/../x")), LEADS_UP),
        "folder": refused(tar(folder("../outside/new")), LEADS_UP),
        "folder itself": refused(tar(folder("..")), LEADS_UP),
        "empty part": refused(tar(file("m//x")), f"'m//x': {LEADS_UP}"),
        "dot": refused(tar(file("./m/./x")), LEADS_UP),
        "of PAX": refused(tar(file("x", pax_headers={"path": UP})), LEADS_UP),
        "of PAX for all": refused(raw_header(b"g", b"27 path=../outside/secret\n") + tar(file("x")), LEADS_UP),
        "of GNU": refused(raw_header(b"L", UP.encode() + b"\0") + tar(file("x")), LEADS_UP),
        "of a sparse file": refused(
            tar(
                file(
                    "x",
                    b"1\n0\n5\n" + bytes(506) + b"hello",
                    pax_headers={
                        "GNU.sparse.major": "1",
                        "GNU.sparse.minor": "0",
                        "GNU.sparse.name": UP,
                        "GNU.sparse.realsize": "8192",
                    },
                )
            ),
            LEADS_UP,
        ),
        "zip": refused(zipped([(UP, b"evil")]), f"'{UP}': {LEADS_UP}"),
        "zip folder": refused(zipped([("../outside/new/", b"")]), LEADS_UP),
        "zip, backslashes": harmless(zipped([("..\\outside\\secret", b"evil")])),
    },
    "symbolic links": {
        "out": refused(tar(symlink("l", UP)), rf"'l': it is a link to '{UP}', out of the archive"),
        "upwards": refused(tar(symlink("l", "..")), r"'l': it is a link to '\.\.', out of the archive"),
        "absolute": refused(tar(symlink("m/l", "/etc")), "'m/l': it is a link to '/etc', out of the archive"),
        "to nothing": refused(tar(symlink("m/l", "")), "'m/l': it is a link to '', which is no path"),
        "with NUL": refused(
            tar(file("m/l", b"", type=tarfile.SYMTYPE, linkname="x", pax_headers={"linkpath": "a\0b"})),
            "'m/l': it is a",
        ),
        "with newline": refused(tar(symlink("m/l", "a\nb")), "which is no path"),
        "endless": refused(tar(symlink("m/l", "y" * 5000)), "'m/l': it is a link to 'yyy"),
        "of GNU": refused(raw_header(b"K", UP.encode()) + tar(symlink("l", "x")), "out of the archive"),
        "of PAX": refused(
            tar(file("m/l", b"", type=tarfile.SYMTYPE, pax_headers={"linkpath": "/etc"})), "to '/etc', out"
        ),
        "overwritten": refused(tar(symlink("l", UP), file("l", b"evil")), f"'l': {TWICE}"),
        "a folder over it": refused(
            tar(symlink("l", "../outside"), folder("l")), "'l': a file has the name of its folder"
        ),
        "inside": harmless(tar(symlink("m/l", "real"), symlink("self", "m/.."), file("m/real/a", b"1"))),
        "to what is not there": harmless(tar(symlink("m/l", "absent/../other"))),
        "in a zip": harmless(zipped([("m/l", UP.encode())])),  # whose kinds are told behind all data
    },
    "chained links": {
        "out": refused(
            tar(symlink("a", "m/b"), folder("m"), symlink("m/b", "../../outside")), "it is a link to .*, out of the"
        ),
        "through a folder": refused(
            tar(folder("m"), symlink("m/here", "."), symlink("l", "m/here/../../outside")), "'l': it is a .*, out of"
        ),
        "backwards": refused(tar(symlink("m/b", ".."), symlink("m/a", "b/.."), file("m/x")), "'m/a': .*, out of"),
        "very long": refused(chain(length=1500), "'m/0': .* through too many other links"),
        "very long, through nothing": refused(chain("gone", "..", length=1500), "'m/0': .* through too many other"),
        "in a circle": refused(tar(symlink("m/a", "b"), symlink("m/b", "a")), "'m/a': .* to 'b', in a circle or"),
        "to itself": refused(tar(symlink("m/a", "a/x")), "'m/a': .* in a circle or"),
        "inside": harmless(chain(length=30)),
    },
    "links written through": {
        "file": refused(tar(symlink("l", "../outside"), file("l/secret", b"evil")), "'l/secret': a file has the name"),
        "folder": refused(tar(symlink("l", "../outside"), folder("l/new")), "'l/new': a file has the name of"),
        "hard link": refused(tar(symlink("l", "../outside"), hard_link("m/h", "l/secret")), "which is no file"),
        "through two": refused(
            tar(symlink("a", "."), symlink("a/b", "../outside"), file("a/b/secret")), "'a/b': a file has the name"
        ),
        "absolute": refused(
            lambda outside: tar(symlink("l", outside), file("l/secret", b"evil")), "'l/secret': a file has the name"
        ),
        "link made again": refused(tar(symlink("l", "m"), symlink("l", "../outside"), file("l/x")), f"'l': {TWICE}"),
    },
    "hard links": {
        "out": refused(tar(hard_link("m/h", UP)), f"'{UP}': {LEADS_UP}"),
        "absolute": refused(lambda outside: tar(hard_link("m/h", f"{outside}/secret")), LEADS_UP),
        "ahead": refused(tar(hard_link("m/h", "m/a"), file("m/a")), "'m/h': it is a hard link to 'm/a', which is no"),
        "to a folder": refused(tar(folder("m/d"), hard_link("m/h", "m/d")), "'m/h': it is a hard link to 'm/d'"),
        "to a link": refused(tar(symlink("m/l", UP), hard_link("m/h", "m/l")), "to 'm/l', which is no file"),
        "to itself": refused(tar(hard_link("m/h", "m/h")), "which is no file before it"),
        "over a file": refused(tar(file("m/a"), file("m/b"), hard_link("m/b", "m/a")), f"'m/b': {TWICE}"),
        "inside": harmless(tar(file("m/a"), hard_link("m/h", "m/a"), hard_link("m/i", "m/h"))),
    },
    "devices and FIFOs": {
        "character device": refused(
            tar(file("m/d", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), f"'m/d': {SPECIAL}"
        ),
        "block device": refused(tar(file("m/d", type=tarfile.BLKTYPE, devmajor=8)), f"'m/d': {SPECIAL}"),
        "FIFO": refused(tar(file("m/p", type=tarfile.FIFOTYPE)), f"'m/p': {SPECIAL}"),
        "unknown kind": refused(tar(file("m/z", type=b"Z", size=1 << 60)), f"'m/z': {SPECIAL}"),
        "volume": refused(tar(file("m/z", type=b"V")), SPECIAL),
        "part of a file": refused(tar(file("m/z", type=b"M")), SPECIAL),
    },
    "set-user-id and owners": {
        "set-user-id": harmless(tar(file("m/a", mode=0o6777, uid=0, gid=0, uname="root"))),
        "sticky folder": harmless(tar(file("m", b"", type=tarfile.DIRTYPE, mode=0o7777, uid=12345), file("m/a"))),
        "without permission": harmless(tar(file("m", b"", type=tarfile.DIRTYPE, mode=0), file("m/a", mode=0))),
        "capabilities": harmless(tar(file("m/a", pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2"}))),
    },
    "duplicate names": {
        "files": refused(tar(file("m/a"), file("m/a")), f"'m/a': {TWICE}"),
        "two spellings": refused(tar(file("m/a"), file("./m/a")), f"'./m/a': {TWICE}"),
        "folders": harmless(tar(folder("m"), folder("m"), folder("m/"), file("m/a"))),
        "file as folder": refused(tar(file("m/a"), file("m/a/b")), "'m/a/b': a file has the name of its folder"),
        "folder as file": refused(tar(folder("m/a"), file("m/a")), f"'m/a': {TWICE}"),
        "file made a folder": refused(tar(file("m/a"), folder("m/a")), "'m/a': a file has the name of its folder"),
        "the top as a file": refused(tar(file(".")), rf"'\.': {TWICE}"),
        "no name": refused(tar(file("x", pax_headers={"path": ""})), f"'': {TWICE}"),
        "zip": refused(zipped([("m/a", b"1"), ("m/a", b"2")]), f"'m/a': {TWICE}"),
        "zip, file as folder": refused(zipped([("m/a", b"1"), ("m/a/b", b"2")]), "'m/a/b': a file has the name of"),
    },
    "case-colliding names": {
        "tar": harmless(tar(file("m/README", b"1"), file("m/readme", b"2"), folder("M"), file("M/readme"))),
        "zip": harmless(zipped([("m/README", b"1"), ("m/readme", b"2")])),
        "two forms of one letter": harmless(tar(file("m/\u00e9"), file("m/e\u0301"))),
        "link": refused(tar(symlink("L", "../outside"), file("l/secret")), "'L': .* out of the archive"),
    },
    "NUL, newline and long names": {
        "NUL": refused(tar(file("x", pax_headers={"path": "m/a\0b"})), CONTROL),
        "newline": refused(tar(file("m/a\nb")), CONTROL),
        "escape": refused(tar(file("m/\x1b[2J")), CONTROL),
        "zip, NUL": refused(zipped([("m/aXb", b"1")]).replace(b"m/aXb", b"m/a\0b"), CONTROL),
        "zip, newline": refused(zipped([("m/a\nb", b"1")]), CONTROL),
        "zip, 64 KiB": refused(zipped([("m" * 65535, b"1")]), r"'m{200}': .*is too long"),
        "long part": refused(tar(file("m/" + "y" * 256)), "its name .*is too long"),
        "long path": refused(tar(file("/".join(["d" * 200] * 25))), "its name .*is too long"),
        "deep path": refused(tar(file("/".join(["d"] * 1500))), "its name .*is too long"),
        "deepest path": harmless(tar(file("/".join(["d"] * 512)))),
        "no letters": harmless(tar(Member("m/\udcff\udcfe", b"1"), format=tarfile.GNU_FORMAT)),
        "options and patterns": harmless(tar(file("m/-rf"), file("m/*"), file("m/$(id)"), file("m/~"))),
    },
    "sparse files": {
        "as it should be": harmless(sparse([(0, 512), (4096, 512)], 8192)),
        "overlapping": harmless(sparse([(0, 512), (0, 512)], 8192)),
        "backwards": harmless(sparse([(4096, 512), (0, 512)], 8192)),
        "beyond its end": harmless(sparse([(0, 512), (1 << 30, 512)], 8192)),
        "more than there is": corrupt(sparse([(0, MIB)], MIB), "it is damaged"),
        "map without end": corrupt(sparse([(0, 512)], 8192, continued=True), "it is damaged"),
        "gigantic": refused(sparse([(0, 512)], (1 << 33) - 1), "more than 50 times its packed size", TIGHT),
        "of PAX": harmless(
            tar(file("m/a", b"hello", pax_headers={"GNU.sparse.map": "0,5", "GNU.sparse.size": "10"})),
        ),
        "of PAX, before its begin": harmless(
            tar(file("m/a", b"hello", pax_headers={"GNU.sparse.map": "-100,5", "GNU.sparse.size": "10"})),
        ),
        "of PAX, no numbers": corrupt(
            tar(file("m/a", b"hello", pax_headers={"GNU.sparse.map": "a,b", "GNU.sparse.size": "5"})), "damaged"
        ),
        "of PAX, no map": corrupt(
            tar(
                file(
                    "m/a",
                    pax_headers={
                        "GNU.sparse.major": "1",
                        "GNU.sparse.minor": "0",
                        "GNU.sparse.name": "q",
                        "GNU.sparse.realsize": "5",
                    },
                ),
                file("m/b", NOISE),
            ),
            "damaged",
        ),
    },
    "gigantic declared sizes": {
        "tar": refused(tar(file("m/a", size=1 << 50)), "'m/a': it would unpack to more than 4398046511104 bytes"),
        "of GNU": refused(tar(file("m/a", size=1 << 80), format=tarfile.GNU_FORMAT), "'m/a': it would unpack to more"),
        "of PAX": refused(tar(file("m/a", pax_headers={"size": "9" * 40})), "'m/a': it would unpack to more than"),
        "less than nothing": corrupt(tar(file("m/a", size=-5), format=tarfile.GNU_FORMAT), "less than nothing"),
        "less than nothing, of PAX": corrupt(tar(file("m/a", pax_headers={"size": "-600"})), "less than nothing"),
        "long name": corrupt(raw_header(b"L", b"x", 1 << 33) + tar(file("m/a"))),
        "link": harmless(tar(file("m/l", b"", type=tarfile.SYMTYPE, linkname="a", size=1 << 50))),
        "zip": refused(of_zip(18, GIGANTIC * 2, method=0), "'m/a': it would unpack to more than 1048576 bytes", SMALL),
        "zip, deflated": refused(of_zip(22, GIGANTIC), "'m/a': it would unpack to more than 1048576 bytes", SMALL),
        "zip, never there": corrupt(of_zip(18, GIGANTIC * 2, method=0), r"damaged \(TruncatedDataError\)"),
    },
    "compression bombs": {
        **{name: refused(compress(BOMB), RATIO, TIGHT) for name, compress in COMPRESSORS.items() if name != "tar"},
        "bzip2, of many streams": refused(
            bz2.compress(BOMB[: MIB // 2]) + bz2.compress(BOMB[MIB // 2 :]), RATIO, TIGHT
        ),
        "zip": refused(zipped([("m/a", bytes(MIB))]), RATIO, TIGHT),
        "zip by bzip2": refused(zipped([("m/a", bytes(MIB))], zipfile.ZIP_BZIP2), RATIO, TIGHT),
        "many small ones": refused(
            gzip.compress(tar(*(file(f"m/{number}", bytes(999)) for number in range(1000)))),
            "more than 50 times",
            TIGHT,
        ),
        "folder of a zip": refused(zipped([("m/", bytes(MIB))]), "'m/': it is a folder that holds bytes"),
        "zeros behind the end": corrupt(flood(1 << 20), "something follows behind its end"),
        "memory for xz": corrupt(with_dictionary(lzma.compress(BOMB, preset=0), 40), "Memory usage limit exceeded"),
        "memory for Zstandard": corrupt(b"\x28\xb5\x2f\xfd\0" + bytes([21 << 3]) + NOISE, "too much memory"),
        "an archive in an archive": harmless(tar(file("m/a", gzip.compress(BOMB)))),
    },
    "millions of empty members": {
        "folders": refused(members(2_000_000, folder("m")), "more than 1000 members", FEW),
        "links": refused(
            lambda _outside: (symlink(f"m/{number}", "0").header().tobuf() for number in itertools.count()),
            "more than 1000 members",
            FEW,
        ),
        "files": refused(
            lambda _outside: (file(f"m/{number}", b"").header().tobuf() for number in itertools.count()),
            "more than 1000 members",
            FEW,
        ),
        "zip": refused(zipped([(f"m/{number}", b"") for number in range(1500)]), "more than 1000 members", FEW),
        "headers only": refused(members(2_000_000, file("h", b"", type=tarfile.XHDTYPE)), "nested in it too deeply"),
    },
    "wrong magic": {
        "page of a web server": refused(b"<!DOCTYPE html><html>" + b" " * 5000, NAME),
        "noise": refused(NOISE, NAME),
        "RAR": refused(b"Rar!\x1a\x07\x01\0" + NOISE, NAME),
        "7z": refused(b"7z\xbc\xaf\x27\x1c" + NOISE, NAME),
        "nothing": corrupt(b"", "it ends after 0 bytes, which is no archive"),
        "a page, compressed": corrupt(gzip.compress(b"<html>" * 1000), "the header of a member is damaged"),
        "compressed twice": corrupt(gzip.compress(gzip.compress(BOMB)), "damaged|without the mark"),
        **{
            f"noise behind that of {name}": corrupt(magic + NOISE, "it is damaged")
            for name, magic in {
                "gzip": b"\x1f\x8b",
                "bzip2": b"BZh9",
                "xz": b"\xfd7zXZ\0",
                "Zstandard": b"\x28\xb5\x2f\xfd\x24",
            }.items()
        },
        "that of zip alone": corrupt(b"PK\x03\x04", "it is damaged"),
    },
    "trailing garbage": {
        "tar": corrupt(tar(file("m/a")) + b"garbage"),
        "tar behind tar": corrupt(tar(file("m/a")) + tar(file("m/b")), "something follows behind its end"),
        "tar, far behind": corrupt(tar(file("m/a")) + bytes(3 * MIB) + b"garbage", "something follows"),
        "gzip": corrupt(gzip.compress(tar(file("m/a"))) + b"garbage"),
        "gzip behind gzip": corrupt(gzip.compress(tar(file("m/a"))) + gzip.compress(b"garbage")),
        "bzip2": corrupt(COMPRESSORS["tar.bz2"](tar(file("m/a"))) + b"garbage"),
        "xz": corrupt(lzma.compress(tar(file("m/a"))) + b"garbage"),
        "Zstandard": corrupt(COMPRESSORS["tar.zst"](tar(file("m/a"))) + b"garbage"),
        "zip": corrupt(zipped([("m/a", b"1")]) + b"garbage", "does not end with the record that ends a zip"),
        "zip, zeros": corrupt(zipped([("m/a", b"1")]) + bytes(100_000), "does not end with the record"),
        "zip behind zip": corrupt(zipped([("m/a", b"1")]) + zipped([("m/b", b"1")])[:-1], "does not end with"),
        "bzip2, long": corrupt(bz2.compress(tar(file("m/a"))) + NOISE),
        "zeros": harmless(tar(file("m/a")) + bytes(10240)),
        "zeros behind xz": harmless(lzma.compress(tar(file("m/a"))) + bytes(4096)),
    },
    "oddities of PAX": {
        "too long": refused(raw_header(b"x", b"30 path=m/b\n") + tar(file("m/a")), CONTROL),
        "of no length": corrupt(raw_header(b"x", b"0 path=m/b\n") + tar(file("m/a")), "it is damaged"),
        "no number": harmless(raw_header(b"x", b"xx path=m/b\n") + tar(file("m/a"))),
        "no value": harmless(raw_header(b"x", b"9 path\n\n\n") + tar(file("m/a"))),
        "other letters": harmless(tar(file("m/a", pax_headers={"hdrcharset": "BINARY", "path": "m/\udcff"}))),
        "nothing behind it": corrupt(raw_header(b"x", b"12 path=m/b\n") + bytes(1024), "it is damaged"),
        "for all, without end": corrupt(raw_header(b"g", b"12 path=m/b\n") * 300 + bytes(1024), "it is damaged"),
        "one on the other": refused(raw_header(b"x", b"12 path=m/b\n") * 1000 + tar(file("m/a")), "too deeply"),
        "kept for a link": harmless(
            tar(file("m/l", b"", type=tarfile.SYMTYPE, linkname="a", pax_headers={"size": "9"}))
        ),
        "times": harmless(tar(file("m/a", pax_headers={"mtime": "1e400", "atime": "nan", "uid": "x"}))),
    },
    "oddities of GNU": {
        "nothing behind it": corrupt(raw_header(b"L", b"m/b\0") + bytes(1024), "it is damaged"),
        "one on the other": refused(raw_header(b"L", b"m/b\0") * 1000 + tar(file("m/a")), "too deeply"),
        "both kinds": harmless(raw_header(b"L", b"m/b\0") + raw_header(b"K", b"c\0") + tar(symlink("x", "y"))),
        "no name in it": refused(raw_header(b"L", b"\0") + tar(file("m/a")), f"'': {TWICE}"),
        "in pieces": harmless(tar(file("m/a", type=tarfile.CONTTYPE))),
        "list of a folder": refused(tar(file("m/a", b"Yx\0\0", type=b"D")), SPECIAL),
        "no checksum": corrupt(tar(file("m/a"), ended=False) + tar(file("m/b"))[:148] + bytes(364) + bytes(1024)),
    },
    "oddities of zip": {
        "another local name": refused(renamed(b"m/z", b"../", local=True), LEADS_UP),
        "another central name": refused(
            renamed(b"m/z", b"../", local=False), "'../': the directory at the end names it"
        ),
        "another central length": refused(
            in_directory(24, b"\0\0\0\1"), "'m/z': .* the directory at the end says 16777216"
        ),
        "not in the directory": refused(without_directory_entry(), "'m/z': the directory at the end does not name it"),
        "longer directory": corrupt(at_end(12, b"\xff"), "does not end with the record"),
        "shorter directory": corrupt(at_end(12, b"\1"), "does not end with the record"),
        "twice by its local name": refused(renamed(b"m/z", b"m/a", local=True), f"'m/a': {TWICE}"),
        "password": refused(of_zip(6, b"\x01"), "it is a zip that cannot be read .*MissingZipCryptoPassword"),
        "hidden names": refused(of_zip(6, b"\0\x20"), "it is a zip that cannot be read .*UnsupportedFlags"),
        "unknown method": refused(of_zip(8, b"\x0e"), "it is a zip that cannot be read .*UnsupportedCompression"),
        "length told behind": refused(
            of_zip(6, b"\x08", method=0)[:18] + bytes(8) + of_zip(6, b"\x08", method=0)[26:],
            "it is a zip that cannot be read .*NotStreamUnzippable",
        ),
        "another digest": corrupt(of_zip(14, b"\0\0\0\0"), r"damaged \(CRC32IntegrityError\)"),
        "another length": corrupt(of_zip(22, b"\0\0\0\1"), r"damaged \(UncompressedSizeIntegrityError\)"),
        "no end": corrupt(zipped([("m/a", NOISE)])[:-22], "does not end with the record"),
        "nothing in it": harmless(zipped([])),
        "broken Deflate64": corrupt(of_zip(8, b"\x09", method=0), "it is damaged"),
    },
}
"""Every hostile archive by its name, in groups."""

CASES = {f"{kind}: {name}": case for kind, cases in CORPUS.items() for name, case in cases.items()}
