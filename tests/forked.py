"""Processes that a test forks: waited for only so long, and one that hangs has to say where."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import select
import signal

PR_SET_PDEATHSIG = 1

END_SECONDS = 120
"""Far beyond what any of them takes."""

TELLING_SECONDS = 10
"""Far beyond what it takes to tell where it hangs."""


def fork() -> int:
    """Fork, as `os.fork` does; the child ends with this process, and can say where it hangs."""
    pid = os.fork()
    if pid == 0:
        # a parent that has ended is waited for as long as somebody holds its pipes
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # garbage may wait for threads that are not here, such as those of a client of HDFS
        gc.disable()
        # some libraries put handlers of their own in the place of pytest's
        faulthandler.disable()
        faulthandler.enable(2)
    return pid


def status_of(pid: int) -> int:
    """Wait until a child has ended, and give what `os.waitpid` tells of it.

    One that does not end is aborted, for which it writes the stacks of its threads to standard error.
    """
    descriptor = os.pidfd_open(pid)
    try:
        for seconds, number in ((END_SECONDS, signal.SIGABRT), (TELLING_SECONDS, signal.SIGKILL)):
            if select.select([descriptor], [], [], seconds)[0]:
                break
            os.kill(pid, number)
    finally:
        os.close(descriptor)
    return os.waitpid(pid, 0)[1]
