"""The contract over the Hadoop client, and what only it can do."""

from __future__ import annotations

import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.hadoop_cli import ABSENT, MOST_LOOKS, HadoopCliStore, _literally
from airflow_serving_reload.delivery.stores.hadoop_client import ClientFailed, ClientOverdue, HadoopClient, Running
from airflow_serving_reload.delivery.streams import CHUNK

from .bench import PASSWORD, USER, Address, Offers
from .hadoop import Hdfs
from .hadoop_front import Front
from .hdfs_bench import HdfsBench, ReadThroughContract
from .proxy import CuttingProxy
from .suite import DONEFILE, LONG_AGO, MODEL, NAMES, fault, joined, random_bytes, read, wait_until

IMPATIENT = {"ipc.client.connect.max.retries": "0", "dfs.client.retry.window.base": "10"}
"""Settings by which the client itself does not try for many seconds what will not do."""


class HadoopCliBench(HdfsBench):
    """A store by the Hadoop client.

    :param program: the client.
    """

    connections_without_files = 0

    def __init__(self, front: Front, program: Path) -> None:
        self._program = program
        self._only_files = False
        super().__init__(front)

    def open(self, address: Address) -> HadoopCliStore:
        """Open a store by an address, which is that of the files alone if a proxy is to cut only these off."""
        host, port = self.address if self._only_files else address
        client = HadoopClient(str(self._program), f"hdfs://{host}:{port}", f"{USER},{PASSWORD}", IMPATIENT, 20)
        return HadoopCliStore(client)

    def proxy(self, **arguments: Any) -> CuttingProxy:
        """Make a proxy that has only the connections which carry files; the others' order depends on the weather."""
        self._only_files = True
        return CuttingProxy(self.address, **arguments)


@pytest.fixture
def bench(hdfs: Hdfs, hadoop_program: Path) -> Iterator[HadoopCliBench]:
    """Give a store in an empty HDFS."""
    with Front(hdfs).running() as front:
        bench = HadoopCliBench(front, hadoop_program)
        with bench.store:
            yield bench


OFFERS = Offers(
    lists=True,
    uploads=True,
    renames=True,
    ranges=True,
    forbids=True,
    tells_uploads_apart=True,
    keeps_connections=False,
    no_names_with=":\\",
)


ALLOWED, UNALLOWED = (
    [name for name in NAMES if OFFERS.allow(name)],
    [name for name in NAMES if not OFFERS.allow(name)],
)


class TestHadoopCli(ReadThroughContract):
    """The contract over the Hadoop client."""

    offers = OFFERS
    # between two looks there are seconds anyway
    uploads_at_once = 1
    names = joined(ALLOWED)

    @pytest.fixture
    def bench(self, bench: HadoopCliBench) -> HadoopCliBench:
        """Give a store in an empty HDFS."""
        return bench

    @staticmethod
    def proxy(bench: HadoopCliBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that cuts connections which carry files."""
        return bench.proxy(**arguments)

    # a name costs seconds here
    @pytest.mark.parametrize("name", [*joined(ALLOWED), *UNALLOWED])
    def test_odd_name_is_read(self, bench: HadoopCliBench, name: str) -> None:
        """A file, and a folder, can have any name that a file system allows."""
        super().test_odd_name_is_read(bench, name)

    @pytest.mark.parametrize("name", [*joined(ALLOWED), *UNALLOWED])
    def test_odd_name_is_written(self, bench: HadoopCliBench, name: str) -> None:
        """An upload gets exactly the name that was asked for, in exactly the folder that was asked for."""
        super().test_odd_name_is_written(bench, name)

    def test_odd_names_are_listed_beside_each_other(self, bench: HadoopCliBench) -> None:
        """Each single name comes out of a listing as it is."""
        for name in ALLOWED:
            bench.put(f"/models/{name}")
        assert [entry.name for entry in bench.store.list("/models") or ()] == sorted(ALLOWED)

    @pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
    def test_broken_transfer_goes_on(self, bench: HadoopCliBench, *, reset: bool) -> None:
        """A transfer that breaks off in the middle goes on, and the file is whole all the same."""
        content = random_bytes(2 * CHUNK)
        bench.put(MODEL, content, mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[CHUNK, 1000], reset=reset)
        with proxy.running(), bench.connect(proxy.address) as store:
            assert read(store, MODEL) == content
        assert len(proxy.answered) >= 3


def write_program(path: Path, *lines: str) -> Path:
    """Make a program out of lines of a shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """Make a client that never ends, nor does its child; both write their numbers beside it."""
    return write_program(
        tmp_path / "hadoop",
        f"cd {tmp_path}",
        "sleep 1000 & echo $! > child.new",
        "echo $$ > parent",
        "mv child.new child",
        "wait",
    )


def numbers(program: Path) -> list[int]:
    """Give the numbers of a hanging client's processes."""
    return [int((program.parent / name).read_text()) for name in ("child", "parent")]


def has_ended(number: int) -> bool:
    """Whether a process is no more, or only waits for somebody to take note."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def assert_all_end(program: Path) -> None:
    """Wait until a hanging client and its child have ended."""
    for number in numbers(program):
        wait_until(lambda: has_ended(number), f"the end of process {number}")  # noqa: B023 - it is used at once


def test_client_that_hangs_is_killed_with_its_children(hanging: Path) -> None:
    """A client that does not answer is ended when its time is over, with all its children."""
    store = HadoopCliStore(HadoopClient(str(hanging), timeout=0.5))
    with fault(StoreUnreachable, f"asking for {store.describe(MODEL)}", "no answer within 0.5 s"):
        store.stat(MODEL)
    assert_all_end(hanging)


def test_upload_to_a_client_that_hangs_is_unreachable(hanging: Path) -> None:
    """A client that takes nothing of an upload is ended when its time is over."""
    client = HadoopClient(str(hanging), timeout=0.5)
    with pytest.raises(ClientOverdue), client.running("-put", "-f", "-", MODEL) as running:
        running.send(io.BytesIO(bytes(1_000_000)))
    assert_all_end(hanging)


def test_close_ends_what_others_wait_for(hanging: Path) -> None:
    """Closing the store ends the call that another thread waits for, as when a trigger is cancelled."""
    store = HadoopCliStore(HadoopClient(str(hanging), timeout=600))
    ended: list[Exception] = []

    def wait() -> None:
        try:
            store.stat(MODEL)
        except StoreUnreachable as fault:
            ended.append(fault)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until((hanging.parent / "child").exists, "a running client")
    store.close()
    waiter.join()
    assert len(ended) == 1
    assert_all_end(hanging)


def test_close_ends_what_has_just_begun(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the store ends a call, too, that begins at the same moment."""
    store = HadoopCliStore(HadoopClient(str(hanging), timeout=600))
    running = HadoopClient.running

    @contextmanager
    def running_and_closed(client: HadoopClient, *command: str) -> Iterator[Running]:
        with running(client, *command) as begun:
            wait_until((hanging.parent / "child").exists, "a running client")
            store.close()
            yield begun

    monkeypatch.setattr(HadoopClient, "running", running_and_closed)
    with pytest.raises(StoreUnreachable):
        store.stat(MODEL)
    assert_all_end(hanging)


def test_file_that_is_another_one_at_each_look_is_given_up(tmp_path: Path) -> None:
    """A file that changes whenever it is looked at is looked at only so often, and then not there yet."""
    change = f'echo x >> {tmp_path}/looks; echo "regular file|1|$(wc -l < {tmp_path}/looks)000|0"'
    program = write_program(tmp_path / "hadoop", f'case "$*" in *-stat*) {change};; *) echo x;; esac')
    store = HadoopCliStore(HadoopClient(str(program)))
    store.resume_pauses = ()
    with fault(StoreUnreachable, f"reading {store.describe(MODEL)}", f"each of {MOST_LOOKS} looks shows another file"):
        read(store, MODEL)


UPLOAD = """\
import os, sys
from airflow_serving_reload.delivery.stores.hadoop_cli import HadoopCliStore
from airflow_serving_reload.delivery.stores.hadoop_client import ClientFailed, ClientOverdue, HadoopClient

class Source:
    sent = 0
    def read(self, size):
        if self.sent > 2_000_000:
            print("in the middle", flush=True)
            sys.stdin.read()
        self.sent += size
        return bytes(size)

HadoopCliStore(HadoopClient(sys.argv[1], sys.argv[2], sys.argv[3])).write(sys.argv[4], Source())
"""


def test_upload_of_a_task_that_is_killed_never_appears(bench: HadoopCliBench, hadoop_program: Path) -> None:
    """When the task is killed in the middle of an upload the client ends too, and half a file never appears."""
    bench.make_folder("/models")
    arguments = [str(hadoop_program), bench.hdfs.url, USER, MODEL]
    with subprocess.Popen(
        [sys.executable, "-c", UPLOAD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "in the middle\n"
        [guard] = map(int, Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split())
        wait_until(lambda: bench.names("/models") == ["model.tar._COPYING_"], "a file that is not whole")
        task.kill()
        wait_until(lambda: has_ended(guard), "the end of the client's guard")
    assert bench.store.list("/models") == []
    bench.store.write(MODEL, io.BytesIO(b"model"))
    assert bench.names("/models") == ["model.tar"]


def test_guard_that_is_killed_leaves_nobody(hanging: Path) -> None:
    """When somebody kills the process that watches over the client, the client ends all the same."""
    client = HadoopClient(str(hanging), timeout=600)
    with client.running("-cat", MODEL) as running:
        wait_until((hanging.parent / "child").exists, "a running client")
        os.kill(running._process.pid, signal.SIGKILL)
        with pytest.raises(ClientFailed):
            running.finish()
    assert_all_end(hanging)


@pytest.mark.parametrize("place", ["hadoop", "bin/hadoop", ""])
def test_program_is_found(hadoop_program: Path, place: str) -> None:
    """The program is named by its path, by the folder that has it, or by the folder above."""
    home = hadoop_program.parents[1]
    named = {"hadoop": home / "bin", "bin/hadoop": hadoop_program, "": home}[place]
    assert HadoopClient(str(named)).program() == str(hadoop_program)


def test_program_is_found_in_the_path(hadoop_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a folder is looked for in the PATH."""
    monkeypatch.setenv("PATH", str(hadoop_program.parent), prepend=os.pathsep)
    assert HadoopClient().program() == str(hadoop_program)


@pytest.mark.parametrize(
    ("lines", "mode", "words"),
    [
        (None, 0, "there is no such program"),
        (["exit 0"], 0o644, "is not executable"),
        (["exec /nowhere/bin/java org.apache.hadoop.fs.FsShell"], 0o755, "java"),
        (["echo 'ERROR: JAVA_HOME is not set and could not be found.'>&2", "exit 1"], 0o755, "JAVA_HOME is not set"),
    ],
    ids=["missing", "not executable", "no Java", "no JAVA_HOME"],
)
def test_client_that_does_not_run_is_refused(tmp_path: Path, lines: list[str] | None, mode: int, words: str) -> None:
    """A client that is missing, or cannot run, is refused at once, and the message says what to check."""
    program = tmp_path / "hadoop"
    if lines:
        write_program(program, *lines).chmod(mode)
    store = HadoopCliStore(HadoopClient(str(program)))
    with fault(Refused, "", words, "hadoop_bin"):
        store.stat(MODEL)


def test_program_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file that the system cannot run is refused."""
    program = tmp_path / "hadoop"
    program.write_bytes(b"\0")
    program.chmod(0o755)
    with fault(Refused, "asking for", "cannot be run", "hadoop_bin"):
        HadoopCliStore(HadoopClient(str(program))).stat(MODEL)


@pytest.mark.parametrize("fs_name", ["afs://nobody.knows.it:9902", "not an address"])
def test_wrong_file_system_is_refused(hadoop_program: Path, fs_name: str) -> None:
    """A file system of a kind that the client does not know is refused."""
    store = HadoopCliStore(HadoopClient(str(hadoop_program), fs_name))
    with fault(Refused, f"asking for {store.describe(MODEL)}", "fs_name"):
        store.stat(MODEL)


def test_silent_server_is_unreachable(hadoop_program: Path) -> None:
    """A server that takes the connection and never answers is unreachable once the time is over."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = HadoopCliStore(HadoopClient(str(hadoop_program), f"hdfs://127.0.0.1:{port}", timeout=3))
        with fault(StoreUnreachable, "asking for", str(port), "no answer within 3 s"):
            store.stat(MODEL)


def test_folder_that_may_not_be_written_to_is_refused(bench: HadoopCliBench) -> None:
    """An upload to a folder without the permission to write is refused, and says who may not do what."""
    bench.make_folder("/models")
    bench.hdfs.administrator.set_permission("/models", "555")
    with fault(Refused, f"uploading {bench.store.describe(MODEL)}", f"user={USER}, access=WRITE", "fs_ugi"):
        bench.store.write(MODEL, io.BytesIO(bytes(5_000_000)))
    assert bench.names("/models") == []


def command_lines() -> Iterator[bytes]:
    """Give the command lines of all processes."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield process.read_bytes()


def test_secret_is_in_no_command_line(
    bench: HadoopCliBench, hadoop_program: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the client runs no process of the host has the password in its command line, nor does a log have it."""
    caplog.set_level("DEBUG")
    # the tests' own one may stand in the command lines of other tests
    password = secrets.token_hex()
    store = HadoopCliStore(HadoopClient(str(hadoop_program), bench.hdfs.url, f"{USER},{password}"))
    seen: list[bytes] = []

    def client_is_seen() -> bool:
        lines = list(command_lines())
        seen.extend(lines)
        return any(b"FsShell" in line and b"-put" in line and MODEL.encode() in line for line in lines)

    class Source(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            wait_until(client_is_seen, "the client's command line")
            return super().read(size)

    store.write(MODEL, Source(b"model"))
    assert not any(password.encode() in line for line in seen)
    assert password not in caplog.text


def test_secret_and_options_reach_the_client(tmp_path: Path) -> None:
    """The client is given the password, the file system under its old name and its new one, and the options."""
    program = write_program(tmp_path / "hadoop", f'cat "$3" > {tmp_path}/given', "exit 1")
    client = HadoopClient(str(program), "afs://models:9902", "trainer,<p&s>", {"dfs.replication": "2"})
    with pytest.raises(ClientFailed), client.running("-stat", "/") as running:
        running.read()
    given = {entry.findtext("name"): entry.findtext("value") for entry in ET.parse(tmp_path / "given").getroot()}
    assert given == {
        "dfs.replication": "2",
        "fs.default.name": "afs://models:9902",
        "fs.defaultFS": "afs://models:9902",
        "hadoop.job.ugi": "trainer,<p&s>",
    }
    assert "p&s" not in repr(client)


def test_secret_in_the_clients_words_is_hidden(tmp_path: Path) -> None:
    """A client that says the password is not quoted with it."""
    program = write_program(
        tmp_path / "hadoop", f"echo 'stat: {USER},{PASSWORD} and {PASSWORD} are wrong' >&2", "exit 1"
    )
    store = HadoopCliStore(HadoopClient(str(program), fs_ugi=f"{USER},{PASSWORD}"))
    with fault(StoreUnreachable, "asking for", "*** and *** are wrong"):
        store.stat(MODEL)


@pytest.fixture
def counted(bench: HadoopCliBench, hadoop_program: Path, tmp_path: Path) -> tuple[HadoopCliStore, Path]:
    """Give a store whose client notes its calls, and the file where it does."""
    calls = tmp_path / "calls"
    program = write_program(tmp_path / "hadoop", f'echo "$4" >> {calls}', f'exec {hadoop_program} "$@"')
    return HadoopCliStore(HadoopClient(str(program), bench.hdfs.url, USER)), calls


def test_poll_is_one_call(bench: HadoopCliBench, counted: tuple[HadoopCliStore, Path]) -> None:
    """A look at a donefile that is absent, empty or known already is one call, also for another store's sake."""
    store, calls = counted

    def poll() -> list[str]:
        calls.unlink(missing_ok=True)
        store.donefile(DONEFILE)
        return calls.read_text().split()

    assert poll() == ["-stat"]
    bench.put(DONEFILE)
    assert poll() == ["-stat"]
    bench.put(DONEFILE, b"1", mtime=LONG_AGO)
    assert poll() == ["-stat", "-cat", "-stat"]
    store = HadoopCliStore(store._client)
    assert poll() == ["-stat"]
    bench.put(DONEFILE, b"2", mtime=LONG_AGO)
    assert len(poll()) == 3


def test_listed_file_is_two_calls(bench: HadoopCliBench, counted: tuple[HadoopCliStore, Path]) -> None:
    """What a listing told of a file is not asked for again when it is opened, but for one that need not be read."""
    store, calls = counted
    for name in ("model", "empty"):
        bench.put(f"/models/{name}", b"" if name == "empty" else b"1", mtime=LONG_AGO)
    store.list("/models/")
    calls.unlink()
    assert read(store, "/models/model") == b"1"
    assert calls.read_text().split() == ["-cat", "-stat"]
    assert read(store, "/models/empty") == b""
    assert calls.read_text().split() == ["-cat", "-stat", "-stat"]


@pytest.mark.parametrize("old", [b"old", b""])
def test_file_that_changes_behind_a_listing_is_read_as_it_is(bench: HadoopCliBench, old: bytes) -> None:
    """A file that is replaced between a listing and its opening comes with the facts of what is read."""
    bench.put(MODEL, old)
    bench.store.list("/models")
    bench.put(MODEL, b"new and longer")
    with bench.store.open(MODEL) as file:
        assert file.read() == b"new and longer"
        assert file.facts == bench.store.stat(MODEL)


def test_file_that_changes_between_two_calls_is_read_again(bench: HadoopCliBench, counted: Any, tmp_path: Path) -> None:
    """A file that is replaced while the client starts to read it comes with the facts of what is read."""
    store, _ = counted
    replaced: list[bytes] = []
    call = store._call

    def replace_behind(*command: str) -> str:
        printed = call(*command)
        if not replaced:
            replaced.append(b"new and longer")
            bench.put(MODEL, replaced[0])
        return printed

    store._call = replace_behind
    bench.put(MODEL, b"old")
    with store.open(MODEL) as file:
        assert file.read() == b"new and longer"
        assert file.facts.size == len(b"new and longer")


@pytest.mark.parametrize("folder", ["/models/m", "/models/m[1]"])
@pytest.mark.parametrize("first", ["directory|0|1700000000000|0/assets", "regular file|3|1700000000000|0/params"])
def test_folder_that_appears_between_two_questions_is_not_there_yet(tmp_path: Path, folder: str, first: str) -> None:
    """Where the client has found no folder, and then what is in it, no file of it is taken for the folder."""
    complaint = tmp_path / "complaint"
    complaint.write_text(f"stat: `{folder}': No such file or directory\n")
    program = write_program(
        tmp_path / "hadoop",
        f"cat {complaint} >&2",
        f"echo '/{first}/'",
        "echo '/regular file|3|1700000000000|0/model/'",
        "exit 1",
    )
    store = HadoopCliStore(HadoopClient(str(program)))
    for look in (store.list, store.scan):
        with fault(NotThereYet, f"listing {store.describe(folder)}"):
            look(folder)


def test_absent_folder_is_named_as_it_is(hadoop_program: Path, tmp_path: Path) -> None:
    """The client complains of an absent folder by its name, without what keeps it from being taken for a pattern."""
    client, folder = HadoopClient(str(hadoop_program), "file:///"), f"{tmp_path}/m[1]"
    with pytest.raises(ClientFailed) as caught, client.running("-stat", "%n", _literally(folder)) as running:
        running.read()
    assert f"`{folder}': {ABSENT}" in str(caught.value)


def test_two_donefiles_within_a_second_are_told_apart(tmp_path: Path) -> None:
    """Where the client counts whole seconds, a content is not remembered that may be replaced within the same one."""
    done = tmp_path / "done"
    program = write_program(
        tmp_path / "hadoop",
        f'[ "$4" = -cat ] && exec cat {done}',
        f'echo "regular file|$(stat -c %s {done})|$(stat -c %Y {done})000|0"',
    )
    store = HadoopCliStore(HadoopClient(str(program)))
    # of a clock that is ahead, so that no delay here makes it the time of a file that is long past
    second = time.time() // 1 + 60
    versions = []
    for content in (b'{"version": 1}', b'{"version": 2}'):
        done.write_bytes(content)
        os.utime(done, (second, second))
        versions.append(store.donefile(DONEFILE))
    assert versions[0] != versions[1]


def test_unfinished_upload_of_the_client_is_not_listed(bench: HadoopCliBench) -> None:
    """What the client has not written to the end, or was killed over, is no part of a folder."""
    bench.put("/models/weights._COPYING_")
    bench.put("/models/weights")
    assert [entry.name for entry in bench.store.list("/models") or ()] == ["weights"]


def test_backslash_is_not_dropped(bench: HadoopCliBench) -> None:
    """An upload under a name of which the client would drop the backslash is refused."""
    with fault(Refused, f"uploading {bench.store.describe('/models/a/b')}".replace("a/b", "a\\b"), "backslash"):
        bench.store.write("/models/a\\b", io.BytesIO(b"1"))
    assert bench.names("/models") == []
