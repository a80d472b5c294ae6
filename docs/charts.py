"""Draws the charts of docs/performance.md from the figures in docs/figures; `make charts` runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FIGURES = Path(__file__).parent / "figures"
IMAGES = Path(__file__).parent / "images"

NAMES = {"ours": "this provider", "curl": "curl and tar, with sync", "monitor": "monitor.py, with sync"}
COLOURS = {"ours": "#1b7f5c", "curl": "#8f9bb3", "monitor": "#d98c4a"}


def main() -> None:
    """Draw every chart."""
    mpl.rcParams.update(
        {"svg.hashsalt": "charts", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    for name, draw in CHARTS.items():
        draw()
        plt.savefig(IMAGES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close()


def _figures(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((FIGURES / f"{name}.json").read_text())["figures"]
    return figures


def _delivery() -> None:
    kinds = _figures("delivery")["kinds"]
    _, axes = plt.subplots(figsize=(7, 2 + 0.4 * len(kinds)))
    for row, (who, name) in enumerate(NAMES.items()):
        places = [place + 0.27 * row for place, kind in enumerate(kinds) if who in kind["synced"]]
        seconds = [kind["synced"][who] for kind in kinds if who in kind["synced"]]
        bars = axes.barh(places, seconds, height=0.25, color=COLOURS[who], label=name)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        for place, kind in enumerate(kinds):
            if who not in kind["synced"]:
                axes.text(0, place + 0.27 * row, " cannot", va="center", fontsize=8, color=COLOURS[who])
    axes.set_yticks([place + 0.27 for place in range(len(kinds))], [kind["kind"].replace("`", "") for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlabel("seconds from the changed donefile to the model on the disk (median)")
    axes.legend(frameon=False)


def _growth() -> None:
    figures = _figures("growth")
    _, (seconds, memory) = plt.subplots(1, 2, figsize=(8, 3))
    for who, name in NAMES.items():
        kinds = [kind for kind in figures["kinds"] if who in kind["synced"]]
        sizes, times = [kind["mib"] for kind in kinds], [kind["synced"][who] for kind in kinds]
        seconds.plot(sizes, times, "o-", color=COLOURS[who], label=name)
    _logarithmic(seconds, "MiB of the model", "seconds to deliver")
    seconds.legend(frameon=False)
    kinds = figures["kinds"]
    memory.plot(
        [kind["mib"] for kind in kinds], [kind["memory"] / 2**20 for kind in kinds], "o-", color=COLOURS["ours"]
    )
    _logarithmic(memory, "MiB of the model", "MiB of memory at the peak", both=False)
    memory.set_ylim(0, 80)


def _watchers() -> None:
    figures = _figures("watchers")
    cases = [*figures["cases"], *_figures("watchers-many")["cases"]]
    counts = [case["count"] for case in cases]
    _, (cpu, delay, memory) = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    cpu.plot(counts, [case["cpu_percent"] for case in cases], "o-", color=COLOURS["ours"])
    _logarithmic(cpu, "donefiles in one folder", "% of a core, at rest", both=False)
    cpu.set_ylim(bottom=0)
    # of one moment each: no line, since nothing lies between
    for quantile, name, mark in (("delay_median", "median", "o"), ("delay_99", "99 %", "^")):
        delay.plot(counts, [case[quantile] for case in cases], mark, color=COLOURS["ours"], alpha=0.7, label=name)
    delay.axhline(figures["poke_interval"], color=COLOURS["curl"], linewidth=1, label="the interval of the looks")
    _logarithmic(delay, "donefiles in one folder", "seconds from change to event", both=False)
    delay.set_ylim(bottom=0)
    delay.legend(frameon=False, fontsize=7)
    memory.plot(counts, [case["mib"] for case in cases], "o-", color=COLOURS["ours"])
    _logarithmic(memory, "donefiles in one folder", "MiB of the triggerer", both=False)
    memory.set_ylim(bottom=0)


def _logarithmic(axes: Axes, across: str, up: str, *, both: bool = True) -> None:
    axes.set_xscale("log")
    if both:
        axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, color="#e4e7ee")
    axes.set_axisbelow(True)


CHARTS: dict[str, Callable[[], None]] = {
    "delivery": _delivery,
    "growth": _growth,
    "watchers": _watchers,
}
"""Name of the picture to what draws it."""


if __name__ == "__main__":
    main()
