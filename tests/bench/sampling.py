"""Where the time of a task goes: its threads are looked at again and again, and what each is doing is counted."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

LOOK_SECONDS = 0.002

DOING = {
    ("socket.py", "readinto"): "socket",
    ("ssl.py", "read"): "socket",
    ("response.py", "_fp_read"): "socket",
    ("streams.py", "read"): "digest",
    ("compression.py", "read"): "decompression",
    ("gzip.py", "read"): "decompression",
    ("streams.py", "_gathered"): "decompression",
    ("destination.py", "_write_all"): "write",
    ("destination.py", "add_file"): "write",
    ("destination.py", "<lambda>"): "write",
    ("filesystem.py", "sync_filesystem"): "sync",
    ("filesystem.py", "sync_folder"): "sync",
    ("filesystem.py", "replace_file"): "publish",
    ("filesystem.py", "replace_symlink"): "publish",
}
"""A file's name and its function, in which a thread is innermost, to what it does there."""

STAGES = ("socket", "digest", "decompression", "write", "sync", "publish", "other")
WAITING = {"queue.py", "threading.py", "thread.py"}


@contextmanager
def sampled() -> Iterator[dict[str, float]]:
    """Fill a dict with the share of the time in which some thread did each of the stages; several may at once."""
    shares: dict[str, float] = {}
    counts: Counter[str] = Counter()
    ended = threading.Event()

    def look() -> None:
        own = threading.get_ident()
        while not ended.wait(LOOK_SECONDS):
            counts["looks"] += 1
            counts.update({_stage(frame) for thread, frame in sys._current_frames().items() if thread != own})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield shares
    finally:
        ended.set()
        thread.join()
        shares.update({stage: counts[stage] / max(1, counts["looks"]) for stage in STAGES})


def _stage(frame: FrameType) -> str:
    file = Path(frame.f_code.co_filename).name
    if file in WAITING:
        return "waiting"
    return DOING.get((file, frame.f_code.co_name), "other")
