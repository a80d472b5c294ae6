"""What a look at an unchanged donefile costs, and the question whether it is unchanged."""

from __future__ import annotations

from pathlib import Path

from tests.bench.archives import write_model
from tests.bench.measuring import Workplace, returned
from tests.stores import Way

COLUMNS = (
    "store",
    "first look, ms",
    "each further one, ms (median)",
    "CPU of each, ms",
    "a question, ms (median)",
    "CPU of each, ms",
)
LOOKS = 100
SMALL_BYTES = 1 << 16


def measure(name: str, way: Way, folder: Path) -> list[list[str]]:
    """Poll a donefile and give the row of the table."""
    place = Workplace(folder)
    returned(place.upload(way, write_model(folder / "model.tar", SMALL_BYTES)))
    told = place.poll(way, LOOKS)
    return [[name, *(f"{seconds * 1000:.2f}" for seconds in (told["first"], *told["look"], *told["question"]))]]
