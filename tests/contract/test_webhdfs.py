"""The contract over WebHDFS, and what only it can do."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import certifi
import pytest
import requests

from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.webhdfs import WebHdfsSession, WebHdfsStore, insecure_client

from .answers import Answers, answer
from .bench import PASSWORD, USER, Address, Offers
from .hadoop import Hdfs, NameNode
from .hadoop_front import Front
from .hdfs_bench import HdfsBench
from .proxy import CuttingProxy, nobody
from .suite import DONEFILE, LONG_AGO, MODEL, NetworkStoreContract, fault, look, read


def open_webhdfs(*addresses: Address, timeout: float = 20, password: str | None = None) -> WebHdfsStore:
    """Open a store, as somebody whom permissions apply to."""
    hosts = ["{}:{}".format(*address) for address in addresses]
    session = WebHdfsSession((USER, password) if password else None, hosts)
    # the proxies of whoever runs the tests have no business between two ends of one host
    session.trust_env = False
    urls = [f"http://{host}" for host in hosts]
    store = WebHdfsStore(insecure_client(urls, USER, session, (timeout, timeout)), session)
    store.resume_pauses = (0, 0, 0)
    return store


class WebHdfsBench(HdfsBench):
    """A store by WebHDFS."""

    def open(self, address: Address) -> WebHdfsStore:
        """Open a store by an address."""
        return open_webhdfs(address)


@pytest.fixture
def front(hdfs: Hdfs) -> Iterator[Front]:
    """Stand before an empty HDFS."""
    with Front(hdfs).running() as front:
        yield front


@pytest.fixture
def bench(front: Front) -> WebHdfsBench:
    """Give a store in an empty HDFS."""
    return WebHdfsBench(front)


class TestWebHdfs(NetworkStoreContract):
    """The contract over WebHDFS."""

    offers = Offers(
        lists=True, uploads=True, renames=True, ranges=True, forbids=True, tells_uploads_apart=True, no_names_with=":"
    )

    @staticmethod
    def proxy(bench: WebHdfsBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that spares the NameNode, and the empty file with which an upload begins."""
        spared = 2 if "cuts_of_requests" in arguments else 1
        return CuttingProxy(bench.address, spared=spared, **arguments)

    @pytest.fixture
    def bench(self, bench: WebHdfsBench) -> WebHdfsBench:
        """Give a store in an empty HDFS."""
        return bench


def namenode(kind: str, request: pytest.FixtureRequest, stack: ExitStack) -> Address:
    """Give the address of a NameNode that is of no use."""
    if kind == "standing by":
        standby: NameNode = request.getfixturevalue("standby_namenode")
        return standby.http
    if kind == "down":
        return stack.enter_context(nobody())
    if kind == "silent":
        return Address(*stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname())
    busy = answer("503 Service Unavailable", "Content-Length: 0")
    return stack.enter_context(Answers([busy]).running()).address


@pytest.mark.parametrize("kind", ["down", "standing by", "silent", "busy"])
def test_other_namenode_is_asked(bench: WebHdfsBench, kind: str, request: pytest.FixtureRequest) -> None:
    """Where the first NameNode is of no use, everything goes through the second."""
    bench.put("/models/there", b"content")
    with ExitStack() as stack:
        first = namenode(kind, request, stack)
        store = stack.enter_context(open_webhdfs(first, bench.hdfs.namenode.http, timeout=2))
        assert read(store, "/models/there") == b"content"
        store.write(DONEFILE, io.BytesIO(b"1"))
        assert look(store).size == 1
        assert [entry.name for entry in store.list("/models") or ()] == ["donefile", "there"]


@pytest.mark.parametrize("kind", ["down", "standing by", "silent", "busy"])
def test_no_namenode_is_unreachable(bench: WebHdfsBench, kind: str, request: pytest.FixtureRequest) -> None:
    """Where no NameNode is of use the store is unreachable and not refused, as during a failover."""
    with ExitStack() as stack:
        useless = namenode(kind, request, stack)
        store = stack.enter_context(open_webhdfs(useless, useless._replace(host="localhost"), timeout=0.5))
        for operation in (store.stat, store.donefile, store.list):
            with fault(StoreUnreachable, "", str(useless.port)):
                operation(MODEL)


def test_poll_is_few_requests(bench: WebHdfsBench) -> None:
    """A look at a donefile that is absent or empty is one request, and at one with content no more than four."""
    asked: list[str] = []
    bench.store._session.hooks["response"].append(lambda response, **_options: asked.append(response.url))

    def poll() -> int:
        asked.clear()
        bench.store.donefile(DONEFILE)
        return len(asked)

    assert poll() == 1
    bench.put(DONEFILE)
    assert poll() == 1
    bench.put(DONEFILE, b"1")
    assert 1 < poll() <= 4


def test_every_upload_has_a_tag_of_its_own(bench: WebHdfsBench) -> None:
    """Two uploads that are alike in content, size and time are told apart, whatever the clocks say."""
    tags = set()
    for _ in range(3):
        bench.put(DONEFILE, b"1", mtime=LONG_AGO)
        seen = look(bench.store)
        tags.add(seen.etag)
        assert seen.mtime_ns == LONG_AGO * 10**9
    assert len(tags) == 3


def test_latest_is_a_name_like_any_other(bench: WebHdfsBench) -> None:
    """A file that is called `#LATEST` is that file, and not the newest one."""
    bench.put("/models/newest", b"newest")
    with fault(NotThereYet, f"asking for {bench.store.describe('/models/#LATEST')}"):
        bench.store.stat("/models/#LATEST")
    bench.put("/models/#LATEST", b"latest")
    bench.put("/models/newest", b"newest")
    assert read(bench.store, "/models/#LATEST") == b"latest"


def test_target_is_never_absent(bench: WebHdfsBench) -> None:
    """While uploads replace a file, whoever looks at any moment finds one."""
    bench.put(MODEL, b"0")
    bench.assert_never_absent(MODEL)


def test_gateway_that_cannot_replace_by_renaming(hdfs: Hdfs) -> None:
    """Through a gateway whose rename does not replace, uploads replace files all the same, and no folder."""
    with Front(hdfs, forget=b"renameoptions").running() as front:
        bench = WebHdfsBench(front)
        for content in (b"1", b"2"):
            bench.store.write(MODEL, io.BytesIO(content))
            assert bench.content(MODEL) == content
        bench.make_folder("/models/folder")
        with fault(Refused, f"uploading {bench.store.describe('/models/folder')}", "folder"):
            bench.store.write("/models/folder", io.BytesIO(b"new"))
        assert bench.names("/models") == ["folder", "model.tar"]


def lose_an_answer(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """Lose the first answer that says that something is renamed; give the address it was asked of, once it was."""
    lost: list[str] = []
    request = WebHdfsSession.request

    def lose(session: WebHdfsSession, method: str, url: str, **options: Any) -> Any:
        answered = request(session, method, url, **options)
        is_renamed = options.get("params", {}).get("op") == "RENAME" and answered.content != b'{"boolean":false}'
        if is_renamed and not lost:
            lost.append(url)
            meanwhile()
            raise requests.ConnectionError("the answer was lost")
        return answered

    monkeypatch.setattr(WebHdfsSession, "request", lose)
    return lost


def open_twice(front: Front) -> WebHdfsStore:
    """Open a store that has two addresses, one after the other."""
    return open_webhdfs(front.address, front.address._replace(host="localhost"))


NAMENODE_OR_GATEWAY = pytest.mark.parametrize("forget", [None, b"renameoptions"], ids=["NameNode", "gateway"])


@NAMENODE_OR_GATEWAY
@pytest.mark.parametrize("before", [None, b"old"])
def test_answer_to_a_rename_is_lost(
    hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch, forget: bytes | None, before: bytes | None
) -> None:
    """An upload is there, and told to be, though the library orders its renaming twice since an answer was lost."""
    with Front(hdfs, forget=forget).running() as front:
        bench = WebHdfsBench(front)
        if before:
            bench.put(MODEL, before)
        # behind a gateway may be a file system that does so
        lost = lose_an_answer(monkeypatch, lambda: hdfs.administrator.set_times(MODEL, modification_time=1))
        with open_twice(front) as store:
            store.write(MODEL, io.BytesIO(b"new model"))
        assert lost
        assert bench.content(MODEL) == b"new model"
        assert bench.names("/models") == ["model.tar"]


@NAMENODE_OR_GATEWAY
def test_upload_that_is_gone_takes_nothing_with_it(
    hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch, forget: bytes | None
) -> None:
    """What another upload has put there meanwhile is not removed for one of which nothing is left."""
    with Front(hdfs, forget=forget).running() as front:
        bench = WebHdfsBench(front)
        lost = lose_an_answer(monkeypatch, lambda: bench.put(MODEL, b"another's"))
        with open_twice(front) as store, fault(NotThereYet, f"uploading {store.describe(MODEL)}"):
            store.write(MODEL, io.BytesIO(b"new model"))
        assert lost
        assert bench.content(MODEL) == b"another's"
        assert bench.names("/models") == ["model.tar"]


def test_name_that_is_no_text_is_refused() -> None:
    """A name whose bytes are no UTF-8 cannot be in HDFS, and is refused before anybody is asked."""
    with nobody() as address, open_webhdfs(address) as store, fault(Refused, "asking for", "no UTF-8"):
        store.stat("/models/caf\udce9")


def test_folder_that_may_not_be_written_to_is_refused(bench: WebHdfsBench) -> None:
    """An upload to a folder without the permission to write is refused, and says who may not do what."""
    bench.make_folder("/models")
    bench.hdfs.administrator.set_permission("/models", "555")
    with fault(Refused, f"uploading {bench.store.describe(MODEL)}", f"user={USER}, access=WRITE", "login"):
        bench.store.write(MODEL, io.BytesIO(bytes(5_000_000)))
    assert bench.names("/models") == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", ["password", "Kerberos"]),
        ("403 Forbidden", ["password"]),
        ("404 Not Found", ["not how WebHDFS answers"]),
        ("400 Bad Request", ["not how WebHDFS answers"]),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b'{"RemoteException": 1}'])
def test_server_of_another_kind_is_refused(status: str, words: Sequence[str], body: bytes) -> None:
    """A fault that is not told in WebHDFS's words is refused, with its status and what to check."""
    server = Answers([answer(status, f"Content-Length: {len(body)}", body=body)])
    with (
        server.running(),
        open_webhdfs(server.address, password=PASSWORD) as store,
        fault(Refused, f"asking for {store.describe(MODEL)}", status, *words),
    ):
        store.stat(MODEL)


@pytest.mark.parametrize("status", ["503 Service Unavailable", "520 Unknown"])
def test_fault_tells_when_to_come_again(status: str) -> None:
    """When a busy server wants to be asked again goes with the fault."""
    busy = answer(status, "Content-Length: 0", "Retry-After: 7")
    with Answers([busy]).running() as server, open_webhdfs(server.address) as store:
        with pytest.raises(StoreUnreachable) as caught:
            store.stat(MODEL)
        assert caught.value.retry_after == 7


@pytest.mark.parametrize("end", [b"Content-Le", b"Content-Length: 5\r\n", b"Location: http://127.0.0.1:1"])
def test_head_that_breaks_off_is_unreachable(end: bytes) -> None:
    """A head that breaks off is no answer of another kind: the same request may succeed."""
    for status in (b"200 OK", b"307 Temporary Redirect"):
        server = Answers([b"HTTP/1.1 %b\r\n%b" % (status, end)])
        with server.running(), open_webhdfs(server.address) as store:
            for operation, doing in ((store.stat, "asking for"), (store.donefile, "opening"), (store.list, "listing")):
                with fault(StoreUnreachable, f"{doing} {store.describe(MODEL)}"):
                    operation(MODEL)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b"{}", b'{"FileStatus": {}}'])
def test_answer_of_another_kind_is_refused(body: bytes) -> None:
    """An answer that is good but not WebHDFS's is refused, and says what to check."""
    server = Answers([answer("200 OK", f"Content-Length: {len(body)}", body=body)])
    with server.running(), open_webhdfs(server.address) as store:
        for operation in (store.stat, store.donefile, store.list):
            with fault(Refused, "", "not how WebHDFS answers"):
                operation(MODEL)


def test_password_is_for_the_connections_hosts() -> None:
    """A gateway gets the password, and whoever it redirects to does not."""
    status = b'{"FileStatus": {"type": "FILE", "length": 5, "modificationTime": 0}}'
    elsewhere = Answers([answer("200 OK", "Content-Length: 5", body=b"model")])
    with elsewhere.running():
        location = "Location: http://{}:{}/data".format(*elsewhere.address)
        redirection = answer("307 Temporary Redirect", location, "Content-Length: 0")
        told = answer("200 OK", f"Content-Length: {len(status)}", body=status)
        gateway = Answers([told, redirection, told])
        with gateway.running(), open_webhdfs(gateway.address, password=PASSWORD) as store:
            assert read(store, MODEL) == b"model"
    assert gateway.asked
    assert all("Authorization: Basic" in head for head in gateway.asked)
    assert elsewhere.asked
    assert not any("Authorization" in head for head in elsewhere.asked)


def test_environment_does_not_overrule_the_connection(hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authorities that the connection names count more than those of the environment."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    session = WebHdfsSession()
    session.verify = str(hdfs.authority)
    url = "https://{}:{}".format(*hdfs.namenode.https)
    with WebHdfsStore(insecure_client([url], USER, session, (20, 20)), session) as store:
        store.write(MODEL, io.BytesIO(b"model"))
        assert read(store, MODEL) == b"model"


def test_password_goes_to_a_host_however_it_is_written() -> None:
    """A host whose name the connection writes with capitals gets the password, and another one does not."""
    session = WebHdfsSession((USER, PASSWORD), ["NameNode.Corp:9870"])
    told = {
        host: "Authorization" in session.prepare_request(requests.Request("GET", f"http://{host}:9870/")).headers
        for host in ("NameNode.Corp", "namenode.corp", "datanode.corp")
    }
    assert told == {"NameNode.Corp": True, "namenode.corp": True, "datanode.corp": False}
