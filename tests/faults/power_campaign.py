"""Deliveries and roll-backs cut off by a power failure: what no disk was asked to keep is gone, the model is whole.

A real ext4 on a loop device is shut down without writing back its journal (`EXT4_IOC_SHUTDOWN`), as if the machine had
lost its power at that instant, and mounted again. What is not simulated: a disk that says it has written what it has
not, or that writes sectors by halves.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.requirements import require, require_program

from .kill_campaign import SCENARIOS, Place, Scenario, Tally, faults_left
from .killing import killed_at

SHUTDOWN = 0x8004587D
"""The request `EXT4_IOC_SHUTDOWN`, which XFS shares."""

WITHOUT_FLUSHING_THE_JOURNAL = 2

IMAGE_BYTES = 32 << 20


def require_loop_devices() -> None:
    """Go on only where a file system can be made and mounted."""
    require(os.geteuid() == 0 and Path("/dev/loop-control").exists(), "needs root and loop devices, to cut the power")
    require_program("mkfs.ext4", "e2fsprogs")


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image; on leaving, nothing of it is in use any more."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def cut_the_power(place: Path) -> None:
    """Stop a file system at once; what is only in memory is lost."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING_THE_JOURNAL))
    finally:
        os.close(descriptor)


def attack(name: str, *, step: int = 1, first: int = 1) -> Tally:
    """Cut the power at each point of a scenario, or at each `step`th from the `first` on, and once behind its end.

    The mounts are those of a process of its own: no other one, which happens to copy its mounts, keeps them in use.
    """
    command = [str(require_program("unshare", "util-linux")), "--mount", "--propagation", "private", sys.executable]
    arguments = [name, str(step), str(first)]
    printed = subprocess.run([*command, "-m", __name__, *arguments], check=True, stdout=subprocess.PIPE).stdout
    return Tally(**json.loads(printed))


def _attack(scenario: Scenario, cases: Path, step: int, first: int) -> Tally:
    prepared, mount = cases / "prepared.img", cases / "mount"
    with prepared.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", str(prepared)], check=True)
    with mounted(prepared, mount):
        scenario.prepare(Place(mount, scenario.mode, scenario.packed))
    tally = Tally()
    number, killed = first, True
    while killed:
        image = cases / f"{number:04}.img"
        subprocess.run(["cp", "--sparse=always", str(prepared), str(image)], check=True)
        with mounted(image, mount):
            place = Place(mount, scenario.mode, scenario.packed)
            killed = killed_at(number, lambda place=place: scenario.change(place))  # type: ignore[misc]
            cut_the_power(mount)
        with mounted(image, mount):
            place = Place(mount, scenario.mode, scenario.packed)
            whole = scenario.whole if killed else {scenario.lasting}
            tally.faults += [f"{number}: {fault}" for fault in faults_left(scenario, place, whole)]
        image.unlink()
        tally.killed += killed
        number += step
    return tally


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as cases:
        tally = _attack(SCENARIOS[sys.argv[1]], Path(cases), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps(asdict(tally)))
