"""What only HTTP can do: statuses, redirects, TLS, addresses, and servers that lie."""

from __future__ import annotations

import io
import re
import socket
import traceback
from collections.abc import Sequence
from pathlib import Path

import certifi
import pytest
import requests
from requests.auth import HTTPDigestAuth
from urllib3 import HTTPConnectionPool, PoolManager

from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores import reading
from airflow_serving_reload.delivery.stores.base import Entry, Store
from airflow_serving_reload.delivery.stores.http import HttpStore
from airflow_serving_reload.delivery.stores.requests_answers import expect_whole_heads

from .answers import LAST_MODIFIED, Answers, answer
from .bench import PASSWORD, USER, Address, HttpBench
from .nginx import Nginx
from .suite import DONEFILE, MODEL, fault, look, random_bytes, read

BODY = random_bytes(1000)


@pytest.fixture
def bench(nginx: Nginx) -> HttpBench:
    """Give a store on the nginx that offers everything."""
    return HttpBench(nginx.files / "full", nginx.address, "/full")


def store_at(base_url: str) -> HttpStore:
    """Open a store without pauses."""
    session = requests.Session()
    session.trust_env = False
    store = HttpStore(session, base_url, timeout=(10, 20))
    store.resume_pauses = (0, 0)
    return store


def answering(server: Answers) -> HttpStore:
    """Open a store on a server that lies."""
    return store_at(f"http://{server.address.host}:{server.address.port}")


# statuses


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, Refused, "check the connection's host"),
        (401, Refused, "login and password"),
        (403, Refused, "login and password"),
        (404, NotThereYet, "check the path"),
        (407, Refused, "login and password"),
        (409, Refused, "folder above"),
        (410, NotThereYet, "check the path"),
        (425, StoreUnreachable, "try again"),
        (429, StoreUnreachable, "try again"),
        (451, Refused, "check the connection's host"),
        (500, StoreUnreachable, "try again"),
        (501, Refused, "as WebDAV does"),
        (502, StoreUnreachable, "try again"),
        (503, StoreUnreachable, "try again"),
        (504, StoreUnreachable, "try again"),
        (505, Refused, "check the connection's host"),
        (507, StoreUnreachable, "try again"),
        (511, Refused, "check the connection's host"),
        (520, StoreUnreachable, "try again"),
    ],
)
def test_status_is_told_apart(nginx: Nginx, status: int, kind: type[DeliveryError], words: str) -> None:
    """Every status is of the class by which the caller waits, tries again or gives up, and the message says it."""
    with store_at(f"http://127.0.0.1:{nginx.address.port}/answers/{status}") as store:
        for path, doing in ((MODEL, "asking for"), (MODEL, "opening")):
            with fault(kind, f"{doing} {store.describe(path)}", str(status), words):
                store.stat(path) if doing == "asking for" else read(store, path)


@pytest.mark.parametrize(("status", "kind"), [(401, Refused), (429, StoreUnreachable), (503, StoreUnreachable)])
def test_status_of_an_upload_is_told_apart(nginx: Nginx, status: int, kind: type[DeliveryError]) -> None:
    """An upload that is turned away before it begins does not even read its source."""
    source = io.BytesIO(b"model")
    with (
        store_at(f"http://127.0.0.1:{nginx.address.port}/answers/{status}") as store,
        fault(kind, f"uploading {store.describe(MODEL)}", str(status)),
    ):
        store.write(MODEL, source)
    assert source.tell() == 0


@pytest.mark.parametrize("size", [200_000, 20_000_000])
def test_upload_that_is_too_large_is_refused(nginx: Nginx, size: int) -> None:
    """An upload larger than the server takes is refused, and the message names the limit to raise."""
    bench = HttpBench(nginx.files / "small-uploads", nginx.address, "/small-uploads")
    with fault(Refused, f"uploading {bench.store.describe(MODEL)}", "413", "client_max_body_size"):
        bench.store.write(MODEL, io.BytesIO(bytes(size)))
    assert bench.names("/models") == []


def test_fault_tells_when_to_come_again() -> None:
    """When a busy server wants to be asked again goes with the fault, be it told in seconds or as a date."""
    told = {
        "Retry-After: 7": 7,
        "Retry-After: Sun, 13 Sep 2020 12:27:40 GMT": 60,
        "Retry-After: Sun, 13 Sep 2020 12:25:40 GMT": 0,
        "Retry-After: soon": 0,
        "X-Nothing: 1": 0,
    }
    now = LAST_MODIFIED.replace("Last-Modified", "Date")
    for header, seconds in told.items():
        busy = answer("503 Service Unavailable", "Content-Length: 0", now, header)
        with Answers([busy]).running() as server, answering(server) as store:
            with pytest.raises(StoreUnreachable) as caught:
                store.stat(MODEL)
            assert caught.value.retry_after == seconds


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_transfer_goes_on_when_the_server_wants_it_to(status: str, caplog: pytest.LogCaptureFixture) -> None:
    """A transfer that broke off goes on not before the time that a busy server told."""
    busy = answer(status, "Content-Length: 0", "Retry-After: 1")
    with Answers([BEGINNING, busy, part(400)]).running() as server, answering(server) as store:
        assert read(store, MODEL) == BODY
    assert "going on in 1.0 s" in caplog.text


def test_no_server_lets_a_transfer_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late a busy server wants to be asked again, a transfer waits no longer than its bound."""
    monkeypatch.setattr(reading, "LONGEST_PAUSE", 0.01)
    busy = answer("503 Service Unavailable", "Content-Length: 0", "Retry-After: 86400")
    with Answers([BEGINNING, busy, part(400)]).running() as server, answering(server) as store:
        assert read(store, MODEL) == BODY


# what the session says

THERE = answer("200 OK", "Content-Length: 1", LAST_MODIFIED)


def test_questions_carry_what_the_session_says() -> None:
    """The session's headers and its password go with each question, and so does a cookie once the server has set it."""
    first = answer("200 OK", "Content-Length: 1", LAST_MODIFIED, "Set-Cookie: visit=1; Path=/")
    with Answers([first, first, THERE]).running() as server, answering(server) as store:
        store._session.auth = (USER, PASSWORD)
        store._session.headers["X-Key"] = "1"
        for _ in range(3):
            assert store.stat(MODEL).size == 1
    assert all("Authorization: Basic " in head and "X-Key: 1" in head for head in server.asked)
    assert ["Cookie: visit=1" in head for head in server.asked] == [False, False, True, True]


def test_challenge_is_answered_for_each_path() -> None:
    """Where the password is proved anew for each path, each question proves it for its own."""
    challenge = answer("401 Unauthorized", 'WWW-Authenticate: Digest realm="m", nonce="1"', "Content-Length: 0")
    with Answers([challenge, THERE]).running() as server, answering(server) as store:
        store._session.auth = HTTPDigestAuth(USER, PASSWORD)
        assert store.stat(MODEL).size == store.stat(DONEFILE).size == 1
    proved = [re.findall(r'Authorization: Digest .*uri="(.*?)"', head) for head in server.asked]
    assert proved == [[], [MODEL], [DONEFILE]]


def test_questions_are_answered_by_the_server_itself() -> None:
    """Facts, donefiles and models are asked for past what a cache on the way keeps, as listings are."""
    page = answer("200 OK", "Content-Type: text/html", "Content-Length: 0")
    there = answer("200 OK", "Content-Length: 1", body=b"1")
    with Answers([THERE, there, page]).running() as server, answering(server) as store:
        assert store.stat(MODEL).size == 1
        assert read(store, MODEL) == b"1"
        assert store.scan("/models") == {}
    assert ["Cache-Control: no-cache" in head for head in server.asked] == [True] * 3


def test_the_proxies_of_the_session_count_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the connection names is used, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Answers([THERE]).running() as proxy, requests.Session() as session:
        session.proxies["http"] = f"http://{proxy.address.host}:{proxy.address.port}"
        with HttpStore(session, "http://store.invalid") as store:
            assert store.stat(MODEL).size == 1
    assert proxy.asked[0].startswith("HEAD http://store.invalid/models/model.tar ")


def test_head_that_breaks_off_behind_a_proxy_is_unreachable() -> None:
    """A head that breaks off is no shorter one behind a proxy either."""
    with Answers([b"HTTP/1.1 200 OK\r\nContent-Length: 30"]).running() as proxy, requests.Session() as session:
        session.trust_env = False
        session.proxies["http"] = f"http://{proxy.address.host}:{proxy.address.port}"
        with HttpStore(session, "http://store.invalid") as store, fault(StoreUnreachable, "asking for"):
            store.stat(MODEL)


def test_pools_that_are_not_of_http_stay_as_they_are() -> None:
    """What goes another way to the server than by HTTP, as by SOCKS, goes on doing so."""

    class SocksPool(HTTPConnectionPool):
        """Connections that go by SOCKS."""

    def manager(*_proxy: object, **_options: object) -> PoolManager:
        made = PoolManager()
        made.pool_classes_by_scheme = {"http": SocksPool}
        return made

    with requests.Session() as session:
        adapter = session.get_adapter("http://store.invalid")
        adapter.proxy_manager_for = manager
        expect_whole_heads(session)
        assert type(adapter.proxy_manager_for("socks5://proxy").connection_from_url("http://s.invalid")) is SocksPool


@pytest.mark.parametrize(("status", "kind"), [(403, Refused), (407, Refused), (503, StoreUnreachable)])
def test_proxy_that_lets_nobody_through(status: int, kind: type[DeliveryError]) -> None:
    """What a proxy says to who wants to go through it by TLS is told apart as what servers say is."""
    refusal = answer(f"{status} No", "Content-Length: 0")
    with Answers([refusal]).running() as proxy, requests.Session() as session:
        session.trust_env = False
        session.proxies["https"] = f"http://{proxy.address.host}:{proxy.address.port}"
        with HttpStore(session, "https://store.invalid") as store, fault(kind, "asking for", str(status)):
            store.stat(MODEL)


@pytest.mark.parametrize(
    "said", [{"header": "Bearer s3cr3t-token\n"}, {"header": "Bearer s3cr3t-пароль"}, {"password": "s3cr3t-пароль"}]
)
def test_what_cannot_be_sent_is_refused(said: dict[str, str]) -> None:
    """A token with a line break, or a password in letters that HTTP does not know, is refused and not told."""
    with Answers([THERE]).running() as server, answering(server) as store:
        if "header" in said:
            store._session.headers["Authorization"] = said["header"]
        else:
            store._session.auth = (USER, said["password"])
        with pytest.raises(Refused, match=r"cannot be sent over HTTP") as caught:
            store.donefile(MODEL)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_upload_through_a_proxy_that_ends_tls_is_refused() -> None:
    """A server that takes Destination for another server's is not sent the model again, and the message says why."""
    absent, made = answer("404 Not Found", "Content-Length: 0"), answer("201 Created", "Content-Length: 0")
    elsewhere = answer("502 Bad Gateway", "Content-Length: 0")
    with (
        Answers([absent, made, absent, elsewhere, THERE, absent, made]).running() as server,
        answering(server) as store,
        fault(Refused, f"uploading {store.describe(MODEL)}", "502", "RequestHeader edit Destination"),
    ):
        store.write(MODEL, io.BytesIO(b"model"))
    assert [head.partition(" ")[0] for head in server.asked] == [
        *("MOVE", "PUT", "HEAD", "MOVE", "HEAD", "HEAD", "DELETE")
    ]


@pytest.mark.parametrize("before", [0, 2])
def test_server_that_goes_down_behind_its_proxy_is_unreachable(before: int) -> None:
    """A proxy that has lost its server, before an upload or behind it, may find it again, so that a retry helps."""
    absent, made = answer("404 Not Found", "Content-Length: 0"), answer("201 Created", "Content-Length: 0")
    down = answer("502 Bad Gateway", "Content-Length: 0")
    with (
        Answers([*[absent, made][:before], down]).running() as server,
        answering(server) as store,
        fault(StoreUnreachable, f"uploading {store.describe(MODEL)}", "502", "try again later"),
    ):
        store.write(MODEL, io.BytesIO(b"model"))


@pytest.mark.parametrize("status", ["503 Service Unavailable", "507 Insufficient Storage", "522 Origin Down"])
def test_folder_is_spared_by_a_busy_server(status: str) -> None:
    """Where a busy server does not tell whether it is a folder, nothing is removed."""
    busy = answer(status, "Content-Length: 0")
    with (
        Answers([busy]).running() as server,
        answering(server) as store,
        fault(StoreUnreachable, f"removing {store.describe(MODEL)}", status),
    ):
        store.remove(MODEL)
    assert [head.partition(" ")[0] for head in server.asked] == ["HEAD"]


def test_tokens_in_addresses_are_not_told(bench: HttpBench) -> None:
    """What a server adds to an address behind its question mark is in no message, and in no cause of one."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    signed = answer("307 Go", f"Location: http://127.0.0.1:{port}/there?token=SECRET", "Content-Length: 0")
    for ask, kind in ((Store.stat, StoreUnreachable), (read, StoreUnreachable), (_write, Refused)):
        with Answers([signed]).running() as server, answering(server) as store:
            with pytest.raises(kind) as caught:
                ask(store, MODEL)
            assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def _write(store: Store, path: str) -> None:
    store.write(path, io.BytesIO(b"model"))


# redirects


def test_redirected_file_is_read(bench: HttpBench) -> None:
    """A file behind a redirect is read, and seen as the same donefile at every look."""
    bench.put(DONEFILE, b"1")
    with store_at(f"http://127.0.0.1:{bench.address.port}/moved") as store:
        assert read(store, DONEFILE) == b"1"
        assert look(store) == look(store)
        assert store.stat(DONEFILE).size == 1
        assert store.list("/models") == [Entry("donefile", False)]


def test_redirected_upload_is_refused(bench: HttpBench) -> None:
    """An upload that is redirected has not happened, so it is refused, and the message gives the right address."""
    with (
        store_at(f"http://127.0.0.1:{bench.address.port}/moved") as store,
        fault(Refused, f"uploading {store.describe(MODEL)}", "302", "/full/models/model.tar"),
    ):
        store.write(MODEL, io.BytesIO(b"model"))
    assert bench.names("/") == []


def test_redirect_in_a_circle_is_refused(bench: HttpBench) -> None:
    """Redirects without an end are refused."""
    with (
        store_at(f"http://127.0.0.1:{bench.address.port}/around") as store,
        fault(Refused, f"opening {store.describe(MODEL)}", "TooManyRedirects"),
    ):
        read(store, MODEL)


# TLS


def test_unknown_authority_is_refused(nginx: Nginx) -> None:
    """A certificate by an authority that the session does not know is refused: nothing is read or sent."""
    with store_at(f"https://127.0.0.1:{nginx.tls_address.port}/full") as store:
        with fault(Refused, f"opening {store.describe(MODEL)}", "certificate verify failed", "check the certificates"):
            read(store, MODEL)
        with fault(Refused, f"uploading {store.describe(MODEL)}", "certificate verify failed"):
            store.write(MODEL, io.BytesIO(b"model"))


def test_environment_does_not_overrule_the_connection(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authorities that the connection names count more than those of the environment."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    session = requests.Session()
    session.verify = str(nginx.authority)
    with HttpStore(session, f"https://127.0.0.1:{nginx.tls_address.port}/full") as store:
        store.write(MODEL, io.BytesIO(b"model"))
        assert read(store, MODEL) == b"model"


def test_certificate_of_another_host_is_refused(nginx: Nginx) -> None:
    """A certificate that is not the host's is refused, whoever signed it."""
    bench = HttpBench(nginx.files / "full", nginx.tls_address, "/full", certificate_authority=nginx.authority)
    with (
        bench.connect(Address("localhost", nginx.tls_address.port)) as store,
        fault(Refused, f"opening {store.describe(MODEL)}", "localhost", "check the certificates"),
    ):
        read(store, MODEL)


def test_missing_authority_file_is_refused(nginx: Nginx, tmp_path: Path) -> None:
    """A session whose file of authorities is missing is refused, and the message names the file."""
    missing = tmp_path / "no-such-authority.pem"
    bench = HttpBench(nginx.files / "full", nginx.tls_address, "/full", certificate_authority=missing)
    with fault(Refused, f"opening {bench.store.describe(MODEL)}", str(missing), "TLS"):
        read(bench.store, MODEL)


def test_tls_and_plain_text_are_not_mixed(nginx: Nginx) -> None:
    """TLS to a port that speaks plain text is refused, and so is plain text to a port that speaks TLS."""
    for base_url in (f"https://127.0.0.1:{nginx.address.port}", f"http://127.0.0.1:{nginx.tls_address.port}"):
        with store_at(base_url) as store, fault(Refused, f"opening {store.describe(MODEL)}"):
            read(store, MODEL)


# addresses


def test_credentials_in_the_address_stay_secret(nginx: Nginx, caplog: pytest.LogCaptureFixture) -> None:
    """Credentials in the store's address are used, for renames too, and shown nowhere."""
    caplog.set_level("DEBUG")
    bench = HttpBench(nginx.files / "with-password", nginx.address, "/with-password", asks_password=True)
    with store_at(f"http://{USER}:{PASSWORD}@127.0.0.1:{nginx.address.port}/with-password") as store:
        store.write(MODEL, io.BytesIO(b"model"))
        assert bench.content(MODEL) == read(store, MODEL) == b"model"
        assert store.describe(MODEL) == f"http://127.0.0.1:{nginx.address.port}/with-password{MODEL}"
        with fault(NotThereYet, f"opening {store.describe('/absent')}"):
            read(store, "/absent")
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "base_url",
    [
        f"htp://{USER}:{PASSWORD}@127.0.0.1",
        f"http://{USER}:{PASSWORD}@",
        f"http://{USER}:{PASSWORD}@:80",
        f"http://{USER}:{PASSWORD}@127.0.0.1:port",
        f"http://{USER}:{PASSWORD}@[127",
        f"http://{USER}:{PASSWORD}@.store",
        "store",
        "",
    ],
)
def test_unusable_address_is_refused(base_url: str) -> None:
    """An address that no request can be made of is refused, without the credentials in it."""
    with fault(Refused, "", "check the connection's host"), store_at(base_url) as store:
        read(store, MODEL)


# lengths


@pytest.mark.parametrize("length", [5, 12, 40, 60, 80])
def test_head_that_breaks_off_is_unreachable(length: int) -> None:
    """A head that breaks off, be it between its lines, is no answer of fewer headers: the same request may succeed."""
    head = answer("200 OK", "Content-Length: 0", LAST_MODIFIED, 'ETag: "1"')[:length]
    with Answers([head]).running() as server, answering(server) as store:
        for operation, doing in ((store.stat, "asking for"), (store.donefile, "opening"), (store.list, "listing")):
            with fault(StoreUnreachable, f"{doing} {store.describe(MODEL)}"):
                operation(MODEL)


def test_short_body_is_unreachable() -> None:
    """A body shorter than announced is never taken for whole, however often it comes."""
    short = answer("200 OK", "Content-Length: 1000", LAST_MODIFIED, body=BODY[:400])
    with Answers([short]).running() as server, answering(server) as store:
        with fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "at byte 400"):
            read(store, MODEL)
        assert len(server.asked) == 1 + len(store.resume_pauses)


def test_long_body_ends_where_it_should() -> None:
    """Bytes behind the announced end belong neither to this file nor to the next."""
    long = answer("200 OK", "Content-Length: 400", LAST_MODIFIED, body=BODY)
    with Answers([long]).running() as server, answering(server) as store:
        assert read(store, MODEL) == read(store, MODEL) == BODY[:400]


def test_body_without_length_is_refused() -> None:
    """A body that ends only with its connection is refused, since a break would look like the end."""
    endless = answer("200 OK", LAST_MODIFIED, body=BODY)
    with (
        Answers([endless]).running() as server,
        answering(server) as store,
        fault(Refused, f"opening {store.describe(MODEL)}", "Content-Length"),
    ):
        read(store, MODEL)


def test_chunked_body_is_read_to_its_proven_end() -> None:
    """A body in chunks is whole when the last chunk has come, and not before."""
    head = ("200 OK", "Transfer-Encoding: chunked", LAST_MODIFIED)
    whole = answer(*head, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
    cut = answer(*head, body=b"%x\r\n%b\r\n" % (len(BODY), BODY))
    with Answers([whole, cut]).running() as server, answering(server) as store:
        assert read(store, MODEL) == BODY
        with fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "from the beginning"):
            read(store, MODEL)


def test_stalled_body_is_unreachable() -> None:
    """A server that stops sending without hanging up is unreachable after the store's timeout."""
    short = answer("200 OK", "Content-Length: 1000", LAST_MODIFIED, body=BODY[:400])
    with Answers([short], stalling=True).running() as server:
        store = HttpStore(requests.Session(), f"http://127.0.0.1:{server.address.port}", timeout=(10, 0.1))
        store.resume_pauses = ()
        with store, fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "timed out"):
            read(store, MODEL)


def test_stalled_body_goes_on_behind_its_last_byte() -> None:
    """Whatever came before a server stopped sending is kept, and the transfer goes on behind it."""
    short = answer("200 OK", "Content-Length: 1000", 'ETag: "1"', LAST_MODIFIED, body=BODY[:400])
    with Answers([short, part(400)], stalling=True).running() as server:
        store = HttpStore(requests.Session(), f"http://127.0.0.1:{server.address.port}", timeout=(10, 0.1))
        store.resume_pauses = (0,)
        with store:
            assert read(store, MODEL) == BODY
    assert "Range: bytes=400-" in server.asked[1]


def test_encoded_body_is_taken_as_it_is() -> None:
    """The bytes are those of the file, whatever encoding the server believes them to have."""
    encoded = answer("200 OK", "Content-Length: 1000", "Content-Encoding: gzip", LAST_MODIFIED, body=BODY)
    with Answers([encoded]).running() as server, answering(server) as store:
        assert read(store, MODEL) == BODY
        assert "Accept-Encoding: identity" in server.asked[0]


# ranges


def part(first: int | None, size: int = 1000) -> bytes:
    """Compose an answer with the rest of the body, from a byte on; None for a part that does not say which it is."""
    told = () if first is None else (f"Content-Range: bytes {first}-{size - 1}/{size}",)
    body = BODY[first or 0 :]
    return answer("206 Partial Content", f"Content-Length: {len(body)}", *told, 'ETag: "1"', LAST_MODIFIED, body=body)


BEGINNING = answer("200 OK", "Content-Length: 1000", 'ETag: "1"', LAST_MODIFIED, body=BODY[:400])


def test_part_is_asked_for_only_of_the_same_file() -> None:
    """What is missing is asked for by its first byte and the tag of the file that it belongs to."""
    with Answers([BEGINNING, part(400)]).running() as server, answering(server) as store:
        assert read(store, MODEL) == BODY
    assert "Range" not in server.asked[0]
    assert "Range: bytes=400-" in server.asked[1]
    assert 'If-Range: "1"' in server.asked[1]


def test_earlier_part_is_joined_where_it_belongs() -> None:
    """A part that begins earlier than asked for is joined at the right place."""
    with Answers([BEGINNING, part(100)]).running() as server, answering(server) as store:
        assert read(store, MODEL) == BODY


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [(part(500), StoreUnreachable), (part(None), Refused), (part(400, size=1001), StoreUnreachable)],
    ids=["later", "unnamed", "of-another-length"],
)
def test_wrong_part_is_never_joined(wrong: bytes, kind: type[DeliveryError]) -> None:
    """A part that begins later, does not say where it begins, or belongs to another file is not joined."""
    with Answers([BEGINNING, wrong]).running() as server, answering(server) as store, fault(kind, ""):
        read(store, MODEL)


def test_weak_tag_proves_nothing() -> None:
    """A weak tag is no fact: it stays while the bytes change."""
    weak = answer("200 OK", "Content-Length: 1000", 'ETag: W/"1"', body=BODY[:400])
    with Answers([weak]).running() as server, answering(server) as store:
        assert store.stat(MODEL).etag is None
        with fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "from the beginning"):
            read(store, MODEL)


@pytest.mark.parametrize(
    "header", ["Last-Modified: yesterday", "Last-Modified:", "Content-Length: many", "Content-Length: ²", "Date: now"]
)
def test_odd_header_tells_nothing(header: str) -> None:
    """A header that cannot be read counts as absent."""
    with Answers([answer("200 OK", header)]).running() as server, answering(server) as store:
        facts = store.stat(MODEL)
        assert (facts.size, facts.mtime_ns) == (None, None)
        assert facts.observed_ns


# listings


def listing_of(*targets: str) -> Sequence[Entry] | None:
    """List the folder `/models` by a page with these links."""
    links = "".join(f'<a href="{target}">a name</a>\n' for target in targets)
    page = answer("200 OK", "Content-Type: text/html", body=f"<html><body>{links}</body></html>".encode())
    with Answers([page]).running() as server, answering(server) as store:
        return store.list("/models")


def test_only_links_to_entries_are_entries() -> None:
    """Links to elsewhere, as the pages of many servers have them, are no entries of the folder."""
    listed = listing_of(
        "?C=N;O=D",
        "../",
        "..",
        "/",
        "#top",
        "./",
        "",
        "/models/",
        "/elsewhere/name",
        "/modelsand/name",
        "https://elsewhere.example/models/name",
        "//elsewhere.example/models/name",
        "javascript:alert(1)",
        "below/deeper",
        "weights",
        "./point/",
        "/models/absolute",
        "with%20space?version=1",
        "with%20space",
        "weights",
    )
    assert listed == [
        Entry("absolute", False),
        Entry("point", True),
        Entry("weights", False),
        Entry("with space", False),
    ]


@pytest.mark.parametrize(
    "target", ["a%2Fb", "..%2fpasswd", "%2e%2e", "%2E%2E/", "%2e", "/models/%2e%2e%2Fpasswd", "a%00b"]
)
def test_link_that_could_escape_is_refused(target: str) -> None:
    """A name that could leave its folder is refused, not left out."""
    with fault(Refused, "listing ", "no plain name"):
        listing_of("weights", target)


def test_page_that_is_no_listing_is_refused() -> None:
    """A folder that is answered by something else than a page is refused, with what to do."""
    json = answer("200 OK", "Content-Type: application/json", "Content-Length: 2", body=b"[]")
    absent = answer("404 Not Found", "Content-Length: 0")
    with (
        Answers([json, absent]).running() as server,
        answering(server) as store,
        fault(Refused, f"listing {store.describe('/models')}", "application/json", "one archive"),
    ):
        store.list("/models")


def test_listing_that_breaks_off_is_unreachable() -> None:
    """A listing that breaks off is not taken for a short one."""
    page = answer("200 OK", "Content-Type: text/html", "Content-Length: 1000", body=b'<a href="weights">weights</a>')
    absent = answer("404 Not Found", "Content-Length: 0")
    with (
        Answers([page, absent]).running() as server,
        answering(server) as store,
        fault(StoreUnreachable, f"listing {store.describe('/models')}"),
    ):
        store.list("/models")


@pytest.mark.parametrize(("end", "is_whole"), [(b"</body></HTML>\r\n", True), (b'<a href="pa', False)])
def test_listing_without_a_length(end: bytes, *, is_whole: bool) -> None:
    """A listing whose length nobody tells is believed only if the page comes to its end."""
    page = answer("200 OK", "Content-Type: text/html", body=b'<html><a href="weights">weights</a>' + end)
    with Answers([page]).running() as server, answering(server) as store:
        if is_whole:
            assert store.list("/models") == [Entry("weights", False)]
            assert store.scan("/models") is None
            return
        for look in (store.list, store.scan):
            with fault(StoreUnreachable, f"listing {store.describe('/models')}", "broke off", "has no end"):
                look("/models")


def test_name_that_is_no_text_is_read(bench: HttpBench) -> None:
    """A name whose bytes are no UTF-8 is listed, and leads to its file."""
    name = "caf\udce9"
    bench.put(f"/models/{name}", b"latin")
    assert list(bench.store.walk("/models")) == [name]
    assert read(bench.store, f"/models/{name}") == b"latin"
