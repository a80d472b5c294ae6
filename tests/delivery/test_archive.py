"""Archives: they come out as they went in, whole or not at all, and do no harm to the host."""

from __future__ import annotations

import gzip
import io
import itertools
import lzma
import os
import random
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from airflow_serving_reload.delivery.archive import Contents, Limits, find_folder, is_archive_name, pack, unpack
from airflow_serving_reload.delivery.archive.packing import PACKERS
from airflow_serving_reload.delivery.errors import Corrupt, PublicationFailed, Refused
from airflow_serving_reload.delivery.streams import Readable

from .models import contents
from .packing import COMPRESSORS, Endless, Member, file, folder, symlink, tar, zipped

MIB = 1 << 20
NOISE = random.Random(0).randbytes(MIB + MIB // 4)
SMALL_NOISE = NOISE[:3000]


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """Give an empty folder to unpack in, beside which lies something that is nobody's to touch."""
    outside = tmp_path / "host" / "outside"
    outside.mkdir(parents=True)
    (outside / "secret").write_text("untouched")
    staging = tmp_path / "host" / "staging"
    staging.mkdir()
    return staging


@pytest.fixture(autouse=True)
def _nothing_outside_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever an archive holds: nothing beside the folder that it is unpacked in changes."""
    if "staging" not in request.fixturenames:
        yield
        return
    staging: Path = request.getfixturevalue("staging")

    def outside() -> dict[str, object]:
        return {
            str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_nlink)
            for path in staging.parent.rglob("*")
            if not path.is_relative_to(staging)
        }

    before = outside()
    yield
    assert outside() == before
    assert (staging.parent / "outside" / "secret").read_text() == "untouched"


def unpacked(packed: bytes, staging: Path, limits: Limits = Limits()) -> Contents:  # noqa: B008 - it is frozen
    """Unpack bytes that come in pieces of unhandy length."""
    pieces = (packed[begin : begin + 1789] for begin in range(0, len(packed), 1789))
    return unpack(Endless(pieces), staging, name="model.tar", limits=limits)


def _model(folder: Path) -> Path:
    """Write a model with everything that names and files can be."""
    (folder / "nested" / "more deeply").mkdir(parents=True)
    (folder / "empty folder").mkdir()
    for name, data in {
        "with space": b"1",
        "模型.pdmodel": "模型".encode(),
        "-rf": b"3",
        "empty": b"",
        "nested/more deeply/noise": NOISE,
        "x" * 200: b"long",
    }.items():
        (folder / name).write_bytes(data)
    (folder / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "run").chmod(0o750)
    return folder


@pytest.mark.parametrize("ending", PACKERS)
def test_tar_round_trip(ending: str, tmp_path: Path, staging: Path) -> None:
    """What is packed into a tar archive of any compression comes out the same, links included."""
    model = _model(tmp_path / "model 一")
    (model / "latest").symlink_to("nested/more deeply/noise")
    (model / "nested" / "up").symlink_to("../empty folder")
    os.link(model / "-rf", model / "same")
    with pack(model, f"archive{ending}") as packed:
        result = unpack(packed, staging, name="archive")
    assert contents(staging / "model 一") == contents(model)
    assert (staging / "model 一" / "-rf").samefile(staging / "model 一" / "same")
    assert result == Contents(files=8, total_bytes=len(NOISE) + 6 + 10 + 2 + 4)


def test_zip_round_trip(tmp_path: Path, staging: Path) -> None:
    """What is packed into a zip archive comes out the same, but for what a zip that streams past cannot tell."""
    model = _model(tmp_path / "model 一")
    expected = contents(model)
    expected["run"] = (*expected["run"][:2], False)
    (model / "latest").symlink_to("-rf")
    with pack(model, "archive.zip") as packed:
        result = unpack(packed, staging, name="archive")
    assert contents(staging / "model 一") == {**expected, "latest": ("file", b"3", False)}
    assert result == Contents(files=8, total_bytes=len(NOISE) + 1 + 6 + 1 + 10 + 1 + 4)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_dialect(format: Literal[0, 1, 2], staging: Path) -> None:  # noqa: A002 - tarfile's word
    """Archives in the dialects of other packers are unpacked, long names included."""
    long = "/".join(["folder" * 8] * 4)
    unpacked(tar(folder("m"), file("m/a", b"1"), file(f"m/{long}", SMALL_NOISE), format=format), staging)
    assert (staging / "m" / "a").read_bytes() == b"1"
    assert (staging / "m" / long).read_bytes() == SMALL_NOISE


def test_a_tar_from_before_posix(staging: Path) -> None:
    """The oldest dialect, without any magic number, is told by its checksum."""
    header = bytearray(file("m/a", b"1").header().tobuf(format=tarfile.USTAR_FORMAT))
    header[257:] = bytes(512 - 257)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 0x20 + header[156])
    unpacked(bytes(header) + b"1" + bytes(511) + bytes(1024), staging)
    assert (staging / "m" / "a").read_bytes() == b"1"


def test_what_the_tar_command_packs(tmp_path: Path, staging: Path) -> None:
    """What `tar` makes of the folder itself is unpacked, names beginning with `./` included."""
    model = _model(tmp_path / "model")
    packed = subprocess.run(["tar", "-C", model, "-czf", "-", "."], check=True, capture_output=True).stdout
    unpacked(packed, staging)
    assert contents(staging) == contents(model)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_other_zip_packers_make(compression: int, staging: Path) -> None:
    """Stored and deflated members of a zip archive are unpacked, folders and a comment included."""
    packed = io.BytesIO(zipped([("m/", b""), ("m/a", SMALL_NOISE), ("m/空", b"")], compression))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"made by a test"
    assert unpacked(packed.getvalue(), staging) == Contents(2, len(SMALL_NOISE))
    assert contents(staging / "m") == {"a": ("file", SMALL_NOISE, False), "空": ("file", b"", False)}


@pytest.mark.parametrize("ending", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_several_parts(ending: str, staging: Path) -> None:
    """Parts that parallel packers compress one by one are read as one archive."""
    plain = tar(file("m/a", SMALL_NOISE))
    unpacked(COMPRESSORS[ending](plain[:1000]) + COMPRESSORS[ending](plain[1000:]), staging)
    assert (staging / "m" / "a").read_bytes() == SMALL_NOISE


def test_names_of_archives() -> None:
    """An archive is told from a folder by the ending of its name."""
    assert all(is_archive_name(f"m{ending}") for ending in [*PACKERS, ".zip"])
    assert not any(is_archive_name(name) for name in ("m", "m.rar", "tar", "m.tar/x"))


def test_packing_into_what_is_no_archive(tmp_path: Path) -> None:
    """A name without a known ending is refused, with those that are known."""
    with pytest.raises(Refused, match=r"packing .* as m\.rar: its ending is none of \.tar, .*\.zip"):
        pack(tmp_path, "m.rar")


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_packing_what_vanishes(ending: str, tmp_path: Path) -> None:
    """A folder that is not there is refused by name, where its bytes are read."""
    with pack(tmp_path / "absent", f"m{ending}") as packed, pytest.raises((Refused, Corrupt), match="absent"):
        unpack(packed, tmp_path, name="m")


def test_packing_a_linked_folder_as_zip(tmp_path: Path) -> None:
    """A link to a folder, of which a zip archive would hold nothing, is refused rather than lost."""
    (tmp_path / "m" / "real").mkdir(parents=True)
    (tmp_path / "m" / "link").symlink_to("real")
    with pack(tmp_path / "m", "m.zip") as packed, pytest.raises(Refused, match=r"m/link is a link to a folder"):
        packed.read()


PLAIN = tar(folder("m"), file("m/a", SMALL_NOISE), file("m/b", b"tail" * 100))
PACKED = {
    **{name: compress(PLAIN) for name, compress in COMPRESSORS.items()},
    "zip": zipped([("m/a", SMALL_NOISE), ("m/b", b"tail" * 100)]),
}


@pytest.mark.parametrize("name", PACKED)
def test_truncated_archives(name: str, staging: Path) -> None:
    """An archive that was cut at any place before its end is corrupt, and never taken for a shorter one."""
    packed = PACKED[name]
    whole = len(packed) - (1024 if name == "tar" else 0)
    for cut in sorted({0, 1, 5, 300, *range(511, whole, 97), whole - 9, whole - 1}):
        shutil.rmtree(staging)
        staging.mkdir()
        with pytest.raises(Corrupt, match="upload it again"):
            unpacked(packed[:cut], staging)


@pytest.mark.parametrize("name", [name for name in PACKED if name != "tar"])
def test_flipped_bits(name: str, staging: Path) -> None:
    """A bit that changed in the data of a format with checks makes the archive corrupt."""
    for place in range(100, 2900, 350):
        damaged = bytearray(PACKED[name])
        damaged[place] ^= 0x10
        shutil.rmtree(staging)
        staging.mkdir()
        with pytest.raises(Corrupt, match=r"unpacking model\.tar: it is damaged"):
            unpacked(bytes(damaged), staging)


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip"])
def test_what_is_packed_has_checks(ending: str, tmp_path: Path, staging: Path) -> None:
    """A bit that changed in what was packed here is found, whatever the format, as long as it has checks."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_bytes(SMALL_NOISE)
    with pack(tmp_path / "m", f"m{ending}") as packed:
        damaged = bytearray(packed.read())
    damaged[len(damaged) // 2] ^= 0x10
    with pytest.raises(Corrupt, match="it is damaged"):
        unpacked(bytes(damaged), staging)


@pytest.mark.parametrize("header", [512, 512 + 512 + 3072])
@pytest.mark.parametrize("place", [0, 100, 124, 148, 156, 300])
def test_flipped_bits_of_a_header(header: int, place: int, staging: Path) -> None:
    """Tar checks its headers alone: a bit that changed in any of them makes the archive corrupt."""
    damaged = bytearray(PLAIN)
    damaged[header + place] ^= 0x04
    with pytest.raises(Corrupt, match="damaged"):
        unpacked(bytes(damaged), staging)


@pytest.mark.parametrize("checksum", ["%06o\0 ", "%07o\0"])
@pytest.mark.parametrize("byte", b"\0 \n017589_-+x/.\x80\xff")
def test_headers_are_read_as_the_standard_library_reads_them(byte: int, checksum: str, staging: Path) -> None:
    """Whatever stands in a field of a header: what comes out is what Python's own `tarfile` would take out."""
    header = file("m/a", bytes(10), mode=0o744).header().tobuf(format=tarfile.USTAR_FORMAT)
    rest = bytes(512 + 1024)
    for place in (*range(100, 108), *range(124, 136), 156, 157, 257, 345, 346, 499, 500, 511):
        changed = bytearray(header)
        changed[place] = byte
        changed[148:156] = b" " * 8
        changed[148:156] = (checksum % sum(changed)).encode()
        folder = staging / str(place)
        folder.mkdir()
        try:
            unpacked(bytes(changed) + rest, folder)
        except (Corrupt, Refused):
            assert _taken_out_by_tarfile(bytes(changed) + rest) is None, place
        else:
            files = [path for path in folder.rglob("*") if path.is_file()]
            found = [(path.relative_to(folder), path.read_bytes(), bool(path.stat().st_mode & 0o100)) for path in files]
            assert next(iter(found), None) == _taken_out_by_tarfile(bytes(changed) + rest), place


def _taken_out_by_tarfile(packed: bytes) -> tuple[Path, bytes, bool] | None:
    """Give the one file of an archive: its name, its bytes and whether it is executable; None if it is no such file."""
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            [member] = archive
            path = Path(member.name)
            if not member.isreg() or member.size < 0 or path.is_absolute() or ".." in path.parts or "\n" in str(path):
                return None
            data = archive.extractfile(member)
            return (path, data.read(), bool(member.mode & 0o100)) if data else None
    except (tarfile.TarError, ValueError, OverflowError):
        return None


def test_links_are_made_last(staging: Path) -> None:
    """A link inside may come before what it leads to, and nothing is written through it."""
    unpacked(tar(symlink("m/l", "real"), symlink("self", "m/.."), file("m/real/a", b"1")), staging)
    assert (staging / "m" / "l" / "a").read_bytes() == b"1"
    assert (staging / "self").resolve() == staging


def test_an_absolute_link_inside(staging: Path) -> None:
    """An absolute link, which would lead astray once the folder is renamed, is refused wherever it leads."""
    target = staging / "m" / "a"
    with pytest.raises(Refused, match=f"'m/l': it is a link to '{target}', out of the archive"):
        unpacked(tar(file("m/a"), symlink("m/l", str(target))), staging)


def test_links_that_lead_nowhere(staging: Path) -> None:
    """A link to what is not there leaves nothing but itself."""
    unpacked(tar(file("m/a"), symlink("m/gone", "absent")), staging)
    assert contents(staging / "m") == {"a": ("file", b"x", False), "gone": ("link", "absent")}


def test_ownership_and_permissions_stay_outside(staging: Path) -> None:
    """Neither owner nor set-user-id, sticky or write bits of an archive are taken over, but being executable."""
    unpacked(
        tar(
            file("m/plain", mode=0o6666, uid=12345, gid=12345, uname="nobody"),
            file("m/run", mode=0o7777, uid=12345),
            file("d", b"", type=tarfile.DIRTYPE, mode=0o7777, uid=12345),
        ),
        staging,
    )
    mask = os.umask(0o022)
    os.umask(mask)
    found = {name: (staging / name).stat() for name in ("m/plain", "m/run", "d")}
    assert {status.st_uid for status in found.values()} == {os.geteuid()}
    assert {name: status.st_mode & 0o7777 for name, status in found.items()} == {
        "m/plain": 0o666 & ~mask,
        "m/run": 0o777 & ~mask,
        "d": 0o777 & ~mask,
    }


@pytest.mark.parametrize(
    ("packed", "limits", "why"),
    [
        pytest.param(
            tar(*(file(f"m/{number}") for number in range(5))), Limits(members=4), "more than 4 members", id="members"
        ),
        pytest.param(tar(*[folder("m")] * 5), Limits(members=4), "more than 4 members", id="folders"),
        pytest.param(
            tar(file("m/a", bytes(600)), file("m/b", bytes(600))),
            Limits(total_bytes=1000),
            "'m/b': it would unpack to more than 1000 bytes",
            id="bytes in all",
        ),
        pytest.param(
            tar(file("m/a", b"", size=1 << 50)), Limits(), "'m/a': it would unpack to more than", id="declared size"
        ),
        pytest.param(
            gzip.compress(tar(file("m/a", bytes(MIB)))),
            Limits(ratio=50, ratio_from=1000),
            "'m/a': it would unpack to more than 50 times its packed size",
            id="ratio of gzip",
        ),
        pytest.param(
            zipped([("m/a", bytes(MIB))]),
            Limits(ratio=50, ratio_from=1000),
            "'m/a': it would unpack to more than 50 times its packed size",
            id="ratio of zip",
        ),
        pytest.param(
            zipped([("m/a", bytes(MIB))]), Limits(total_bytes=1000), "more than 1000 bytes", id="bytes of a zip"
        ),
    ],
)
def test_limits(packed: bytes, limits: Limits, why: str, staging: Path) -> None:
    """Members, bytes and ratio are bounded, and what goes beyond a bound is not written."""
    with pytest.raises(Refused, match=why):
        unpacked(packed, staging, limits)
    assert sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()) <= 1000


def test_a_zip_that_tells_sizes_behind_its_data(tmp_path: Path, staging: Path) -> None:
    """Bytes are bounded while they come where a zip archive tells how many there are only afterwards."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "zeros").write_bytes(bytes(5 * MIB))
    with (
        pack(tmp_path / "m", "m.zip") as packed,
        pytest.raises(Refused, match="'m/zeros': it would unpack to more than 2097152 bytes"),
    ):
        unpack(packed, staging, name="model.tar", limits=Limits(total_bytes=2 * MIB))
    assert sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()) <= 2 * MIB


def test_the_ratio_is_judged_of_what_is_unpacked(staging: Path) -> None:
    """A large file is no bomb for being declared before its packed bytes have come."""
    # more than twice of what is read ahead
    size = 40 * MIB
    packed = tar(file("m/a", random.Random(1).randbytes(size)))
    assert unpacked(packed, staging, Limits(ratio=2, ratio_from=1000)).total_bytes == size


def test_the_ratio_is_judged_of_much_alone(staging: Path) -> None:
    """A model of few bytes may be packed as well as it likes."""
    assert unpacked(gzip.compress(tar(file("m/a", bytes(MIB)))), staging, Limits(ratio=2)).total_bytes == MIB


def test_an_archive_is_read_to_its_end(staging: Path) -> None:
    """What follows behind the end of a tar archive is read all the same, so that the whole file is digested."""
    source = Endless([tar(file("m/a")), bytes(MIB), bytes(MIB)])
    unpack(source, staging, name="model.tar")
    assert source.read(1) == b""


def test_padded_xz(staging: Path) -> None:
    """Zeros between the parts of an xz, and behind them, are no garbage, however they come."""
    plain = tar(file("m/a", SMALL_NOISE))
    first, second = lzma.compress(plain[:1000]), lzma.compress(plain[1000:])
    pieces = [first, bytes(4), bytes(8), bytes(4) + second, bytes(4), bytes(400)]
    unpack(Endless(pieces), staging, name="model.tar")
    assert (staging / "m" / "a").read_bytes() == SMALL_NOISE


def test_a_zip_without_the_record_at_its_end(staging: Path) -> None:
    """A zip archive that was cut between its members and its end is corrupt, though all members came."""
    packed = zipped([("m/a", SMALL_NOISE)])
    for cut in (packed.index(b"PK\x01\x02"), packed.index(b"PK\x05\x06"), len(packed) - 1):
        shutil.rmtree(staging)
        staging.mkdir()
        with pytest.raises(Corrupt, match="upload it again"):
            unpacked(packed[:cut], staging)


def test_a_zip_whose_directory_has_another_order(staging: Path) -> None:
    """In which order the directory of a zip archive names what came does not matter, nor in which pieces it comes."""
    packed = zipped([("m/a", SMALL_NOISE), ("m/b", b"1")])
    first, second, end = packed.index(b"PK\x01\x02"), packed.rindex(b"PK\x01\x02"), packed.rindex(b"PK\x05\x06")
    swapped = packed[:first] + packed[second:end] + packed[first:second] + packed[end:]
    unpack(Endless(swapped[at : at + 1] for at in range(len(swapped))), staging, name="model.zip")
    assert (staging / "m" / "a").read_bytes() == SMALL_NOISE


@pytest.mark.parametrize("central", [b"m/a", b"m/x"])
def test_a_zip_with_the_directory_of_a_large_one(central: bytes, staging: Path) -> None:
    """Where a zip archive tells the length of its directory in 64 bits, it is read as well."""
    packed = zipped([("m/a", SMALL_NOISE)])
    first, end = packed.index(b"PK\x01\x02"), packed.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - first, first)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    told = bytearray(packed[end:])
    told[12:20] = b"\xff" * 8
    large = packed[:first] + packed[first:end].replace(b"m/a", central) + record + locator + told
    if central == b"m/a":
        assert zipfile.ZipFile(io.BytesIO(large)).namelist() == ["m/a"], "it is one"
        assert unpacked(large, staging).files == 1
    else:
        with pytest.raises(Refused, match=r"'m/x': the directory at the end names it, but no such member came"):
            unpacked(large, staging)


def test_a_zip_with_something_without_end_behind_its_members(staging: Path) -> None:
    """What would fill the memory in the place of a zip archive's directory is refused long before it does."""
    members = zipped([("m/a", SMALL_NOISE)])
    endless = itertools.chain([members[: members.index(b"PK\x05\x06")]], itertools.repeat(b"PK\x01\x02" * 25_000, 1000))
    with _memory_below(32 * MIB), pytest.raises(Corrupt, match="does not end with the record"):
        unpack(Endless(endless), staging, name="model.zip")


def _endless_header(kind: bytes) -> Iterator[bytes]:
    """Give a tar archive with a member, and one with a header of 100 MiB behind it."""
    yield tar(file("m/first"), ended=False)
    yield file("m/a", b"", type=kind, size=100 * MIB).header().tobuf(format=tarfile.GNU_FORMAT)
    for _ in range(100):
        yield b"1\n" * (MIB // 2)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_without_end(kind: bytes, staging: Path) -> None:
    """A header that would fill the memory is refused long before it does."""
    with _memory_below(32 * MIB), pytest.raises(Refused, match=r"unpacking model\.tar: .*header"):
        unpack(Endless(_endless_header(kind)), staging, name="model.tar")


@contextmanager
def _memory_below(bound: int) -> Iterator[None]:
    """See that what happens in the `with` block takes less memory than that many bytes at any time."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < bound


def _zeros(count: int) -> Iterator[bytes]:
    yield tar(file("m/zeros", b"", size=count), ended=False)
    piece = bytes(MIB)
    for _ in range(count // MIB):
        yield piece
    yield bytes(1024)


def _compressed(plain: Iterator[bytes]) -> Iterator[bytes]:
    known: dict[bytes, bytes] = {}
    for piece in plain:
        if piece not in known:
            known[piece] = gzip.compress(piece)
        yield known[piece]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_memory_is_constant_in_bytes(compressed: bool, staging: Path) -> None:
    """A file of 256 MiB is unpacked in a fraction of that memory."""
    size = 256 * MIB
    plain = _zeros(size)
    source: Readable = Endless(_compressed(plain) if compressed else plain)
    with _memory_below(32 * MIB):
        result = unpack(source, staging, name="big")
    found = (staging / "m" / "zeros").stat().st_size
    shutil.rmtree(staging)
    assert (result, found) == (Contents(1, size), size)


def test_memory_is_constant_in_members(staging: Path) -> None:
    """Members are forgotten once they are unpacked, however much their headers hold."""
    member = tar(file("m", b"", type=tarfile.DIRTYPE, pax_headers={"comment": "x" * 40_000}), ended=False)
    with _memory_below(32 * MIB):
        unpack(Endless([*[member] * 1500, bytes(1024)]), staging, name="many")


def test_memory_is_constant_in_packing(tmp_path: Path) -> None:
    """A file is packed in a fraction of the memory that it takes."""
    big = tmp_path / "m" / "big"
    big.parent.mkdir()
    with big.open("wb") as sparse:
        sparse.truncate(128 * MIB)
    count = 0
    with _memory_below(32 * MIB), pack(big.parent, "m.tar") as packed:
        while chunk := packed.read(MIB):
            count += len(chunk)
    assert count > 128 * MIB


def test_a_full_disk_is_no_damage(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot write is told from an archive that is damaged."""

    def no_space(*_arguments: object) -> int:
        raise OSError(28, os.strerror(28))

    packed = tar(file("m/a"))
    monkeypatch.setattr(os, "open", no_space)
    with pytest.raises(PublicationFailed, match="No space left on device; check space and permissions"):
        unpacked(packed, staging)


def _unpacked_members(staging: Path, *members: Member) -> Path:
    unpacked(tar(*members), staging)
    return staging


def test_finding_the_model(staging: Path) -> None:
    """The model is found by its name in the archive, at its top, or through a link."""
    _unpacked_members(staging, file("v/1/a"), symlink("v/current", "1"))
    assert find_folder(staging, "v/1", "m.tar") == staging / "v" / "1"
    assert find_folder(staging, ".", "m.tar") == staging
    assert find_folder(staging, "v/current", "m.tar") == staging / "v" / "1"


@pytest.mark.parametrize("name", ["/etc", "..", "m/../..", "m\0"])
def test_a_model_outside_is_not_looked_for(name: str, staging: Path) -> None:
    """A name that leads out of the archive is refused, whatever is there."""
    _unpacked_members(staging, file("m/a"))
    with pytest.raises(Refused, match=r"looking for unpacked_filename .* in m\.tar: it leads out of the archive"):
        find_folder(staging, name, "m.tar")


@pytest.mark.parametrize("name", ["model", "m/a", "m/gone"])
def test_a_missing_model_is_told_with_what_is_there(name: str, staging: Path) -> None:
    """Where the folder is not in the archive, the message lists what is."""
    _unpacked_members(staging, file("m/a"), file("read me"), symlink("m/gone", "absent"))
    with pytest.raises(Refused, match=r"unpacked_filename\) in m\.tar: at its top there is 'm', 'read me'; set unp"):
        find_folder(staging, name, "m.tar")


@pytest.mark.parametrize("target", ["../shared", "..", "inner/../../../m/a/../shared"])
def test_a_link_out_of_the_model(target: str, staging: Path) -> None:
    """A link from the model to elsewhere in the archive, which would lead astray once published, is refused."""
    _unpacked_members(staging, file("m/a/x"), file("m/shared"), file("m/a/inner/y"), symlink("m/a/link", target))
    with pytest.raises(Refused, match=r"m\.tar: 'link' is a link to .*, out of the model"):
        find_folder(staging, "m/a", "m.tar")
    assert find_folder(staging, "m", "m.tar") == staging / "m"
