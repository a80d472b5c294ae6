"""The embedded store, over real sockets: downloads, listings, uploads, renames, and that no path leaves its folder."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from html import unescape
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from .running import DEADLINE_SECONDS, Servers, command, set_mtime, wait_until


class Store:
    """A store that runs, and the folder behind it."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.root = root

    def request(self, method: str, path: str, **options: object) -> requests.Response:
        """Send a request for a path below the root of the store, as it stands."""
        prepared = requests.Request(method, self.url, **options).prepare()
        prepared.url = f"{self.url}/{path}"
        with requests.Session() as session:
            return session.send(prepared, timeout=DEADLINE_SECONDS, allow_redirects=False)

    def names(self) -> list[str]:
        """Return what lies in the root, sorted."""
        return names_in(self.root)

    def raw_status(self, method: str, target: str, headers: dict[str, str] | None = None) -> int:
        """Send a request whose target no client library has tidied, and return the status."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, target, headers=headers or {})
            return connection.getresponse().status
        finally:
            connection.close()


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder, sorted, temporary files included."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def served(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Run one store for the whole module."""
    root = tmp_path_factory.mktemp("store") / "root"
    root.mkdir()
    return Store(servers.start("store", "--root", root).url, root)


@pytest.fixture
def store(served: Store) -> Iterator[Store]:
    """Return the store, empty, and leave nothing in it."""
    assert served.names() == []
    yield served
    assert served.request("GET", "").status_code == 200
    for name in served.names():
        served.request("DELETE", name)
        (served.root / name).unlink(missing_ok=True)


# Downloads


def test_get_returns_the_file_with_its_validators(store: Store) -> None:
    """A download has the bytes, their number, an ETag, the mtime and no encoding, whatever the name ends with."""
    content = os.urandom(300_000)
    (store.root / "model.tar.gz").write_bytes(content)
    set_mtime(store.root / "model.tar.gz", 1_700_000_000)

    response = store.request("GET", "model.tar.gz")

    assert (response.status_code, response.content) == (200, content)
    assert response.headers["Content-Length"] == "300000"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert parsedate_to_datetime(response.headers["Last-Modified"]).timestamp() == 1_700_000_000
    assert re.fullmatch(r'"[^"]+"', response.headers["ETag"])
    assert "Content-Encoding" not in response.headers


def test_head_has_the_headers_of_get_without_the_body(store: Store) -> None:
    """A HEAD answers with the length and validators of the file, and with no byte of it."""
    (store.root / "donefile").write_bytes(b"12345")
    got = store.request("GET", "donefile")

    head = store.request("HEAD", "donefile")

    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Length", "ETag", "Last-Modified"):
        assert head.headers[name] == got.headers[name]


def test_etag_tells_changes_within_a_second_apart(store: Store) -> None:
    """Two contents of one length and one whole second have different ETags."""
    donefile = store.root / "donefile"
    donefile.write_bytes(b"1")
    set_mtime(donefile, 1_700_000_000.1)
    first = store.request("HEAD", "donefile").headers["ETag"]
    donefile.write_bytes(b"2")
    set_mtime(donefile, 1_700_000_000.2)

    assert store.request("HEAD", "donefile").headers["ETag"] != first


def test_unchanged_file_is_not_sent_again(store: Store) -> None:
    """If-None-Match with the current ETag answers 304."""
    (store.root / "donefile").write_bytes(b"1")
    etag = store.request("HEAD", "donefile").headers["ETag"]

    assert store.request("GET", "donefile", headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize(
    ("requested", "content", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ],
)
def test_range(store: Store, requested: str, content: bytes, content_range: str) -> None:
    """A range answers 206 with those bytes and says which they are."""
    (store.root / "file").write_bytes(b"0123456789")

    response = store.request("GET", "file", headers={"Range": requested})

    assert (response.status_code, response.content) == (206, content)
    assert response.headers["Content-Range"] == content_range


def test_range_behind_the_end_is_refused(store: Store) -> None:
    """A range that begins behind the end answers 416 with the length."""
    (store.root / "file").write_bytes(b"0123456789")

    response = store.request("GET", "file", headers={"Range": "bytes=10-"})

    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_if_range_resumes_the_same_file_alone(store: Store, validator: str) -> None:
    """If-Range sends the rest of the file that it names, and the whole file once that has changed."""
    file = store.root / "file"
    file.write_bytes(b"0123456789")
    set_mtime(file, 1_700_000_000.5)
    headers = {"Range": "bytes=4-", "If-Range": store.request("HEAD", "file").headers[validator]}
    same = store.request("GET", "file", headers=headers)
    file.write_bytes(b"abcdefghij")
    set_mtime(file, 1_600_000_000.5)

    changed = store.request("GET", "file", headers=headers)

    assert (same.status_code, same.content) == (206, b"456789")
    assert (changed.status_code, changed.content) == (200, b"abcdefghij")


@pytest.mark.parametrize("validator", ['"another"', 'W/"1-a"', "Thu, 01 Jan 2099 00:00:00 GMT", "nonsense"])
def test_if_range_with_anything_else_sends_the_whole_file(store: Store, validator: str) -> None:
    """An If-Range that is no current validator of the file never answers with a part."""
    (store.root / "file").write_bytes(b"0123456789")

    response = store.request("GET", "file", headers={"Range": "bytes=4-", "If-Range": validator})

    assert (response.status_code, response.content) == (200, b"0123456789")


def test_compressed_sibling_is_not_sent_instead(store: Store) -> None:
    """Asking for model.tar never gives model.tar.gz, although the client accepts gzip."""
    (store.root / "model.tar").write_bytes(b"plain")
    (store.root / "model.tar.gz").write_bytes(b"compressed")

    response = store.request("GET", "model.tar", headers={"Accept-Encoding": "gzip"})

    assert response.content == b"plain"
    assert "Content-Encoding" not in response.headers


def test_missing_file_is_not_found(store: Store) -> None:
    """What is not there answers 404, below a folder that is not there too."""
    assert store.request("GET", "absent").status_code == 404
    assert store.request("HEAD", "no/such/file").status_code == 404
    (store.root / "file").touch()
    assert store.request("GET", "file/").status_code == 404


# Listings


def test_listing_links_to_all_that_is_there(store: Store) -> None:
    """Each link of a listing leads to its file or folder, odd names included, and folders end with a slash."""
    names = ["model.pdiparams", "a b", "a&b<c>", "100%", "name:with:colons", "häuser", "what?#", '"quoted"']
    for name in names:
        (store.root / name).write_text(name)
    (store.root / "folder").mkdir()

    response = store.request("GET", "")

    assert response.headers["Content-Type"].startswith("text/html")
    links = [unescape(link) for link in re.findall(r'<a href="([^"]*)">', response.text)]
    assert len(links) == len(names) + 1
    assert "folder/" in links
    contents = {requests.get(urljoin(f"{store.url}/", link), timeout=DEADLINE_SECONDS).content for link in links}
    assert contents >= {name.encode() for name in names}


def test_listing_of_a_folder_links_to_its_parent(store: Store) -> None:
    """A folder below the root has a link up, and its entries are relative to it."""
    (store.root / "models" / "v1").mkdir(parents=True)
    (store.root / "models" / "v1" / "model.json").touch()

    listing = store.request("GET", "models/v1/").text

    assert re.findall(r'<a href="([^"]*)">', listing) == ["../", "model.json"]


def test_folder_without_a_slash_is_redirected(store: Store) -> None:
    """A folder asked for without its slash is moved to the name with it, for links to be relative to."""
    (store.root / "a b").mkdir()

    response = store.request("GET", "a%20b?x=1")

    assert response.status_code == 301
    assert response.headers["Location"] == "/a%20b/?x=1"


# Uploads


def test_put_makes_the_file_and_its_folders(store: Store) -> None:
    """A new file answers 201 and appears with its bytes, its missing folders made."""
    content = os.urandom(3_000_000)

    response = store.request("PUT", "models/v%201/model.tar", data=content)

    assert response.status_code == 201
    assert (store.root / "models" / "v 1" / "model.tar").read_bytes() == content
    assert names_in(store.root / "models" / "v 1") == ["model.tar"]


def test_put_replaces_a_file(store: Store) -> None:
    """An upload over a file answers 204 and replaces it, however it is sent."""
    store.request("PUT", "donefile", data=b"first, and longer")

    response = store.request("PUT", "donefile", data=iter([b"sec", b"ond"]), headers={"Transfer-Encoding": "chunked"})

    assert response.status_code == 204
    assert (store.root / "donefile").read_bytes() == b"second"


def test_upload_under_way_is_not_seen(store: Store) -> None:
    """Until its last byte has come, an upload is neither in the listing nor in place of the old file."""
    (store.root / "model").write_bytes(b"old")
    client = socket.create_connection((urlsplit(store.url).hostname, urlsplit(store.url).port), DEADLINE_SECONDS)
    with client:
        client.sendall(b"PUT /model HTTP/1.1\r\nHost: store\r\nContent-Length: 6\r\n\r\nnew")
        wait_until(lambda: len(store.names()) == 2, "the temporary file of the upload")

        assert store.request("GET", "model").content == b"old"
        assert re.findall(r'<a href="([^"]*)">', store.request("GET", "").text) == ["model"]

        client.sendall(b"est")
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
    assert (store.root / "model").read_bytes() == b"newest"
    assert store.names() == ["model"]


@pytest.mark.parametrize(
    "beginning",
    [b"Content-Length: 600\r\n\r\nnew", b"Transfer-Encoding: chunked\r\n\r\n3\r\nnew\r\n"],
    ids=["length", "chunked"],
)
def test_upload_that_breaks_off_leaves_nothing(store: Store, beginning: bytes) -> None:
    """When the client is gone before the last byte, the old file stays and no temporary one does."""
    (store.root / "model").write_bytes(b"old")
    client = socket.create_connection((urlsplit(store.url).hostname, urlsplit(store.url).port), DEADLINE_SECONDS)
    with client:
        client.sendall(b"PUT /model HTTP/1.1\r\nHost: store\r\n" + beginning)
        wait_until(lambda: len(store.names()) == 2, "the temporary file of the upload")

    wait_until(lambda: store.names() == ["model"], "the temporary file removed")
    assert (store.root / "model").read_bytes() == b"old"


def test_readers_see_one_upload_or_the_other(store: Store) -> None:
    """While a file is replaced again and again, every download is one of the uploads as a whole."""
    contents = [bytes([number]) * 400_000 for number in range(8)]
    store.request("PUT", "model", data=contents[0])
    seen: list[bytes] = []
    stopping = threading.Event()

    def download_without_pause() -> None:
        while not stopping.is_set():
            seen.append(store.request("GET", "model").content)

    reader = threading.Thread(target=download_without_pause)
    reader.start()
    try:
        for content in contents * 5:
            assert store.request("PUT", "model", data=content).status_code == 204
    finally:
        stopping.set()
        reader.join()

    assert seen
    assert [len(content) for content in seen if content not in contents] == []


def test_put_where_it_cannot_be_is_a_conflict(store: Store) -> None:
    """A file over a folder, below a file or with a folder's name answers 409 and changes nothing."""
    (store.root / "folder").mkdir()
    (store.root / "file").write_bytes(b"here")

    assert store.request("PUT", "folder", data=b"x").status_code == 409
    assert store.request("PUT", "new/", data=b"x").status_code == 409
    assert store.request("PUT", "file/below", data=b"x").status_code == 409
    assert store.request("PUT", "file/below/more", data=b"x").status_code == 409
    assert (store.root / "file").read_bytes() == b"here"
    assert store.names() == ["file", "folder"]


def test_part_of_a_file_is_not_put_as_the_whole(store: Store) -> None:
    """An upload with Content-Range answers 400 instead of replacing the file by a part of it."""
    (store.root / "file").write_bytes(b"0123")

    response = store.request("PUT", "file", data=b"x", headers={"Content-Range": "bytes 0-0/4"})

    assert response.status_code == 400
    assert (store.root / "file").read_bytes() == b"0123"


# Renames and deletions


@pytest.mark.parametrize("absolute", [True, False])
def test_move_renames(store: Store, absolute: bool) -> None:
    """MOVE to a URL of the store or to a path answers 201, and the file is at its new name alone."""
    (store.root / "model.part").write_bytes(b"model")
    destination = f"{store.url}/the%20model" if absolute else "/the%20model"

    response = store.request("MOVE", "model.part", headers={"Destination": destination})

    assert response.status_code == 201
    assert store.names() == ["the model"]
    assert (store.root / "the model").read_bytes() == b"model"


def test_move_replaces_unless_told_otherwise(store: Store) -> None:
    """Over what is there, Overwrite F answers 412 and changes nothing, and the default answers 204 and replaces."""
    (store.root / "new").write_bytes(b"new")
    (store.root / "old").write_bytes(b"old")

    refused = store.request("MOVE", "new", headers={"Destination": "/old", "Overwrite": "F"})
    assert (refused.status_code, (store.root / "old").read_bytes()) == (412, b"old")

    replaced = store.request("MOVE", "new", headers={"Destination": "/old"})
    assert (replaced.status_code, (store.root / "old").read_bytes()) == (204, b"new")
    assert store.names() == ["old"]


@pytest.mark.parametrize(("source_is_folder", "destination_is_folder"), [(True, True), (True, False), (False, True)])
def test_move_over_a_folder(store: Store, source_is_folder: bool, destination_is_folder: bool) -> None:
    """A folder or a file takes the place of a full folder, and a folder that of a file."""
    for name, is_folder in (("new", source_is_folder), ("old", destination_is_folder)):
        if is_folder:
            (store.root / name).mkdir()
        (store.root / name / "inside" if is_folder else store.root / name).write_text(name)

    response = store.request("MOVE", "new", headers={"Destination": "/old"})

    assert response.status_code == 204
    assert store.names() == ["old"]
    assert (store.root / "old" / "inside" if source_is_folder else store.root / "old").read_text() == "new"


@pytest.mark.parametrize(
    ("source", "destination", "status"),
    [
        ("absent", "/new", 404),
        ("file", None, 400),
        ("file", "relative", 400),
        ("file", "http://elsewhere.invalid/new", 502),
        ("file", "/absent/new", 409),
        ("file", "/file", 403),
        ("file", "/", 403),
        ("", "/new", 403),
        ("folder", "/folder/inside", 403),
        ("folder/file", "/folder", 403),
        ("file", "/../new", 403),
        ("file", "/..%2fnew", 403),
        ("file", "/%2e%2e/new", 403),
        ("file", "/outside/new", 403),
    ],
)
def test_move_that_cannot_be_is_refused(store: Store, source: str, destination: str | None, status: int) -> None:
    """A MOVE of nothing, to nowhere, into itself or out of the store is refused and changes nothing."""
    (store.root / "file").write_bytes(b"here")
    (store.root / "folder").mkdir()
    (store.root / "folder" / "file").touch()
    (store.root / "outside").symlink_to(store.root.parent)

    headers = {} if destination is None else {"Destination": destination}
    response = store.request("MOVE", source, headers=headers)

    assert response.status_code == status
    assert response.text.strip()
    assert store.names() == ["file", "folder", "outside"]
    assert names_in(store.root.parent) == ["root"]


def test_delete(store: Store) -> None:
    """DELETE removes a file or a full folder with 204, answers 404 for nothing and 403 for the root."""
    (store.root / "folder" / "below").mkdir(parents=True)
    (store.root / "folder" / "below" / "file").touch()
    (store.root / "file").touch()

    assert store.request("DELETE", "folder").status_code == 204
    assert store.request("DELETE", "file").status_code == 204
    assert store.request("DELETE", "file").status_code == 404
    assert store.request("DELETE", "").status_code == 403
    assert store.names() == []


# Refusals


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "target",
    ["/../secret", "/..%2fsecret", "/%2e%2e/secret", "/%2e%2e%2fsecret", "/x/../../secret", "/x%2f..%2f..%2fsecret",
     "/link/secret", "/secret-link", "/a%00b"],
)  # fmt: skip
def test_no_path_leaves_the_store(store: Store, method: str, target: str) -> None:
    """Dots, encoded or not, and symlinks that lead out are refused, and what is outside stays as it is."""
    secret = store.root.parent / "secret"
    secret.write_bytes(b"secret")
    (store.root / "link").symlink_to(store.root.parent)
    (store.root / "secret-link").symlink_to(secret)
    try:
        assert store.raw_status(method, target) == 403
        assert secret.read_bytes() == b"secret"
        assert names_in(store.root.parent) == ["root", "secret"]
    finally:
        secret.unlink()


def test_symlink_within_the_store_is_followed(store: Store) -> None:
    """A symlink to something in the store is a name like another."""
    (store.root / "file").write_bytes(b"here")
    (store.root / "link").symlink_to("file")

    assert store.request("GET", "link").content == b"here"


def test_other_methods_are_not_allowed(store: Store) -> None:
    """Any other method answers 405 and names those that are known."""
    response = store.request("POST", "file", data=b"x")

    assert response.status_code == 405
    assert {"GET", "HEAD", "PUT", "DELETE", "MOVE"} <= set(response.headers["Allow"].split(","))


# Authentication, start and end


def test_authentication(servers: Servers, tmp_path: Path) -> None:
    """With a user and a password file nothing is told or changed without both being right."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_bytes(b"here")
    (tmp_path / "password").write_text("pässword: with a colon\n", encoding="utf-8")
    arguments = ("--root", tmp_path / "root", "--user", "demo", "--password-file", tmp_path / "password")
    guarded = Store(servers.start("store", *arguments).url, tmp_path / "root")

    right = ("demo", "pässword: with a colon".encode())
    for wrong in (None, ("demo", "password"), ("another", "pässword: with a colon".encode()), ("demo", "")):
        for method in ("GET", "PUT", "DELETE", "MOVE"):
            response = guarded.request(method, "file", auth=wrong, headers={"Destination": "/new"})
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == 'Basic realm="store"'
    assert guarded.names() == ["file"]
    assert guarded.request("GET", "file", auth=right).content == b"here"


@pytest.mark.parametrize("option", ["--user", "--password-file"])
def test_half_of_the_credentials_is_refused(tmp_path: Path, option: str) -> None:
    """A user without a password file, or the other way round, is an error and not an open store."""
    outcome = subprocess.run(
        command("store", "--root", tmp_path, option, "x"),
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip

    assert outcome.returncode == 2
    assert "--user and --password-file go together" in outcome.stderr


def test_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A root that is not there ends the start with its name."""
    outcome = subprocess.run(
        command("store", "--root", tmp_path / "absent"),
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip

    assert outcome.returncode == 1
    assert f"cannot serve {tmp_path}/absent: it is no folder" in outcome.stderr


def test_taken_port_is_refused(served: Store, tmp_path: Path) -> None:
    """A port that is taken ends the start with the reason."""
    outcome = subprocess.run(
        command("store", "--root", tmp_path, "--port", str(urlsplit(served.url).port)),
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip

    assert outcome.returncode == 1
    assert "address already in use" in outcome.stderr


def test_sigterm_ends_the_store_with_status_0(servers: Servers, tmp_path: Path) -> None:
    """SIGTERM ends the store with status 0, connections that are kept open notwithstanding, and its port file goes."""
    server = servers.start("store", "--root", tmp_path)
    with requests.Session() as session:
        assert session.get(server.url, timeout=DEADLINE_SECONDS).status_code == 200

        assert server.end() == 0
    assert not server.port_file.exists()
