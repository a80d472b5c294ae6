"""From the changed donefile to the published model: this provider, the genuine `monitor.py`, and curl into tar."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from airflow_serving_reload.delivery.archive.packing import PACKERS
from airflow_serving_reload.demo.processes import Processes
from tests.bench.archives import write_model
from tests.bench.figures import save, show
from tests.bench.measuring import MIB, MODEL, UNPACKED, Workplace, returned
from tests.bench.sampling import STAGES
from tests.bench.watching import written_by
from tests.contract.nginx import Nginx
from tests.stores import Way
from tests.system.monitor import shell_of_monitor

SMALL_FILES = 10_000
SMALL_BYTES = 4096

TAR_OPTIONS = {".tar": "", ".tar.gz": "--gzip", ".tar.zst": "--zstd"}
"""How tar is told a format; `monitor.py` knows all but the last."""

MONITOR = Path(__file__).parents[2] / ".venv-paddle-serving" / "bin" / "python"


@dataclass(frozen=True)
class Kind:
    """A packed model.

    :param ending: of its format.
    :param mib: MiB of its files together; 0 for many small files.
    """

    ending: str
    mib: int

    def __str__(self) -> str:
        """Name it for a table."""
        what = f"{SMALL_FILES:,} files of {SMALL_BYTES:,} bytes" if not self.mib else f"{self.mib:,} MiB"
        return f"{what}, `{self.ending}`"

    def write(self, path: Path) -> None:
        """Pack it."""
        plain = path.with_name("plain")
        if self.mib:
            write_model(plain, self.mib * MIB)
        else:
            _write_small_files(plain)
        with plain.open("rb") as source, path.open("wb") as file, PACKERS[self.ending](file) as packed:
            shutil.copyfileobj(source, packed, MIB)
        plain.unlink()


def _write_small_files(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(SMALL_FILES):
            member = tarfile.TarInfo(f"{UNPACKED}/shard-{number // 100:03}/table-{number:05}")
            member.size = SMALL_BYTES
            archive.addfile(member, BytesIO(random.randbytes(SMALL_BYTES // 2) * 2))


@dataclass
class Taken:
    """What several deliveries of one kind took, by who delivered."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    synced: dict[str, list[float]] = field(default_factory=dict)
    written: dict[str, list[int]] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    profile: dict[str, list[float]] = field(default_factory=dict)

    def add(self, who: str, seconds: float, synced: float, written: int | None = None) -> None:
        """Add one delivery.

        :param seconds: until it was published.
        :param synced: until it was on the disk as well.
        :param written: bytes written to the disk.
        """
        self.seconds.setdefault(who, []).append(seconds)
        self.synced.setdefault(who, []).append(synced)
        if written is not None:
            self.written.setdefault(who, []).append(written)

    def figures(self, kind: Kind) -> dict[str, Any]:
        """Give the medians."""
        middle = statistics.median
        return {
            "kind": str(kind),
            "ending": kind.ending,
            "mib": kind.mib,
            "seconds": {who: middle(took) for who, took in self.seconds.items()},
            "ranges": {who: [min(took), max(took)] for who, took in self.seconds.items()},
            "synced": {who: middle(took) for who, took in self.synced.items()},
            "written": {who: middle(written) for who, written in self.written.items()},
            "memory": max(self.memory),
            "profile": {stage: middle(shares) for stage, shares in self.profile.items()},
        }


@dataclass(frozen=True)
class Side:
    """Everything that the three need.

    :param nginx: where the model and its donefile are.
    :param folder: where they deliver to.
    """

    nginx: Nginx
    folder: Path

    @property
    def url(self) -> str:
        """Where the model's folder is."""
        return "http://{}:{}/full".format(*self.nginx.address)

    @contextmanager
    def emptied(self) -> Iterator[Path]:
        """Give an empty folder, once the disk has nothing left to do."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        os.sync()
        yield place
        # ext4 makes new files slowly where it has just removed many: these stay until the end
        for file in (file for file in place.rglob("*") if file.is_file() and file.stat().st_size > SMALL_BYTES):
            file.unlink()

    def ours(self, taken: Taken) -> None:
        """Deliver by the operator, in a process of its own."""
        told = self._deliver()
        taken.add("ours", told["seconds"], told["seconds"], told["written"])
        taken.memory.append(told["memory"])

    def profile(self, taken: Taken) -> None:
        """Deliver once more, and look where the time goes, which costs some."""
        told = self._deliver(profile=True)
        for stage in STAGES:
            taken.profile.setdefault(stage, []).append(told["profile"][stage])

    def _deliver(self, *, profile: bool = False) -> dict[str, Any]:
        with self.emptied() as place:
            way = Way(fields={"conn_type": "http", "host": self.url}, remote_path="/")
            told = Workplace(place / "ours").reload(way, watched=False, profile=profile)
            assert returned(told)["changed"]
            return told

    def curl(self, taken: Taken, kind: Kind) -> None:
        """Deliver by what anybody would write into a script."""
        with self.emptied() as place:
            began = time.perf_counter()
            command = (
                f"set -o pipefail; mkdir new && curl --silent --fail {self.url}/{MODEL} | "
                f"tar --extract {TAR_OPTIONS[kind.ending]} --directory new && mv new/{UNPACKED} live"
            )
            subprocess.run(["bash", "-c", command], cwd=place, check=True)
            seconds = time.perf_counter() - began
            _sync(place)
            taken.add("curl", seconds, time.perf_counter() - began)

    def monitor(self, taken: Taken) -> None:
        """Deliver by the first round of `monitor.py`, which begins when it says that the donefile has changed."""
        with self.emptied() as place:
            (place / "model").mkdir()
            options = {
                "type": "general", "general_host": self.url, "remote_path": "/", "remote_model_name": MODEL,
                "remote_donefile_name": "donefile", "local_path": place, "local_model_name": "model",
                "unpacked_filename": UNPACKED,
            }  # fmt: skip
            command = [*shell_of_monitor(), str(MONITOR), "-m", "paddle_serving_server.monitor"]
            command += [f"--{name}={value}" for name, value in options.items()]
            process = subprocess.Popen(
                command, cwd=place, env=_without_proxies(), stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            assert process.stderr is not None
            began = 0.0
            try:
                for line in process.stderr:
                    if "changed." in line:
                        began = time.perf_counter()
                    if "update model timestamp(" in line:
                        break
                seconds = time.perf_counter() - began
                written = written_by(process.pid)
                _sync(place)
                taken.add("monitor", seconds, time.perf_counter() - began, written)
            finally:
                process.kill()
                process.wait()
                process.stderr.close()


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench delivery", description=__doc__)
    parser.add_argument(
        "--mib", type=int, nargs="+", default=[1024], help="sizes; 0 for many small files (default: 1024)"
    )
    parser.add_argument("--ending", nargs="+", choices=TAR_OPTIONS, default=list(TAR_OPTIONS))
    parser.add_argument("--runs", type=int, default=5, help="of each, in turns (default: %(default)s)")
    parser.add_argument("--save", default="delivery", help="name of the file of figures (default: %(default)s)")
    options = parser.parse_args(arguments)
    kinds = [Kind(ending, mib) for mib in options.mib for ending in options.ending]
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, Processes() as processes:
        folder = Path(temporary)
        side = Side(Nginx.start(processes, folder / "nginx"), folder)
        figures = [_measure(side, kind, options.runs).figures(kind) for kind in kinds]
    _show(figures)
    save(options.save, f'make bench BENCH="delivery {" ".join(arguments)}"', {"kinds": figures})


def _measure(side: Side, kind: Kind, runs: int) -> Taken:
    files = side.nginx.files / "full"
    kind.write(files / MODEL)
    (files / "donefile").touch()
    taken = Taken()
    rounds = [partial(side.curl, taken, kind), partial(side.ours, taken), partial(side.profile, taken)]
    if kind.ending != ".tar.zst":
        rounds.append(partial(side.monitor, taken))
    for _ in range(runs):
        for deliver in rounds:
            deliver()
    return taken


def _show(figures: Sequence[dict[str, Any]]) -> None:
    columns = ("model", "ours", "monitor.py", "its sync too", "curl and tar", "their sync too")
    rows = []
    for one in figures:
        own = one["seconds"]["ours"]
        cells = [
            f"{times[who]:.2f} s ({own / times[who]:.2f})" if who in times else "cannot"
            for who in ("monitor", "curl")
            for times in (one["seconds"], one["synced"])
        ]
        rows.append([one["kind"], f"{own:.2f} s", *cells])
    show("From the changed donefile to the published model; in brackets, ours as a part of it", columns, rows)
    columns = ("model", "memory, MiB", "written, MiB", "by monitor.py, MiB", *STAGES)
    rows = []
    for one in figures:
        written = one["written"]
        by_monitor = f"{written['monitor'] / MIB:,.0f}" if "monitor" in written else ""
        shares = [f"{one['profile'][stage]:.0%}" for stage in STAGES]
        rows.append([one["kind"], f"{one['memory'] / MIB:.0f}", f"{written['ours'] / MIB:,.0f}", by_monitor, *shares])
    show("What ours costs, and in which share of the time some thread did what", columns, rows)


def _sync(place: Path) -> None:
    subprocess.run(["sync", "--file-system", place], check=True)


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
