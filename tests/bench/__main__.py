"""Measure what the command line names, or everything, over real servers on this host."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

BENCHES = {
    "airflow": "from the donefile to the served model through Airflow, beside monitor.py, and what imports cost",
    "delivery": "from the changed donefile to the published model, beside monitor.py and curl with tar",
    "nearly": "a model of which little has changed: what of it is fetched and written again",
    "watchers": "what it costs a triggerer to watch many donefiles, and how soon it tells of a change",
    "far": "what a long line costs, by one connection and by several (root)",
    "stores": "what a look, a model and a fault cost over each store",
    "uploads": "a folder packed on its way into the store, beside tar and then curl, and the network alone",
}
"""The modules of this package that measure, and what."""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog="; ".join(f"{name}: {what}" for name, what in BENCHES.items()),
    )
    parser.add_argument("bench", nargs="?", choices=BENCHES, help="which one; all of them if left out")
    # what is installed has its bytecode beside it, and so has what is measured, whatever this environment says
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # what stands behind a name is for that bench to understand, its --help too
    options, arguments = parser.parse_args(sys.argv[1:2]), sys.argv[2:]
    for name in [options.bench] if options.bench else BENCHES:
        importlib.import_module(f"{__package__}.{name}").main(arguments)


if __name__ == "__main__":
    main()
