"""Figures as they were measured: kept as JSON beside the documents that show them, and shown as tables in Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "figures"


def save(name: str, command: str, figures: Mapping[str, Any]) -> None:
    """Keep what was measured, in the place of what was measured before.

    :param name: which bench.
    :param command: what measures it again.
    :param figures: plain values.
    """
    FOLDER.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    measured = datetime.now(UTC).date().isoformat()
    told = {"command": command, "measured": measured, "machine": machine, "figures": figures}
    (FOLDER / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n")


def row(cells: Sequence[str]) -> str:
    """Compose a row of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    lines = [f"\n{title}\n", row(columns), row(["---"] * len(columns)), *map(row, rows)]
    print(*lines, sep="\n", flush=True)  # noqa: T201 - what a bench is for
