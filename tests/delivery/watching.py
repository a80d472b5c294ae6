"""A reader of a model, in a process of its own, that reads without pause until it is told a line.

It opens the model's folder once for each model that it reads, as a server does that loads one, and prints each
version that it saw for the first time, and each fault: a file that was missing, or two of different versions.
"""

from __future__ import annotations

import os
import select
import sys


def read(model: str) -> str:
    """Read the two files of the model through one opened folder."""
    folder = os.open(model, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = []
        for name in ("a", "b"):
            file = os.open(name, os.O_RDONLY, dir_fd=folder)
            found.append(os.read(file, 100).decode())
            os.close(file)
        return found[0] if found[0] == found[1] else f"mixed: {found}"
    except OSError as error:
        return f"missing: {error}"
    finally:
        os.close(folder)


def main() -> None:
    """Watch the model named on the command line."""
    seen: set[str] = set()
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            version = read(sys.argv[1])
        except OSError as error:
            version = f"missing: {error}"
        if version not in seen:
            seen.add(version)
            sys.stdout.write(f"{version}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
