"""What it costs to upload and to deliver a large model."""

from __future__ import annotations

from pathlib import Path

from tests.bench.measuring import MIB, Workplace, returned
from tests.bench.watching import disk_use
from tests.stores import Way

COLUMNS = (
    "store",
    "upload, s",
    "its memory + a child's, MiB",
    "its disk, MiB",
    "deliver, s",
    "its memory + a child's, MiB",
    "its disk beyond the unpacked model, MiB",
)


def measure(name: str, way: Way, folder: Path, packed: Path) -> list[list[str]]:
    """Upload a packed model, deliver it, and give the row of the table."""
    place = Workplace(folder)
    up = place.upload(way, packed)
    uploaded = returned(up)
    before = disk_use(place.folder)
    down = place.reload(way)
    assert returned(down)["sha256"] == uploaded["sha256"], "another model was delivered"
    beyond = down["disk"] - (disk_use(place.folder) - before)
    return [
        [
            name,
            f"{up['seconds']:.1f}",
            _memory(up),
            f"{up['disk'] / MIB:.1f}",
            f"{down['seconds']:.1f}",
            _memory(down),
            f"{beyond / MIB:.1f}",
        ]
    ]


def _memory(told: dict[str, float]) -> str:
    own = f"{told['memory'] / MIB:.0f}"
    return f"{own} + {told['child_memory'] / MIB:.0f}" if told["child_memory"] else own
