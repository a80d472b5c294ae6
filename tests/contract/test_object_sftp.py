"""The contract over SFTP, and what only an SSH server does."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores import fsspec
from airflow_serving_reload.delivery.stores.base import Entry
from airflow_serving_reload.delivery.streams import CHUNK

from .bench import Address, Offers
from .object_servers import SftpBench, SshServer
from .proxy import CuttingProxy
from .suite import (
    DONEFILE,
    LONG_AGO,
    MODEL,
    OPERATIONS,
    NetworkStoreContract,
    fault,
    look,
    random_bytes,
    read,
    wait_until,
)


@pytest.fixture
def bench(ssh_server: SshServer, tmp_path: Path) -> Iterator[SftpBench]:
    """Give a store in an empty folder."""
    bench = SftpBench(ssh_server, tmp_path / "store")
    with bench.store:
        yield bench


class TestSftp(NetworkStoreContract):
    """The contract over SFTP."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, asks_password=True)

    @pytest.fixture
    def bench(self, bench: SftpBench) -> SftpBench:
        """Give a store in an empty folder."""
        return bench


@pytest.mark.parametrize("doing", OPERATIONS)
def test_server_with_another_key_is_refused(bench: SftpBench, ssh_server: SshServer, doing: str) -> None:
    """A server whose key is not the known one is refused before it learns anything."""
    other = (ssh_server.folder / "user_key.pub").read_text()
    with (
        bench.connect(known_hosts=f"* {other}".encode()) as store,
        fault(Refused, f"{doing} {store.describe(DONEFILE)}", "key"),
    ):
        OPERATIONS[doing](store)


@pytest.mark.parametrize("doing", ["opening", "listing", "uploading"])
def test_missing_permission_is_refused(bench: SftpBench, ssh_server: SshServer, doing: str) -> None:
    """What the server does not let the login do is refused."""
    bench.put(f"{DONEFILE}/below" if doing == "listing" else DONEFILE, b"old")
    with (
        bench.connect(ssh_server.closed_address) as store,
        fault(Refused, f"{doing} {store.describe(DONEFILE)}", "Permission denied", "what they may do"),
    ):
        OPERATIONS[doing](store)


@pytest.mark.parametrize("doing", OPERATIONS)
def test_silent_server_is_unreachable(bench: SftpBench, doing: str) -> None:
    """A server that takes a connection and never says a word is unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
        with (
            bench.connect(address, connect_timeout=0.1) as store,
            fault(StoreUnreachable, f"{doing} {store.describe(DONEFILE)}", "no answer in time"),
        ):
            OPERATIONS[doing](store)


def test_server_that_falls_silent_is_unreachable(bench: SftpBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops to answer in the middle of a file is waited for only so long."""
    monkeypatch.setattr(fsspec, "CALL_SECONDS", 0.5)
    bench.put(MODEL, random_bytes(2 * CHUNK), mtime=LONG_AGO)
    awake = threading.Event()
    proxy = CuttingProxy(bench.address, cuts=[CHUNK], before_cut=awake.wait)
    with proxy.running(), bench.connect(proxy.address) as store, store.open(MODEL) as file:
        store.resume_pauses = ()
        try:
            with fault(StoreUnreachable, f"reading {store.describe(MODEL)}"):
                file.read()
        finally:
            awake.set()


def test_lost_connection_is_opened_again(bench: SftpBench) -> None:
    """After a fault the store goes on over another connection."""
    bench.put(MODEL, random_bytes(2 * CHUNK))
    bench.put(DONEFILE, b"1")
    proxy = CuttingProxy(bench.address, cuts=[CHUNK])
    with proxy.running(), bench.connect(proxy.address) as store:
        store.resume_pauses = ()
        with fault(StoreUnreachable, f"reading {store.describe(MODEL)}"):
            read(store, MODEL)
        assert look(store).size == 1
    assert len(proxy.answered) == 2


def test_link_to_a_folder_is_a_folder(bench: SftpBench) -> None:
    """A link is listed as what it leads to, and one that leads nowhere as a file."""
    bench.put("/releases/7/weights", b"seven")
    (bench.folder / "latest").symlink_to("releases/7")
    (bench.folder / "nowhere").symlink_to("releases/8")
    assert bench.store.list("/") == [Entry("latest", True), Entry("nowhere", False), Entry("releases", True)]
    assert read(bench.store, "/latest/weights") == b"seven"


def test_file_written_to_while_it_is_read_is_noticed(bench: SftpBench) -> None:
    """A file that another one is copied over while it is read is not taken for whole."""
    bench.put(MODEL, random_bytes(CHUNK, seed=1), mtime=LONG_AGO)
    with bench.store.open(MODEL) as file:
        file.read(10)
        (bench.folder / MODEL.lstrip("/")).write_bytes(random_bytes(CHUNK, seed=2))
        with fault(StoreUnreachable, f"reading {bench.store.describe(MODEL)}", "from the beginning"):
            file.read()


def test_upload_replaces_a_file_in_one_step(bench: SftpBench) -> None:
    """A reader who has the old file open reads it to its end while a new one takes its place."""
    bench.put(MODEL, b"old model")
    with (bench.folder / MODEL.lstrip("/")).open("rb") as old:
        bench.store.write(MODEL, io.BytesIO(b"new"))
        assert old.read() == b"old model"
    assert bench.content(MODEL) == b"new"


def test_closed_store_has_no_connection(bench: SftpBench) -> None:
    """A store that was closed keeps no connection, and opens another one when it is used again."""
    bench.put(DONEFILE, b"1")
    proxy = CuttingProxy(bench.address)
    with proxy.running(), bench.connect(proxy.address) as store:
        for count in (1, 2):
            assert look(store).size == 1
            store.close()
            wait_until(lambda: not proxy.is_connected(), "no connection")
            assert len(proxy.answered) == count
