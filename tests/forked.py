"""Processes that a test forks: waited for only so long, and one that hangs has to say where."""

from __future__ import annotations

import os
import select
import signal

END_SECONDS = 120
"""Far beyond what any of them takes."""


def status_of(pid: int) -> int:
    """Wait until a child has ended, and give what `os.waitpid` tells of it.

    One that does not end is aborted, for which pytest makes it write the stacks of its threads to standard error.
    """
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], END_SECONDS)[0]:
            os.kill(pid, signal.SIGABRT)
    finally:
        os.close(descriptor)
    return os.waitpid(pid, 0)[1]
