"""Measure every store over real servers on this host, and print the figures as tables in Markdown."""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from airflow_serving_reload.demo.processes import Processes
from tests.bench import faults, model, polls
from tests.bench.archives import write_model
from tests.bench.figures import row
from tests.stores import STORES, Servers, Way, over_nginx

MEASURED = {**STORES, "http": over_nginx}
TABLES = {"polls": polls.COLUMNS, "model": model.COLUMNS, "faults": faults.COLUMNS}
GIB = 1 << 30

Measure = Callable[[str, Way, Path], list[list[str]]]


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    options = _options(arguments)
    # the FTP servers in this process tell of each transfer, unless somebody listens already
    logging.getLogger("pyftpdlib").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, Processes() as processes:
        folder = Path(temporary)
        packed = folder / "model.tar"
        measures: dict[str, Measure] = {
            "polls": polls.measure,
            "model": partial(model.measure, packed=packed),
            "faults": faults.measure,
        }
        if "model" in options.tables:
            write_model(packed, int(options.gib * GIB))
        (folder / "servers").mkdir()
        with Servers(processes, folder / "servers") as servers:
            for name in options.tables:
                columns = TABLES[name]
                _say(f"\n{name}\n", row(columns), row(["---"] * len(columns)))
                for store in options.store:
                    _say(*map(row, _rows(store, servers, folder, measures[name])))


def _rows(store: str, servers: Servers, folder: Path, measure: Measure) -> list[list[str]]:
    """Measure one store, and leave nothing of it on the disk."""
    own = folder / store
    (own / "files").mkdir(parents=True)
    try:
        with MEASURED[store](servers, own / "files") as way:
            return measure(store, way, own / "task")
    except pytest.skip.Exception as skipped:
        return [[store, str(skipped)]]
    finally:
        shutil.rmtree(own)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench stores", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; all of them if left out")
    parser.add_argument("--store", nargs="+", choices=MEASURED, default=list(MEASURED), help="(default: all)")
    parser.add_argument("--gib", type=float, default=2, help="size of the model of the table (default: %(default)g)")
    options = parser.parse_args(arguments)
    options.tables = options.tables or list(TABLES)
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    return options


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - what the program is for
