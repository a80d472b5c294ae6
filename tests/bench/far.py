"""What a long line costs: one archive over 50 ms of round trip and 0.01 % of loss, by one connection and by several."""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from airflow_serving_reload.demo.processes import Processes
from tests.bench import figures
from tests.bench.archives import write_model
from tests.bench.link import Line, between
from tests.bench.measuring import MIB, MODEL, Workplace, returned
from tests.contract.bench import PASSWORD, USER
from tests.stores import Servers, Way, over_hdfs_native, over_nginx, over_webhdfs

TRANSPORTS: Mapping[str, Callable[[Servers, Path], AbstractContextManager[Way]]] = {
    "http": over_nginx,
    "webhdfs": over_webhdfs,
    "hdfs_native": over_hdfs_native,
}
GIB = 1 << 30

COLUMNS = ("store", "connections", "s (median)", "times one stream", "memory, MiB (largest)")

Row = tuple[str, str]


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    options = _options(arguments)
    seconds: dict[Row, list[float]] = defaultdict(list)
    memory: dict[Row, list[float]] = defaultdict(list)
    line_of = between(milliseconds=options.milliseconds, loss=options.loss)
    with line_of as line, tempfile.TemporaryDirectory(prefix="bench-") as temporary, line.at_server():
        folder = Path(temporary)
        packed = write_model(folder / MODEL, int(options.gib * GIB))
        with _ways(options.store, folder, packed) as ways:
            for _ in range(options.repeats):
                if "http" in ways:
                    seconds["curl", "1"].append(_curl(line, ways["http"]))
                for name, way in ways.items():
                    for connections in options.connections:
                        told = _deliver(line, way, connections, folder / "place")
                        seconds[name, str(connections)].append(told["seconds"])
                        memory[name, str(connections)].append(told["memory"])
    _tell(arguments, options, seconds, memory)


@contextmanager
def _ways(names: Sequence[str], folder: Path, packed: Path) -> Iterator[dict[str, Way]]:
    """Start the stores, and upload the model to each from beside it."""
    with Processes() as processes, ExitStack() as stack:
        (folder / "servers").mkdir()
        servers = stack.enter_context(Servers(processes, folder / "servers"))
        ways = {}
        for name in names:
            # those in HDFS share it, so each has a folder of its own
            way = stack.enter_context(TRANSPORTS[name](servers, folder / name))
            ways[name] = replace(way, remote_path=f"{way.remote_path}/{name}")
        for name, way in ways.items():
            returned(Workplace(folder / f"uploads-{name}").upload(way, packed))
        yield ways


def _deliver(line: Line, way: Way, connections: int, folder: Path) -> dict[str, float]:
    """Deliver the model to a new place at the client's end."""
    try:
        told = Workplace(folder).reload(replace(way.with_fields(extra={"parallel": connections}), prefix=line.prefix))
        returned(told)
        return told
    finally:
        shutil.rmtree(folder)


def _curl(line: Line, way: Way) -> float:
    """Give the seconds that the same bytes take by one connection, without unpacking."""
    assert way.address
    url = "http://{}:{}".format(*way.address) + f"{way.remote_path}/{MODEL}"
    command = [*line.prefix, "curl", "--silent", "--fail", "--noproxy", "*", "--user", f"{USER}:{PASSWORD}"]
    began = time.perf_counter()
    subprocess.run([*command, "--output", "/dev/null", url], check=True)
    return time.perf_counter() - began


def _tell(
    arguments: Sequence[str],
    options: argparse.Namespace,
    seconds: Mapping[Row, Sequence[float]],
    memory: Mapping[Row, Sequence[float]],
) -> None:
    rows, kept = [], []
    for (name, connections), took in seconds.items():
        median = statistics.median(took)
        one = seconds.get((name, "1"))
        ratio = statistics.median(one) / median if one else None
        largest = max(memory[name, connections]) / MIB if memory.get((name, connections)) else None
        cells = (f"{median:.1f}", f"{ratio:.1f}" if ratio else "-", f"{largest:.0f}" if largest else "-")
        rows.append((name, connections, *cells))
        kept.append(
            {
                "store": name,
                "connections": int(connections),
                "seconds": took,
                "median": median,
                "times_one_stream": ratio,
                "memory_mib": largest,
            }
        )
    title = f"far: {options.gib:g} GiB, {options.milliseconds:g} ms, {options.loss:.2%} lost, {options.repeats} times"
    figures.show(title, COLUMNS, rows)
    line = {"milliseconds": options.milliseconds, "loss": options.loss, "gib": options.gib}
    figures.save("far", shlex.join(["python", "-m", "tests.bench", "far", *arguments]), {"line": line, "rows": kept})


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench far", description=__doc__)
    add = parser.add_argument
    add("--gib", type=float, default=1, help="size of the model (default: %(default)g)")
    add("--repeats", type=int, default=3, help="how often each is measured (default: %(default)d)")
    add("--store", nargs="+", choices=TRANSPORTS, default=list(TRANSPORTS), help="(default: all)")
    add("--connections", nargs="+", type=int, default=[1, 4, 8], help="(default: 1 4 8)")
    add("--milliseconds", type=float, default=50, help="of a round trip (default: %(default)g)")
    add("--loss", type=float, default=0.0001, help="share of the packets that is lost (default: %(default)g)")
    return parser.parse_args(arguments)
