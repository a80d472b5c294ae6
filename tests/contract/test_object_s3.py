"""The contract over S3, and what only an object storage does."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores import fsspec
from airflow_serving_reload.delivery.streams import CHUNK

from .answers import LAST_MODIFIED, Answers, answer
from .bench import NetworkBench, Offers
from .object_servers import S3_CLIENT_SETTINGS, VERSIONED_BUCKET, S3Bench, S3Server
from .proxy import CuttingProxy
from .suite import DONEFILE, LONG_AGO, MODEL, OPERATIONS, NetworkStoreContract, fault, look, random_bytes, wait_until

PART = 5 << 20
"""The smallest part of an object that S3 takes."""


@pytest.fixture
def bench(s3_server: S3Server) -> Iterator[S3Bench]:
    """Give a store in an empty bucket."""
    bench = S3Bench(s3_server)
    with bench.store:
        yield bench


class TestS3(NetworkStoreContract):
    """The contract over S3."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, asks_password=True)

    @staticmethod
    def proxy(bench: NetworkBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that takes no further connection once it has cut an upload, which else would go on."""
        gone_after = 1 if "cuts_of_requests" in arguments else None
        return CuttingProxy(bench.address, **{"gone_after": gone_after, **arguments})

    @pytest.fixture
    def bench(self, bench: S3Bench) -> S3Bench:
        """Give a store in an empty bucket."""
        return bench


class Failing:
    """Gives some bytes, and then fails."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes."""
        data = self._content.read(size)
        if not data:
            raise ValueError("the disk is broken")
        return data


def test_large_file_goes_up_in_parts(bench: S3Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several parts is whole, and no part of it is left over."""
    monkeypatch.setattr(fsspec, "PART", PART)
    content = random_bytes(2 * PART + 17)
    bench.store.write(MODEL, io.BytesIO(content))
    assert bench.content(MODEL) == content
    assert bench.unfinished() == []


def test_parts_of_a_failed_upload_are_taken_back(bench: S3Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an upload whose source fails after some parts nothing stays, not even what no listing shows."""
    monkeypatch.setattr(fsspec, "PART", PART)
    seen = []

    class Watched(Failing):
        def read(self, size: int = -1, /) -> bytes:
            seen.extend(bench.unfinished())
            return super().read(size)

    with pytest.raises(ValueError, match="the disk is broken"):
        bench.store.write(MODEL, Watched(random_bytes(2 * PART)))
    assert "models/model.tar" in seen
    assert bench.unfinished() == bench.names("/models") == []


def test_broken_upload_goes_on(bench: S3Bench) -> None:
    """An upload whose connection breaks once arrives all the same."""
    content = random_bytes(2 * CHUNK)
    proxy = CuttingProxy(bench.address, cuts_of_requests=[CHUNK])
    with proxy.running(), bench.connect(proxy.address) as store:
        store.write(MODEL, io.BytesIO(content))
    assert len(proxy.answered) > 1
    assert bench.content(MODEL) == content


def test_file_replaced_while_it_is_read_is_noticed(bench: S3Bench) -> None:
    """No byte of an object comes after one of another object, be both as long."""
    bench.put(MODEL, random_bytes(CHUNK, seed=1), mtime=LONG_AGO)
    with bench.store.open(MODEL) as file:
        start = file.read(10)
        bench.put(MODEL, random_bytes(CHUNK, seed=2), mtime=LONG_AGO)
        with fault(StoreUnreachable, f"reading {bench.store.describe(MODEL)}", "from the beginning"):
            file.read()
    assert start == random_bytes(CHUNK, seed=1)[:10]


def test_file_replaced_at_its_end_is_noticed(bench: S3Bench) -> None:
    """An object that is another one when its last byte has come is not taken for whole."""
    bench.put(MODEL, b"old", mtime=LONG_AGO)
    with bench.store.open(MODEL) as file:
        assert file.read(3) == b"old"
        bench.put(MODEL, b"new", mtime=LONG_AGO)
        with fault(StoreUnreachable, f"reading {bench.store.describe(MODEL)}", "from the beginning"):
            file.read()


@pytest.mark.parametrize("message", [b"", b"<Message></Message>"])
def test_file_replaced_at_a_server_of_few_words_is_noticed(bench: S3Bench, message: bytes) -> None:
    """A server that does not say in words that the object is another one now is understood all the same."""
    error = b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code>%b</Error>" % message
    refusal = answer("412 Precondition Failed", f"Content-Length: {len(error)}", body=error)
    first, second = (answer("200 OK", "Content-Length: 1000", f'ETag: "{tag}"', LAST_MODIFIED) for tag in "ab")
    with (
        Answers([first, refusal, second]).running() as server,
        bench.connect(server.address) as store,
        store.open(MODEL) as file,
        fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "from the beginning"),
    ):
        file.read()


def test_equal_uploads_are_versions_of_their_own(bench: S3Bench) -> None:
    """Where the bucket keeps versions, two equal uploads in one second are told apart."""
    with bench.connect(bucket=VERSIONED_BUCKET) as store:
        tags = set()
        for _ in range(3):
            store.write(DONEFILE, io.BytesIO(b"1"))
            tags.add(store.stat(DONEFILE).etag)
        assert len(tags) == 3
        assert look(store) == look(store)


def test_clock_that_is_behind_settles_nothing(bench: S3Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A donefile from the future of this host is unsettled, for only its clock can be wrong."""
    bench.put(DONEFILE)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    assert not look(bench.store).settled


@pytest.mark.parametrize("doing", [doing for doing in OPERATIONS if doing != "removing"])
def test_missing_bucket_is_refused(bench: S3Bench, doing: str) -> None:
    """A bucket that does not exist is not waited for."""
    with (
        bench.connect(bucket="no-such-bucket") as store,
        fault(Refused, f"{doing} s3://no-such-bucket/models/donefile", "bucket"),
    ):
        OPERATIONS[doing](store)


@pytest.mark.parametrize("doing", OPERATIONS)
def test_impossible_bucket_is_refused(bench: S3Bench, doing: str) -> None:
    """A name that no bucket can have is refused without a question to the server."""
    with bench.connect(bucket="No Bucket!") as store, fault(Refused, f"{doing} s3://No Bucket!/", "bucket"):
        OPERATIONS[doing](store)


@pytest.mark.parametrize("doing", OPERATIONS)
def test_nobody_in_particular_is_refused(bench: S3Bench, doing: str) -> None:
    """Who has no key is refused where the bucket is not public."""
    with (
        bench.connect(anon=True, key=None, secret=None) as store,
        fault(Refused, f"{doing} {store.describe(DONEFILE)}", "login"),
    ):
        OPERATIONS[doing](store)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("503 Slow Down", "SlowDown", StoreUnreachable),
        ("500 Internal Server Error", "InternalError", StoreUnreachable),
        ("409 Conflict", "OperationAborted", StoreUnreachable),
        ("429 Too Many Requests", "TooManyRequests", StoreUnreachable),
        ("403 Forbidden", "AccessDenied", Refused),
        ("403 Forbidden", "InvalidAccessKeyId", Refused),
        ("403 Forbidden", "RequestTimeTooSkewed", Refused),
        ("400 Bad Request", "AuthorizationHeaderMalformed", Refused),
        ("400 Bad Request", "ExpiredToken", Refused),
        ("412 Precondition Failed", "NobodyKnows", Refused),
        ("507 Insufficient Storage", "NobodyKnows", StoreUnreachable),
        ("501 Not Implemented", "NotImplemented", Refused),
    ],
)
@pytest.mark.parametrize("with_body", [False, True])
def test_answer_is_understood(
    bench: S3Bench, status: str, code: str, kind: type[StoreUnreachable | Refused], *, with_body: bool
) -> None:
    """What a retry can mend is told from what it cannot, with a body to the answer and without."""
    error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>in short: {code}</Message></Error>".encode()
    length = f"Content-Length: {len(error)}"
    # a file that is absent is then looked for among the folders, and only that answer has a body
    absent_and = [answer("404 Not Found", length), answer(status, length, body=error)]
    server = Answers(absent_and if with_body else [answer(status, length)])
    with (
        server.running(),
        bench.connect(server.address) as store,
        fault(kind, f"asking for {store.describe(DONEFILE)}"),
    ):
        store.stat(DONEFILE)


@pytest.mark.parametrize("doing", OPERATIONS)
def test_silent_server_is_unreachable(bench: S3Bench, doing: str) -> None:
    """A server that takes a question and never answers is unreachable."""
    server = Answers([b""], stalling=True)
    impatient = {**S3_CLIENT_SETTINGS, "read_timeout": 0.05}
    with (
        server.running(),
        bench.connect(server.address, config_kwargs=impatient) as store,
        fault(StoreUnreachable, f"{doing} {store.describe(DONEFILE)}", "imeout"),
    ):
        OPERATIONS[doing](store)


def test_closed_store_has_no_connection(bench: S3Bench) -> None:
    """A store that was closed keeps no connection, and opens another one when it is used again."""
    bench.put(DONEFILE, b"1")
    proxy = CuttingProxy(bench.address)
    with proxy.running(), bench.connect(proxy.address) as store:
        for count in (1, 2):
            assert look(store).size == 1
            store.close()
            wait_until(lambda: not proxy.is_connected(), "no connection")
            assert len(proxy.answered) == count
