"""Hostile archives, and valid ones that are mutated, unpacked: refused or harmless, and nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_serving_reload.delivery.archive import Limits, unpack
from airflow_serving_reload.delivery.errors import Corrupt, Refused
from tests.delivery.packing import COMPRESSORS, Endless, file, folder, hard_link, symlink, tar, zipped

from .archives import CORPUS, NOISE, Case, checksummed, described_behind, sparse

ESCAPED = "escaped: "
"""How the word begins that something outside of the folder was touched."""


@dataclass
class Tally:
    """What came of the archives of one kind.

    :param archives: how many there were.
    :param refused: how many were refused.
    :param harmless: how many were unpacked, and did no harm.
    :param faults: what should not have been.
    """

    archives: int = 0
    refused: int = 0
    harmless: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def escaped(self) -> int:
        """How many touched anything outside of their folder."""
        return sum(ESCAPED in fault for fault in self.faults)


def attack(kind: str) -> Tally:
    """Unpack every archive of a kind."""
    tally = Tally()
    for name, case in CORPUS[kind].items():
        tally.archives += 1
        faults = list(faults_of(case))
        tally.refused += case.fault is not None and not faults
        tally.harmless += case.fault is None and not faults
        tally.faults += [f"{name}: {fault}" for fault in faults]
    return tally


def faults_of(case: Case) -> Iterator[str]:
    """Unpack an archive, and tell what should not have come of it."""
    with surroundings() as staging:
        before = seen_around(staging)
        outside = str(staging.parent / "outside")
        try:
            unpack(Endless(case.pieces(outside)), staging, name="model.tar", limits=case.limits)
        except (Corrupt, Refused) as fault:
            if case.fault is not type(fault) or not re.match(f"unpacking model.tar: .*{case.why}", str(fault)):
                yield f"{fault!r}"
        except Exception as fault:  # noqa: BLE001 - whatever is raised is what is looked for
            yield f"it raised {fault!r}"
        else:
            if case.fault:
                yield "it was unpacked"
            yield from links_out_of(staging)
        if seen_around(staging) != before:
            yield f"{ESCAPED}something beside the folder was changed"
        yield from harm_in(staging)


@contextlib.contextmanager
def surroundings() -> Iterator[Path]:
    """Give an empty folder to unpack in, beside which lies, and is worked in, what is nobody's to touch."""
    cwd = Path.cwd()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        outside = Path(place, "host", "outside")
        outside.mkdir(parents=True)
        (outside / "secret").write_text("untouched")
        (outside / "link").symlink_to("secret")
        staging = Path(place, "host", "staging")
        staging.mkdir()
        os.chdir(outside)
        try:
            yield staging
        finally:
            os.chdir(cwd)
            shutil.rmtree(staging)


def seen_around(staging: Path) -> dict[str, object]:
    """Tell everything about what lies beside the folder, and about the folder itself what is not its contents."""
    found: dict[str, object] = {}
    for parent, folders, files in os.walk(staging.parent.parent):
        if Path(parent) == staging:
            folders.clear()
            continue
        for path in (Path(parent, name) for name in (*folders, *files)):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_ino)
            if path != staging:
                text = path.read_text() if path.is_file() else None
                found[str(path)] = (found[str(path)], status.st_mtime_ns, status.st_nlink, status.st_ctime_ns, text)
    return found


def harm_in(staging: Path) -> Iterator[str]:
    """Tell what no archive may leave in its folder, refused or not."""
    for path in staging.rglob("*"):
        status = path.lstat()
        if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            yield f"{path.name!r} is a special file"
        special = status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        if status.st_uid != os.geteuid() or special:
            yield f"{path.name!r} has an owner or a mode of the archive"


def links_out_of(staging: Path) -> Iterator[str]:
    """Tell which links of an archive that was unpacked lead out of it; what was refused is removed by who wanted it."""
    for path in staging.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(staging):
            yield f"{ESCAPED}{path.name!r} is a link out of the folder"


LONG = "/".join(["long" * 20] * 2)
MEMBERS = (
    folder("m"),
    file(LONG, NOISE[:1500], pax_headers={"comment": "模型", "mtime": "1.5"}),
    file("m/a", mode=0o755),
    symlink("m/l", "a"),
    hard_link("m/h", "m/a"),
)
ZIPPED = [("m/", b""), ("m/a", NOISE[:1500]), (LONG, b"x" * 5000), ("m/空", b"")]
VALID: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {
    "tar of POSIX": (bytes, tar(MEMBERS[0], *MEMBERS[2:], file(LONG), format=tarfile.USTAR_FORMAT)),
    "tar of GNU": (bytes, tar(*MEMBERS, format=tarfile.GNU_FORMAT)),
    "tar of PAX": (bytes, tar(*MEMBERS)),
    "tar, sparse": (bytes, sparse([(0, 512), (4096, 512)], 8192)),
    **{name: (compress, tar(*MEMBERS)) for name, compress in COMPRESSORS.items() if name != "tar"},
    "zip, deflated": (bytes, zipped(ZIPPED)),
    "zip, stored": (bytes, zipped(ZIPPED, zipfile.ZIP_STORED)),
    "zip, bzip2": (bytes, zipped(ZIPPED, zipfile.ZIP_BZIP2)),
    "zip, lengths behind": (bytes, described_behind(ZIPPED)),
}
"""What compresses, and what is mutated before or behind that."""

TOKENS = [b"../", b"/", b"\0", b"\n", b"\xff" * 4, b"\xff" * 8, b"-1", b"9" * 11, b"PK\3\4", b"PK\5\6", bytes(512)]


@dataclass(frozen=True)
class Edit:
    """A change of some bytes: those from the place on are replaced, moved on, taken away or repeated."""

    how: str
    place: int
    data: bytes

    def of(self, packed: bytes) -> bytes:
        """Give the changed bytes."""
        place = self.place % max(1, len(packed))
        begin, behind = packed[:place], packed[place + len(self.data) :]
        middle = {
            "replaced": self.data,
            "inserted": self.data + packed[place : place + len(self.data)],
            "removed": b"",
            "repeated": packed[place : place + 512] + packed[place : place + len(self.data)],
        }
        return begin + middle[self.how] + behind

    def with_checksum(self, packed: bytes) -> bytes:
        """Give them with what tar checks of a header, so that what stands in it is looked at."""
        changed = self.of(packed)
        begin = self.place % max(1, len(packed)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        block = changed[begin : begin + tarfile.BLOCKSIZE]
        if len(block) < tarfile.BLOCKSIZE:
            return changed
        return changed[:begin] + checksummed(block) + changed[begin + tarfile.BLOCKSIZE :]


EDITS = st.builds(
    Edit,
    st.sampled_from(["replaced", "replaced", "inserted", "removed", "repeated"]),
    st.integers(0, 12_000),
    st.binary(min_size=1, max_size=12) | st.sampled_from(TOKENS),
)


def fuzz(name: str, examples: int, *, anew: bool) -> Tally:
    """Mutate a valid archive many times, before and behind its compression, and unpack what comes of it.

    :param examples: how many times.
    :param anew: whether by other mutations each time.
    """
    compress, valid = VALID[name]
    tally = Tally()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not anew,
        suppress_health_check=list(HealthCheck),
    )
    @given(inner=st.lists(EDITS, max_size=2), outer=st.lists(EDITS, max_size=1), checked=st.booleans())
    def mutated(inner: list[Edit], outer: list[Edit], checked: bool) -> None:
        packed = valid
        for edit in inner:
            packed = edit.with_checksum(packed) if checked else edit.of(packed)
        packed = compress(packed)
        for edit in outer:
            packed = edit.of(packed)
        tally.archives += 1
        faults = list(_faults_of_mutated(packed, tally))
        assert not faults, f"{faults} of {packed.hex()}"

    try:
        mutated()
    except Exception as error:  # noqa: BLE001 - hypothesis raises groups of several
        tally.faults.append(repr(error))
    return tally


def _faults_of_mutated(packed: bytes, tally: Tally) -> Iterator[str]:
    with surroundings() as staging:
        before = seen_around(staging)
        try:
            unpack(Endless([packed]), staging, name="model.tar", limits=Limits(members=100, total_bytes=1 << 20))
        except (Corrupt, Refused):
            tally.refused += 1
        except Exception as fault:  # noqa: BLE001 - whatever is raised is what is looked for
            yield f"it raised {fault!r}"
        else:
            tally.harmless += 1
            yield from links_out_of(staging)
        if seen_around(staging) != before:
            yield f"{ESCAPED}something beside the folder was changed"
        yield from harm_in(staging)
