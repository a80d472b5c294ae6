"""Deliveries and roll-backs on a host that does not let them: a clear error, the old model, and no growing debris."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from airflow_serving_reload.delivery.errors import DeliveryError
from airflow_serving_reload.delivery.filesystem import sync_filesystem
from tests.delivery.models import Training
from tests.forked import fork, status_of
from tests.requirements import require_program

from .kill_campaign import SCENARIOS, Place, Scenario, faults_left
from .power_campaign import mounted

NOBODY = 65534
BLOCK_BYTES = 1024
TIMES = 8
"""How often each is tried on a host with one fault, to see whether what it leaves grows."""

MOST = 60
"""Blocks or inodes that are more than enough."""


class Apart(Place):
    """A host on a file system of its own, and a store that is not on it."""

    @property
    def training(self) -> Training:
        """What uploads to the store."""
        return Training(self.folder.parent / "far", "model.tar.gz" if self.packed else "model")

    @property
    def elsewhere(self) -> Path:
        """A folder of the file system that is nobody's to touch."""
        return self.folder / "elsewhere"

    def used(self) -> tuple[int, int]:
        """Tell how many blocks and inodes of the file system are in use."""
        sync_filesystem(self.folder)
        status = os.statvfs(self.folder)
        return status.f_blocks - status.f_bfree, status.f_files - status.f_ffree


@contextmanager
def full(place: Apart, left: int) -> Iterator[None]:
    """Leave that many blocks free."""
    ballast, spare = place.folder / "ballast", place.folder / "spare"
    spare.write_bytes(bytes(left * BLOCK_BYTES))
    with ballast.open("wb", buffering=0) as file:
        filled = -1
        # blocks that were promised, or given back, may turn out to be free only with a sync
        while filled < file.tell():
            filled = file.tell()
            for length in (1 << 20, BLOCK_BYTES):
                with contextlib.suppress(OSError):
                    while file.write(bytes(length)):
                        pass
            sync_filesystem(place.folder)
    spare.unlink()
    sync_filesystem(place.folder)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def without_inodes(place: Apart, left: int) -> Iterator[None]:
    """Leave that many inodes free."""
    ballast = place.folder / "ballast"
    ballast.mkdir()
    files = [ballast / str(number) for number in range(os.statvfs(place.folder).f_favail - left)]
    for file in files:
        file.touch()
    try:
        yield
    finally:
        for file in files:
            file.unlink()
        ballast.rmdir()


@contextmanager
def read_only(place: Apart, _point: int) -> Iterator[None]:
    """Let nothing be written to the file system."""
    subprocess.run(["mount", "-o", "remount,ro", str(place.folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place.folder)], check=True)


@contextmanager
def locked(place: Apart, point: int) -> Iterator[None]:
    """Take the right to write away, from one folder of the host after the other."""
    host = place.host
    releases = host.folder / ".model.releases"
    kept = [host.releases.path(record) for record in host.releases.history()]
    everything = host.folder, releases, host.temporary, *([host.model] if not host.model.is_symlink() else []), *kept
    subprocess.run(["chown", "--recursive", str(NOBODY), str(host.folder)], check=True)
    for folder in [folder for folder in everything if folder.exists()][point : point + 1]:
        os.chown(folder, 0, 0)
    try:
        yield
    finally:
        subprocess.run(["chown", "--recursive", "0", str(host.folder)], check=True)


@contextmanager
def linked(place: Apart, point: int) -> Iterator[None]:
    """Plant a link where the model, or its releases, should be."""
    host = place.host
    path = (host.model, host.folder / ".model.releases")[point]
    aside = place.folder / "aside"
    if os.path.lexists(path):
        path.rename(aside)
    path.symlink_to(place.elsewhere)
    try:
        yield
    finally:
        path.unlink()
        if os.path.lexists(aside):
            aside.rename(path)


@contextmanager
def on_another_file_system(place: Apart, _point: int) -> Iterator[None]:
    """Mount another file system where what is unfinished should be."""
    place.host.temporary.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place.host.temporary)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place.host.temporary)], check=True)


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with the host.

    :param breaking: makes it so, at one of several points.
    :param says: what the message has to say.
    :param points: how many points there are; None to go on until nothing fails any more.
    :param by_root: whether even root cannot do it.
    """

    breaking: Callable[[Apart, int], AbstractContextManager[None]]
    says: str
    points: int | None = None
    by_root: bool = True


FAULTS = {
    "full disk": Fault(full, "No space left on device"),
    "no inodes left": Fault(without_inodes, "No space left on device"),
    "read-only file system": Fault(read_only, "Read-only file system", points=1),
    "no permission": Fault(locked, "Permission denied", points=6, by_root=False),
    "a link of somebody else": Fault(linked, "it is a link to .*(replace|remove) it", points=2),
    "unfinished on another file system": Fault(on_another_file_system, "choose a local_tmp_path", points=1),
}

ATTACKED = {
    name: SCENARIOS[name]
    for name in (
        "adoption of a folder",
        "change of the link",
        "refused and put back",
        "roll back",
        "adoption in place",
        "change in place",
    )
}


@dataclass
class Tally:
    """What came of one fault.

    :param runs: deliveries and roll-backs.
    :param refused: those that ended with an error.
    :param faults: what should not have been.
    """

    runs: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def attack(name: str, *, step: int = 1, every: int = 1) -> Tally:
    """Do everything on hosts with this fault.

    :param step: where room is short, by how many blocks, or inodes, more is left each time.
    :param every: of how many scenarios to take one.
    """
    command = [str(require_program("unshare", "util-linux")), "--mount", "--propagation", "private", sys.executable]
    arguments = [name, str(step), str(every)]
    printed = subprocess.run([*command, "-m", __name__, *arguments], check=True, stdout=subprocess.PIPE).stdout
    return Tally(**json.loads(printed))


def _attack(fault: Fault, cases: Path, step: int, every: int) -> Tally:
    tally = Tally()
    for name, scenario in list(ATTACKED.items())[::every]:
        prepared, mount = cases / f"{name}.img", cases / "mount"
        with prepared.open("wb") as file:
            file.truncate(4 << 20)
        subprocess.run(
            ["mkfs.ext4", "-q", "-O", "^has_journal", "-b", str(BLOCK_BYTES), "-m", "0", "-N", "192", str(prepared)],
            check=True,
        )
        with mounted(prepared, mount):
            place = Apart(mount, scenario.mode, scenario.packed)
            scenario.prepare(place)
            place.host.temporary.mkdir(exist_ok=True)
            place.elsewhere.mkdir()
            (place.elsewhere / "precious.json").write_text("{}")
        store = place.training.root
        shutil.copytree(store, cases / "store")
        for point in range(fault.points) if fault.points else range(0, MOST, step):
            image = cases / "case.img"
            shutil.rmtree(store)
            shutil.copytree(cases / "store", store)
            subprocess.run(["cp", "--sparse=always", str(prepared), str(image)], check=True)
            with mounted(image, mount):
                refused, faults = _attempts(fault, scenario, Apart(mount, scenario.mode, scenario.packed), point)
            tally.runs += TIMES
            tally.refused += refused
            tally.faults += [f"{name}, {point}: {fault}" for fault in faults]
            if fault.points is None and not refused:
                break
        prepared.unlink()
        shutil.rmtree(cases / "store")
    return tally


def _attempts(fault: Fault, scenario: Scenario, place: Apart, point: int) -> tuple[int, list[str]]:
    """Try a scenario several times on a host with a fault, and once more after that is mended."""
    faults: list[str] = []
    stands: list[tuple[int, tuple[int, int]]] = []
    precious = place.elsewhere.stat().st_mtime_ns
    for _ in range(TIMES):
        place.training.upload("new")
        with fault.breaking(place, point):
            raised = _try(scenario, place, as_root=fault.by_root)
        live = scenario.lasting if raised is None else scenario.before
        if place.live() != live:
            faults.append(f"{place.live()} was live after {raised!r}")
        if raised is None:
            break
        if not isinstance(raised, DeliveryError) or not re.search(fault.says, str(raised)):
            faults.append(f"it raised {raised!r}")
        stands.append((len(place.host.releases.history()), place.used()))
    # what could not be published, and a copy of what was there before, go when the next one is delivered
    if _grows(stands) or max(stands, default=(0,))[0] > place.host.local.keep_releases + 2:
        faults.append(f"what it uses of the disk grew: {stands}")
    if place.elsewhere.stat().st_mtime_ns != precious or len(list(place.elsewhere.iterdir())) != 1:
        faults.append("what was elsewhere was touched")
    faults += faults_left(scenario, place, {live})
    return len(stands), faults


def _grows(stands: list[tuple[int, tuple[int, int]]]) -> bool:
    """Tell whether, with as many releases as before, more is used again and again."""
    for count in {count for count, _ in stands}:
        used = [used for releases, used in stands if releases == count]
        half = len(used) // 2
        if half > 1 and max(used[half:]) > max(used[:half]):
            return True
    return False


def _try(scenario: Scenario, place: Place, *, as_root: bool) -> Exception | None:
    """Do it in a process of its own, and give what it raised."""
    answer, answering = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(answer)
        raised: Exception | None = None
        try:
            if not as_root:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            scenario.change(place)
        except Exception as error:  # noqa: BLE001 - it is looked at by the parent
            raised = error
        with os.fdopen(answering, "wb") as file:
            file.write(pickle.dumps(raised if isinstance(raised, DeliveryError | None) else RuntimeError(repr(raised))))
        os._exit(0)
    os.close(answering)
    with os.fdopen(answer, "rb") as file:
        told = file.read()
    status_of(pid)
    result: Exception | None = pickle.loads(told)
    return result


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        Path(folder).chmod(0o755)
        tally = _attack(FAULTS[sys.argv[1]], Path(folder), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps(asdict(tally)))
