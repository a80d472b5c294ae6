"""Runs a Hadoop client, and kills it with all its children once whoever started it lets go of it or is gone.

A program of its own, that `hadoop_client.py` starts as the leader of a process group.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

CANNOT_RUN = 126
"""Exit status, as shells have it, of a program that is there and does not start."""


def main(lifeline: int, held: int, command: list[str]) -> int:
    """Run a command and give its exit status.

    :param lifeline: end of a pipe; a byte from it says that the command's input is whole, its end that the command is
        not wanted any more.
    :param held: the other end of the command's input. As long as it is open the command cannot take the end of
        whoever writes there for the end of the file.
    """
    for descriptor in (lifeline, held):
        os.set_inheritable(descriptor, False)
    try:
        program = os.posix_spawn(command[0], command, os.environ, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr)  # noqa: T201
        return CANNOT_RUN

    def watch() -> None:
        while os.read(lifeline, 1):
            os.close(held)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
