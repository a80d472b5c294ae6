"""Measure what it costs a real triggerer to watch many donefiles, and how soon it tells of those that change."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from airflow_serving_reload.connections import open_store
from airflow_serving_reload.demo.processes import Processes
from tests.bench.figures import save, show
from tests.bench.watched_airflow import Group, WatchingAirflow
from tests.bench.watched_stores import STORES, WatchedStore, donefiles, slow
from tests.stores import Servers

COLUMNS = (
    "donefiles",
    "all looked at after, s",
    "CPU, % of a core",
    "requests/s",
    "connections",
    "MiB",
    "change to event, s: median",
    "99 %",
    "lost",
    "unhealthy",
    "blocked",
)
MIB = 1 << 20
PERCENT = 100
SLOW_SECONDS = 5.0
BESIDE = {"slow": SLOW_SECONDS, "silent": None}
NOBODY = "nobody"
BUSY = 0.5
"""Part of a core that the supervisor takes at least as long as it tells ten thousand watchers their states."""

LONGEST_DELAY = 300.0


@dataclass(frozen=True)
class Case:
    """What one start of Airflow measures.

    :param store: transport.
    :param count: of donefiles.
    :param folders: that they are in.
    :param beside: other donefiles are watched on another store, which is slow or silent.
    :param neighbours: how many.
    :param neighbour_folders: that they are in.
    :param deferred: by sensors.
    """

    store: str
    count: int
    folders: int
    beside: str | None
    neighbours: int
    neighbour_folders: int
    deferred: bool

    def __str__(self) -> str:
        """Name it for a table."""
        what = f"{self.count:,} {'sensors' if self.deferred else 'watchers'}, {self.store}"
        return f"{what}, {_folders(self.folders)}" + (
            f", beside {self.neighbours:,} on a {self.beside} store, {_folders(self.neighbour_folders)}"
            if self.beside
            else ""
        )


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    options = _options(arguments)
    rows, cases = [], []
    command = f"make bench BENCH={shlex.quote(shlex.join(['watchers', *arguments]))}"
    for store, count, beside in product(options.store, options.watchers, options.beside):
        neighbours = 0 if beside == NOBODY else options.neighbours or count
        case = Case(
            store,
            count,
            folders=min(options.folders, count),
            beside=beside if neighbours else None,
            neighbours=neighbours,
            neighbour_folders=min(options.neighbour_folders, neighbours),
            deferred=options.deferred,
        )
        told = measure(case, options)
        cases.append({**asdict(case), **told})
        rows.append([str(case), *(f"{value:g}" if value is not None else "-" for value in told.values())])
        # what comes next may take an hour, or fail
        save(options.save, command, {"poke_interval": options.poke_interval, "cases": cases})
    show(f"{options.poke_interval:g} s between two looks", COLUMNS, rows)


def measure(case: Case, options: argparse.Namespace) -> Mapping[str, float | None]:
    """Start everything, let it rest, change some donefiles at once, and end it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)
        processes = stack.enter_context(Processes())
        (folder / "servers").mkdir()
        (folder / "store").mkdir()
        servers = stack.enter_context(Servers(processes, folder / "servers"))
        store = stack.enter_context(STORES[case.store](servers, folder / "store"))
        places = donefiles(case.count, case.folders)
        environment = store.variables("watched")
        seen = None
        if not case.deferred:
            _put(store, places, "0", old=True)
            seen = _common_version(environment, places)
        groups = [Group("watched", "watched", places, options.poke_interval, case.deferred, seen)]
        if case.beside:
            other = stack.enter_context(slow(folder / "beside", BESIDE[case.beside]))
            others = donefiles(case.neighbours, case.neighbour_folders)
            groups.append(Group("beside", "beside", others, options.poke_interval, case.deferred))
            environment |= other.variables("beside")
        airflow = stack.enter_context(WatchingAirflow.running(folder / "airflow", groups, environment))
        return _measure(case, options, store, places, airflow, told=seen is None and not case.deferred)


def _measure(
    case: Case,
    options: argparse.Namespace,
    store: WatchedStore,
    places: Sequence[tuple[str, str]],
    airflow: WatchingAirflow,
    *,
    told: bool,
) -> Mapping[str, float | None]:
    began = time.monotonic()
    triggers = case.count + case.neighbours
    airflow.wait(lambda: airflow.triggers() >= triggers, f"{triggers} triggers")
    if told:
        airflow.wait(lambda: airflow.remembered() >= case.count, f"{case.count} first events, remembered")
    elif store.requests:
        wanted = {f"{folder}/{name}" for folder, name in places}
        airflow.wait(lambda: wanted.issubset(_requests(store)), f"{case.count} first looks")
    started = time.monotonic() - began
    # each donefile is looked at once more, and Airflow tells the states
    time.sleep(2 * options.poke_interval + 10)
    airflow.wait(lambda: airflow.supervisor_cpu(options.poke_interval) < BUSY, "rest")
    with airflow.measured(store.address.port) as costs:
        asked = len(_requests(store))
        time.sleep(options.seconds)
        asked = len(_requests(store)) - asked
    changed = places[:: max(1, case.count // options.changes)][: options.changes]
    delays: list[float] = []
    at = datetime.now(UTC)
    _put(store, changed, "1", old=False)
    with airflow.measured(store.address.port) as during:
        deadline = time.monotonic() + LONGEST_DELAY
        while len(delays) < len(changed) and time.monotonic() < deadline:
            time.sleep(1)
            delays = [(moment - at).total_seconds() for moment in _times(case, airflow, at).values()]
    return {
        "started_seconds": round(started, 1),
        "cpu_percent": round(PERCENT * costs.cpu, 1),
        "requests_per_second": round(asked / options.seconds, 2) if store.requests else None,
        "connections": max(costs.connections, during.connections),
        "mib": round(max(costs.rss, during.rss) / MIB),
        "delay_median": round(statistics.median(delays), 2) if delays else None,
        "delay_99": round(sorted(delays)[int(0.99 * (len(delays) - 1))], 2) if delays else None,
        "lost": len(changed) - len(delays),
        "unhealthy": costs.unhealthy + during.unhealthy,
        "blocked": costs.blocked + during.blocked,
    }


def _folders(count: int) -> str:
    return "one folder" if count == 1 else f"{count:,} folders"


def _times(case: Case, airflow: WatchingAirflow, since: datetime) -> Mapping[str, datetime]:
    if case.deferred:
        return airflow.resumed(since)
    return {name: at for name, at in airflow.events(since).items() if name.startswith("watched")}


def _requests(store: WatchedStore) -> list[str]:
    return store.requests() if store.requests else []


def _common_version(environment: Mapping[str, str], places: Sequence[tuple[str, str]]) -> Mapping[str, Any] | None:
    """Give the version that the donefiles have in common; None if the store tells them apart."""
    os.environ.update(environment)
    seen = []
    for path, name in (places[0], places[-1]):
        with open_store("watched", path) as store:
            seen.append(store.donefile(f"{path}/{name}"))
    return seen[0].to_dict() if seen[0] is not None and seen[0] == seen[1] else None


def _put(store: WatchedStore, places: Sequence[tuple[str, str]], version: str, *, old: bool) -> None:
    """Write donefiles as the upload does: one that names its model is believed at once, however young it is."""
    content = json.dumps({"version": version, "sha256": hashlib.sha256(version.encode()).hexdigest()}).encode()
    for folder, name in places:
        store.put(f"{folder}/{name}", content, old)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench watchers", description=__doc__)
    parser.add_argument("--watchers", type=int, nargs="+", default=[10, 100, 1000, 10000], help="how many donefiles")
    parser.add_argument("--store", nargs="+", choices=STORES, default=["http"], help="transport (default: http)")
    parser.add_argument("--folders", type=int, default=1, help="that the donefiles are in (default: %(default)s)")
    parser.add_argument("--poke-interval", type=float, default=10, help="seconds (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=100, help="donefiles changed at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="to measure at rest (default: %(default)s)")
    parser.add_argument(
        "--beside",
        nargs="+",
        choices=[NOBODY, *BESIDE],
        default=[NOBODY],
        help="watch others on another store, too, that is so (default: %(default)s)",
    )
    parser.add_argument("--neighbours", type=int, help="how many others (default: as many)")
    parser.add_argument("--neighbour-folders", type=int, default=1, help="that they are in (default: %(default)s)")
    parser.add_argument("--deferred", action="store_true", help="wait in deferred sensors, in place of watchers")
    parser.add_argument("--save", default="watchers", help="name of the file of figures (default: %(default)s)")
    return parser.parse_args(arguments)
