"""Children end as a whole, whatever happens to their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_serving_reload.demo.processes import Child, ProcessError, Processes

from .running import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets orphans be adopted")

# Leaves the process group, the session and its parents, as a daemon does, and tells that it is there.
FAMILY = """
import os, sys, time
from pathlib import Path

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        Path(sys.argv[1]).touch()
        time.sleep(600)
    os._exit(0)
os.wait()
if "stay" in sys.argv:
    time.sleep(600)
"""

OWNER = """
import os, signal, sys, time
from pathlib import Path
from airflow_serving_reload.demo.processes import Processes

family, folder = sys.argv[1], Path(sys.argv[2])
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for its background jobs
with Processes() as processes:
    daemon = folder / "daemon"
    child = processes.start(
        "family", [sys.executable, "-c", family, str(daemon), "stay"], log=folder / "family.log"
    )
    processes.wait_until(daemon.exists, child, seconds=30)
    if "fork" in sys.argv:
        if (fork := os.fork()) == 0:
            time.sleep(600)
        print(fork, flush=True)
    else:
        print("ready", flush=True)
    time.sleep(600)
"""

# Writes its name when it is asked to end, and does not end if it is told to be stubborn.
WITNESS = """
import signal, sys, time
from pathlib import Path

_, name, ready, witnessed, *stubborn = sys.argv

def leave(number, frame):
    with Path(witnessed).open("a") as file:
        file.write(name + " ")
    if not stubborn:
        sys.exit(0)

signal.signal(signal.SIGTERM, leave)
Path(ready).touch()
while True:
    time.sleep(600)
"""


Living = Callable[[], set[int]]
StartOwner = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Iterator[Living]:
    """Tell which processes live among the descendants of the test, by a variable that they inherit."""
    marker = f"PROCESSES_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*marker.split("="))

    def find() -> set[int]:
        found = set()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marker.encode() in environment.read_bytes():
                    found.add(int(environment.parent.name))
            except OSError:
                continue  # It has just ended, or is somebody else's.
        return found

    yield find
    for process in find():
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[StartOwner]:
    """Start an owner with a family; give it with the line that it prints when the family is there."""
    owners = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = python(OWNER, FAMILY, tmp_path, *arguments)
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        owners.append(owner)
        assert owner.stdout is not None
        return owner, owner.stdout.readline().strip()

    yield start
    for owner in owners:
        owner.kill()
        owner.communicate()


def python(program: str, *arguments: str | Path) -> list[str]:
    """Return the command line of a Python program."""
    return [sys.executable, "-c", program, *map(str, arguments)]


def start_witness(processes: Processes, folder: Path, name: str, *manner: str, grace: float = 60) -> Child:
    """Start a witness and wait until it is one."""
    ready = folder / f"{name}.ready"
    command = python(WITNESS, name, ready, folder / "witnessed", *manner)
    witness = processes.start(name, command, log=folder / f"{name}.log", grace=grace)
    processes.wait_until(ready.exists, witness, seconds=DEADLINE_SECONDS)
    return witness


def test_leaving_ends_orphans_in_sessions_of_their_own(tmp_path: Path, living: Living) -> None:
    """When the ``with`` block is left, a grandchild in a session of its own has been ended too."""
    daemon = tmp_path / "daemon"
    with Processes() as processes:
        child = processes.start("family", python(FAMILY, daemon, "stay"), log=tmp_path / "log")
        processes.wait_until(daemon.exists, child, seconds=DEADLINE_SECONDS)
        assert len(living()) == 3, "guardian, child and grandchild"
    assert living() == set()


def test_leaving_by_an_error_ends_the_children(tmp_path: Path, living: Living) -> None:
    """An exception inside the ``with`` block comes out of it as it is, and no child is left."""

    def start_and_fail() -> None:
        with Processes() as processes:
            processes.start("sleeper", ["sleep", "600"], log=tmp_path / "log")
            wait_until(living, "the child is there")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start_and_fail()
    assert living() == set()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)],
)
def test_signals_unwind_the_owner(
    start_owner: StartOwner,
    living: Living,
    number: signal.Signals,
    status: int,
) -> None:
    """When an owner has ended by SIGINT or SIGTERM, nothing of its children is left."""
    owner, _ = start_owner()
    owner.send_signal(number)
    assert owner.wait(DEADLINE_SECONDS) == status
    assert living() == set()


def test_killed_owner_leaves_nothing(start_owner: StartOwner, living: Living) -> None:
    """Soon after an owner has been killed by SIGKILL, nothing of its children is left."""
    owner, _ = start_owner()
    owner.kill()
    owner.wait(DEADLINE_SECONDS)
    wait_until(lambda: living() == set(), "no child is left")


def test_killed_owner_leaves_nothing_though_its_fork_lives(start_owner: StartOwner, living: Living) -> None:
    """A fork of the owner, which has inherited its pipes, does not keep the children of a killed owner."""
    owner, fork = start_owner("fork")
    owner.kill()
    owner.wait(DEADLINE_SECONDS)
    wait_until(lambda: living() == {int(fork)}, "only the fork is left")
    os.kill(int(fork), signal.SIGKILL)


def test_child_that_exits_leaves_nothing(tmp_path: Path, living: Living) -> None:
    """A child has ended only when the grandchildren that it left behind have been ended too."""
    with Processes() as processes:
        child = processes.start("family", python(FAMILY, tmp_path / "daemon"), log=tmp_path / "log")
        assert child.wait(DEADLINE_SECONDS) == 0
        assert living() == set()


def test_children_end_in_reverse_order(tmp_path: Path) -> None:
    """Children are asked to end in the reverse order of their start, one after the other."""
    with Processes() as processes:
        for name in ("first", "second", "third"):
            start_witness(processes, tmp_path, name)
    assert (tmp_path / "witnessed").read_text().split() == ["third", "second", "first"]


def test_stubborn_child_is_killed(tmp_path: Path, living: Living) -> None:
    """A child that does not end on SIGTERM is ended by SIGKILL once its grace is over."""
    with Processes() as processes:
        child = start_witness(processes, tmp_path, "child", "stubborn", grace=0.5)
        processes.end(child)
        assert child.status == 128 + signal.SIGKILL
        assert (tmp_path / "witnessed").read_text().split() == ["child"]
        assert living() == set()


def test_killing_gives_no_time(tmp_path: Path, living: Living) -> None:
    """A child that is killed does not get to handle SIGTERM first."""
    with Processes() as processes:
        child = start_witness(processes, tmp_path, "child")
        processes.end(child, kill=True)
        assert child.status == 128 + signal.SIGKILL
        assert not (tmp_path / "witnessed").exists()
        assert living() == set()


def test_child_that_dies_at_start_is_explained(tmp_path: Path) -> None:
    """Waiting for a child that dies raises at once, with its name, its status and its last lines alone."""
    program = "import sys; print(*range(100), sep='\\n'); sys.exit('no such port')"
    with Processes() as processes:
        child = processes.start("server", python(program), log=tmp_path / "log")
        with pytest.raises(ProcessError) as caught:
            processes.wait_until(lambda: False, child, seconds=DEADLINE_SECONDS)
    first, *others = str(caught.value).splitlines()
    assert first.startswith("server ended with exit status 1")
    assert others == [*map(str, range(81, 100)), "no such port"]


def test_death_of_another_child_ends_the_wait(tmp_path: Path) -> None:
    """Waiting for one child raises when another dies, and shows the log of the dead one."""
    with Processes() as processes:
        processes.start("database", ["sh", "-c", "echo disk full; exit 3"], log=tmp_path / "database.log")
        server = processes.start("server", ["sleep", "600"], log=tmp_path / "server.log")
        with pytest.raises(ProcessError, match=r"database ended with exit status 3.*\ndisk full"):
            processes.wait_until(lambda: False, server, seconds=DEADLINE_SECONDS)


def test_child_that_never_becomes_ready_is_explained(tmp_path: Path) -> None:
    """Waiting for longer than allowed raises, with the last lines of the child that was waited for."""
    log = tmp_path / "log"
    with Processes() as processes:
        child = processes.start("server", ["sh", "-c", "echo still loading; sleep 600"], log=log)
        processes.wait_until(lambda: bool(log.read_text()), child, seconds=DEADLINE_SECONDS)
        with pytest.raises(ProcessError, match=r"server was not ready within 0.1 s.*\nstill loading"):
            processes.wait_until(lambda: False, child, seconds=0.1)


def test_failed_run_is_explained(tmp_path: Path) -> None:
    """Running a command that fails raises, with its status and its own lines, not those of an earlier run."""
    log = tmp_path / "log"
    with Processes() as processes:
        processes.run("step", ["echo", "worked"], log=log, seconds=DEADLINE_SECONDS)
        with pytest.raises(ProcessError, match=r"step failed with exit status 7.*:\nbroken$"):
            processes.run("step", ["sh", "-c", "echo broken; exit 7"], log=log, seconds=DEADLINE_SECONDS)
    assert log.read_text() == "worked\nbroken\n"


def test_endless_run_is_ended(tmp_path: Path, living: Living) -> None:
    """Running a command for longer than allowed raises and ends the command."""
    with Processes() as processes:
        with pytest.raises(ProcessError, match=r"step should have ended .* still runs after 0.1 s"):
            processes.run("step", ["sleep", "600"], log=tmp_path / "log", seconds=0.1)
        assert living() == set()


def test_missing_program_is_explained(tmp_path: Path) -> None:
    """Starting a program that does not exist raises, with the name of the program."""
    with Processes() as processes, pytest.raises(ProcessError, match=r"Cannot start no-such-program: "):
        processes.run("step", ["no-such-program"], log=tmp_path / "log", seconds=DEADLINE_SECONDS)
