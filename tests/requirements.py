"""What tests need from the machine: where it is missing they are skipped, or fail if REQUIRE_ALL=1."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def require(condition: object, what: str) -> None:
    """Go on only if something that the test, or the fixture, needs from the machine is there.

    :param condition: true if it is there.
    :param what: what is needed, and how to get it.
    """
    if condition:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what}; REQUIRE_ALL=1 allows no skipped test", pytrace=False)
    pytest.skip(what)


def require_program(name: str, package: str) -> Path:
    """Find a program of the system, also where only root has it in the PATH.

    :param name: name of the program.
    :param package: the system's package that has it.
    """
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin")))
    require(found, f"needs the program {name}: install the package {package}")
    return Path(str(found))
