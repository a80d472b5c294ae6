"""A folder packed on its way into the store, beside tar and then curl, and beside the network alone."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_serving_reload.demo.processes import Processes
from tests.bench.archives import write_model
from tests.bench.figures import save, show
from tests.bench.measuring import MIB, UNPACKED, Workplace, returned
from tests.contract.nginx import Nginx
from tests.stores import Way

TAR_OPTIONS = {".tar": [], ".tar.gz": ["--gzip"], ".tar.zst": ["--zstd"]}
"""How tar is told a format."""

GIB = 1 << 30

ALONE = "alone"
"""The argument by which the program knows that it has a network of its own, which takes root, to bound its rate."""


@dataclass(frozen=True)
class Side:
    """Everything that the ways up need.

    :param nginx: where they lead to.
    :param place: where the operator runs.
    :param model: folder with the model.
    """

    nginx: Nginx
    place: Workplace
    model: Path

    @property
    def url(self) -> str:
        """Where the store is."""
        return "http://{}:{}/full".format(*self.nginx.address)

    def ours(self, name: str) -> dict[str, Any]:
        """Upload by the operator, in a process of its own."""
        way = Way(fields={"conn_type": "http", "host": self.url}, remote_path="/ours")
        told = self.place.upload(way, self.model, name)
        return {**told, "bytes": returned(told)["bytes"]}

    def by_hand(self, name: str, ending: str) -> dict[str, Any]:
        """Upload by what anybody would write into a script."""
        archive = self.place.folder / name
        pack = ["tar", "--create", *TAR_OPTIONS[ending], f"--file={archive}", f"--directory={self.model.parent}"]
        began = time.perf_counter()
        subprocess.run([*pack, UNPACKED], check=True)
        self._curl(archive)
        seconds = time.perf_counter() - began
        size = archive.stat().st_size
        archive.unlink()
        return {"seconds": seconds, "bytes": size}

    def network(self, name: str) -> dict[str, Any]:
        """Upload what the operator has packed before, as fast as the server takes it."""
        archive = self.nginx.files / "full" / "ours" / name
        began = time.perf_counter()
        self._curl(archive)
        return {"seconds": time.perf_counter() - began, "bytes": archive.stat().st_size}

    def _curl(self, archive: Path) -> None:
        target = f"{self.url}/by-hand/{archive.name}"
        # without that header curl would wait a second for the server's consent
        curl = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--header", "Expect:"]
        subprocess.run([*curl, "--upload-file", archive, target], check=True)


@dataclass
class Taken:
    """What several uploads of one format took, by who uploaded."""

    told: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, who: str, upload: Callable[[], dict[str, Any]]) -> None:
        """Upload once more, when the disk has nothing left to do."""
        os.sync()
        self.told.setdefault(who, []).append(upload())

    def figures(self, ending: str) -> dict[str, Any]:
        """Give the medians."""
        seconds = {who: [one["seconds"] for one in told] for who, told in self.told.items()}
        return {
            "ending": ending,
            "seconds": {who: statistics.median(took) for who, took in seconds.items()},
            "ranges": {who: [min(took), max(took)] for who, took in seconds.items()},
            "bytes": {who: told[-1]["bytes"] for who, told in self.told.items()},
            "memory": max(one["memory"] for one in self.told["ours"]),
            "disk": max(one["disk"] for one in self.told["ours"]),
        }


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    if arguments[:1] != [ALONE]:
        subprocess.run(
            ["unshare", "--net", sys.executable, "-m", "tests.bench", "uploads", ALONE, *arguments], check=True
        )
        return
    arguments = arguments[1:]
    parser = argparse.ArgumentParser(prog="python -m tests.bench uploads", description=__doc__)
    parser.add_argument("--gib", type=float, default=1, help="size of the model (default: %(default)g)")
    parser.add_argument("--ending", nargs="+", choices=TAR_OPTIONS, default=list(TAR_OPTIONS))
    parser.add_argument("--gbit", nargs="+", default=["0", "1"], help="of the network; 0 is no bound (default: 0 1)")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns (default: %(default)s)")
    parser.add_argument("--save", default="uploads", help="name of the file of figures (default: %(default)s)")
    options = parser.parse_args(arguments)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, Processes() as processes:
        folder = Path(temporary)
        _write_folder(folder, int(options.gib * GIB))
        side = Side(Nginx.start(processes, folder / "nginx"), Workplace(folder / "work"), folder / UNPACKED)
        figures = []
        for gbit in options.gbit:
            with _rate(gbit):
                figures += [
                    {"gbit": gbit, **_measure(side, ending, options.runs).figures(ending)} for ending in options.ending
                ]
    _show(figures)
    command = f'make bench BENCH="{" ".join(["uploads", *arguments])}"'
    save(options.save, command, {"bytes": int(options.gib * GIB), "kinds": figures})


@contextmanager
def _rate(gbit: str) -> Iterator[None]:
    """Bound the rate of the network until the end of the `with` block.

    :param gbit: Gbit/s; 0 for no bound.
    """
    if gbit == "0":
        yield
        return
    queue = ["tc", "qdisc", "{}", "dev", "lo", "root"]
    bound = ["tbf", "rate", f"{gbit}gbit", "burst", "1m", "latency", "50ms"]
    subprocess.run([*(word.format("add") for word in queue), *bound], check=True)
    try:
        yield
    finally:
        subprocess.run([word.format("delete") for word in queue], check=True)


def _write_folder(folder: Path, size: int) -> None:
    packed = write_model(folder / "model.tar", size)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    packed.unlink()


def _measure(side: Side, ending: str, runs: int) -> Taken:
    taken = Taken()
    name = f"model{ending}"
    for _ in range(runs):
        taken.add("ours", lambda: side.ours(name))
        taken.add("by hand", lambda: side.by_hand(name, ending))
        taken.add("network", lambda: side.network(name))
    return taken


def _show(figures: Sequence[dict[str, Any]]) -> None:
    columns = ("network", "format", "ours", "tar, then curl", "curl alone", "ours, MiB", "tar's, MiB", "memory", "disk")
    rows = []
    for one in figures:
        seconds, size = one["seconds"], one["bytes"]
        own = seconds["ours"]
        rows.append(
            [
                f"{one['gbit']} Gbit/s" if one["gbit"] != "0" else "loopback",
                f"`{one['ending']}`",
                f"{own:.2f} s",
                *(f"{seconds[who]:.2f} s ({seconds[who] / own:.2f})" for who in ("by hand", "network")),
                *(f"{size[who] / MIB:,.0f}" for who in ("ours", "by hand")),
                *(f"{one[what] / MIB:.0f} MiB" for what in ("memory", "disk")),
            ]
        )
    show(
        "A folder into the store; curl alone sends what ours had packed; in brackets, how many times as long as ours",
        columns,
        rows,
    )
