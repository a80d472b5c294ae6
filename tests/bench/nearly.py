"""A model of which little has changed: what of it is fetched again from a folder, or written again from an archive."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import statistics
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_serving_reload.delivery.archive.packing import PACKERS
from airflow_serving_reload.demo.processes import Processes
from tests.bench.figures import save, show
from tests.bench.measuring import MIB, MODEL, UNPACKED, Workplace, returned
from tests.contract.nginx import Nginx
from tests.delivery.models import AN_HOUR_NS, SECOND_NS, digest_of_file, digest_of_files, digest_of_folder, set_time
from tests.stores import Servers, Way, over_webhdfs

ENDINGS = (".tar", ".tar.gz")
FOLDER = "model"

ROUNDS = ("first", "nearly the same", "another one")
"""Deliveries to one host: of a model to an empty one, of it with a small part changed, and with all of it changed."""


@dataclass(frozen=True)
class Size:
    """How large the model is, and how much of it changes.

    :param files: how many files it has.
    :param each: bytes of one file.
    :param changed: how many files change.
    """

    files: int
    each: int
    changed: int

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.files * self.each

    def names(self, which: str) -> list[str]:
        """Give the names of the files that are written for a round; those of a small change lie everywhere."""
        every = self.files // self.changed if which == "nearly the same" else 1
        return [f"shard-{number:05}" for number in range(0, self.files, every)][: self.files]

    def data(self) -> bytes:
        """Make the content of a file: one half random, the other one compresses."""
        half = self.each // 2
        return os.urandom(self.each - half) + (os.urandom(64) * (half // 64 + 1))[:half]


class Source(ABC):
    """A store with a model."""

    arguments: dict[str, Any]
    """Of the operator, in the place of the usual ones."""

    way: Way

    @abstractmethod
    def train(self, size: Size, which: str) -> None:
        """Write what changes for a round, and announce it."""

    @abstractmethod
    def fetched(self, place: Workplace) -> int:
        """Give how many bytes were fetched since this was asked last."""


class NginxSource(Source):
    """A folder, or an archive, behind nginx, which counts what it sends.

    :param ending: of the archive; empty for a folder.
    """

    def __init__(self, nginx: Nginx, ending: str = "") -> None:
        self.arguments = {} if ending else {"remote_model_name": FOLDER, "unpacked_filename": None}
        self.way = Way(fields={"conn_type": "http", "host": "http://{}:{}/counted".format(*nginx.address)})
        self._ending = ending
        self._trained = 0
        self._log = nginx.files.parent / "counted.log"
        self._read = len(self._log.read_text().splitlines())
        self._models = nginx.files / "counted" / "models"
        shutil.rmtree(self._models, ignore_errors=True)

    def train(self, size: Size, which: str) -> None:
        """Write what changes for a round, and announce it."""
        folder = self._models / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._trained = (self._trained + 1) % 20
        for name in size.names(which):
            (folder / name).write_bytes(size.data())
            # long written when it is delivered, as it mostly is
            set_time(folder / name, ahead_ns=self._trained * 120 * SECOND_NS - AN_HOUR_NS)
        if self._ending:
            _pack(folder, self._models / MODEL, self._ending)
            digest = digest_of_file(self._models / MODEL)
        else:
            digest = digest_of_folder(folder)
        (self._models / "donefile").write_text(_promise(digest))
        set_time(self._models / "donefile", ahead_ns=-AN_HOUR_NS)

    def fetched(self, place: Workplace) -> int:
        """Give how many bytes nginx has sent since this was asked last."""
        lines = self._log.read_text().splitlines()
        sent = sum(int(re.findall(r'" \d+ (\d+) "', line)[0]) for line in lines[self._read :] if "/models" in line)
        self._read = len(lines)
        return sent


class WebHdfsSource(Source):
    """A folder in HDFS; how much of it is fetched is what the task says."""

    def __init__(self, servers: Servers, way: Way) -> None:
        self.arguments = {"remote_model_name": FOLDER, "unpacked_filename": None}
        self.way = way
        self._client = servers.hdfs.administrator
        self._digests: dict[str, str] = {}

    def train(self, size: Size, which: str) -> None:
        """Write what changes for a round, and announce it."""
        for name in size.names(which):
            data = size.data()
            self._digests[name] = hashlib.sha256(data).hexdigest()
            self._client.write(f"{self.way.remote_path}/{FOLDER}/{name}", data, overwrite=True)
        promise = _promise(digest_of_files(self._digests))
        self._client.write(f"{self.way.remote_path}/donefile", promise.encode(), overwrite=True)

    def fetched(self, place: Workplace) -> int:
        """Give how many bytes the last task said that it fetched."""
        log = (place.folder / "task.log").read_text()
        here, total = map(int, re.findall(r"(\d+) of (\d+) bytes were here already", log)[-1])
        return total - here


def _promise(digest: str) -> str:
    """Write a donefile as `UploadModelOperator` does, without which nothing of a folder is taken from here."""
    return json.dumps({"version": os.urandom(8).hex(), "sha256": digest})


def _pack(folder: Path, path: Path, ending: str) -> None:
    plain = path.with_name("plain")
    with tarfile.open(plain, "w") as archive:
        archive.add(folder, UNPACKED)
    with plain.open("rb") as source, path.open("wb") as file, PACKERS[ending](file) as packed:
        shutil.copyfileobj(source, packed, MIB)
    plain.unlink()


@dataclass
class Taken:
    """What the deliveries of one round took."""

    seconds: list[float] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Give the medians."""
        return {name: statistics.median(getattr(self, name)) for name in ("seconds", "fetched", "written")}


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench nearly", description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="of the model (default: %(default)s)")
    parser.add_argument("--mib", type=float, default=1024, help="of all files together (default: %(default)s)")
    parser.add_argument("--percent", type=float, default=1, help="of the files change (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--hdfs", action="store_true", help="a folder in HDFS as well")
    options = parser.parse_args(arguments)
    changed = max(1, round(options.files * options.percent / 100))
    size = Size(options.files, int(options.mib * MIB) // options.files, changed)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, Processes() as processes:
        folder = Path(temporary)
        (folder / "servers").mkdir()
        with Servers(processes, folder / "servers") as servers:
            figures = {
                name: _measure(source, size, folder, options.runs)
                for name, source in _sources(servers, folder, hdfs=options.hdfs)
            }
    _show(figures, size)
    told = {"files": size.files, "bytes": size.total, "changed": size.changed, "sources": figures}
    save("nearly", f'make bench BENCH="nearly {" ".join(arguments)}"', told)


def _sources(servers: Servers, folder: Path, *, hdfs: bool) -> Iterator[tuple[str, Source]]:
    yield "a folder over HTTP", NginxSource(servers.nginx)
    for ending in ENDINGS:
        yield f"a `{ending}` over HTTP", NginxSource(servers.nginx, ending)
    if hdfs:
        with over_webhdfs(servers, folder) as way:
            yield "a folder over WebHDFS", WebHdfsSource(servers, way)


def _measure(source: Source, size: Size, folder: Path, runs: int) -> dict[str, dict[str, float]]:
    taken = {which: Taken() for which in ROUNDS}
    for _ in range(runs):
        with _workplace(folder) as place:
            for which in ROUNDS:
                source.train(size, which)
                told = place.reload(source.way, **source.arguments)
                assert returned(told)["changed"]
                taken[which].seconds.append(told["seconds"])
                taken[which].fetched.append(source.fetched(place))
                taken[which].written.append(told["written"])
    return {which: one.figures() for which, one in taken.items()}


_numbers = itertools.count()


@contextmanager
def _workplace(folder: Path) -> Iterator[Workplace]:
    place = Workplace(folder / f"host-{next(_numbers)}")
    yield place
    shutil.rmtree(place.folder)


def _show(figures: dict[str, dict[str, dict[str, float]]], size: Size) -> None:
    columns = ("model", *(f"{which}: {what}" for which in ROUNDS for what in ("seconds", "fetched", "written")))
    rows = [
        [
            name,
            *(
                cell
                for which in ROUNDS
                for cell in (
                    f"{rounds[which]['seconds']:.2f}",
                    f"{rounds[which]['fetched'] / size.total:.1%}",
                    f"{rounds[which]['written'] / size.total:.1%}",
                )
            ),
        ]
        for name, rounds in figures.items()
    ]
    what = f"{size.files:,} files of {size.total / MIB:,.0f} MiB together, of which {size.changed:,} change"
    show(f"{what}; fetched and written as a part of all bytes of its files", columns, rows)
