"""What only FTP can do: replies, listings of every form, idle connections, TLS, and servers that lie."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_serving_reload.delivery.donefile import Decision, decide
from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import SECOND_NS, Entry
from airflow_serving_reload.delivery.streams import CHUNK
from airflow_serving_reload.demo.processes import Processes

from .bench import USER, Address
from .certificates import Authority
from .ftp_script import HANG_UP, SILENCE, Script, ScriptedFtp, Step, Transfer
from .ftp_servers import FtpBench, PyFtpServer, Vsftpd, tls_handler
from .suite import DONEFILE, LONG_AGO, MODEL, fault, look, random_bytes, read, wait_until

BODY = random_bytes(1000)
FILE: Script = {"SIZE": "213 1000", "MDTM": "213 20200913122640"}
"""Facts of a file of `BODY`, of long ago."""

# Long enough for an answer, and short enough to be waited for.
IMPATIENT = 0.3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PyFtpServer]:
    """Start a pyftpdlib."""
    with PyFtpServer(tmp_path / "files").running() as server:
        yield server


@pytest.fixture
def bench(server: PyFtpServer) -> FtpBench:
    """Give a store on pyftpdlib."""
    return FtpBench(server.folder, server.address)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make what signs certificates."""
    return Authority(tmp_path)


@pytest.fixture(scope="session")
def vsftpd(processes: Processes) -> Iterator[Vsftpd]:
    """Start a vsftpd that soon hangs up on who says nothing."""
    with Vsftpd.running(processes, idle_seconds=1) as server:
        yield server


# connections


def test_one_connection_serves_all_looks(server: PyFtpServer, bench: FtpBench) -> None:
    """Looks that follow each other, at a donefile that is there or not, log in once."""
    for content in (None, b"1", b"2"):
        if content:
            bench.put(DONEFILE, content)
        for _ in range(3):
            bench.store.donefile(DONEFILE)
    assert [line for line in server.commands if line.startswith("USER")] == [f"USER {USER}"]


def test_idle_connection_is_opened_again(tmp_path: Path) -> None:
    """A connection that the server has closed, since nothing came for too long, is opened again without a fault."""
    with PyFtpServer(tmp_path / "files", timeout=0.2).running() as server:
        bench = FtpBench(server.folder, server.address)
        bench.put(DONEFILE, b"1", mtime=LONG_AGO)
        first = look(bench.store)
        wait_until(lambda: not server.connections(), "a connection closed by the server")
        assert decide(look(bench.store), first) is Decision.UNCHANGED
        wait_until(lambda: not server.connections(), "a connection closed by the server")
        bench.store.write(MODEL, io.BytesIO(b"model"))
        assert bench.content(MODEL) == b"model"


def test_idle_connection_to_vsftpd_is_opened_again(vsftpd: Vsftpd) -> None:
    """The same holds for a second kind of server, which says why before it hangs up."""
    bench = FtpBench(vsftpd.folder / "files", vsftpd.address)
    bench.put(DONEFILE, b"1", mtime=LONG_AGO)
    first = look(bench.store)
    log = vsftpd.folder / "log"
    wait_until(lambda: "421 Timeout" in log.read_text(), "a connection closed by the server")
    assert decide(look(bench.store), first) is Decision.UNCHANGED


def test_store_is_used_while_a_file_comes(bench: FtpBench) -> None:
    """While a file is on its way the store takes further questions, uploads and files."""
    content = random_bytes(2 * CHUNK)
    bench.put(MODEL, content)
    with bench.store.open(MODEL) as file:
        begin = file.read(10)
        assert bench.store.stat(MODEL).size == len(content)
        bench.store.write(DONEFILE, io.BytesIO(b"1"))
        with bench.store.open(DONEFILE) as other:
            assert other.read() == b"1"
        assert begin + file.read() == content


def test_closed_store_keeps_no_connection(server: PyFtpServer, bench: FtpBench) -> None:
    """Closing a store ends all its connections, also those of files that were left early, and it can be used again."""
    bench.put(MODEL, random_bytes(2 * CHUNK))
    with bench.store as store, store.open(MODEL) as file:
        file.read(10)
        store.stat(MODEL)
        assert server.connections() == 2
    wait_until(lambda: not server.connections(), "no connection")
    assert bench.store.stat(MODEL).size == 2 * CHUNK
    bench.store.close()


def test_active_mode(bench: FtpBench) -> None:
    """A server that connects back, in active mode, is served as well."""
    bench.passive = False
    with bench.connect() as store:
        store.write(MODEL, io.BytesIO(BODY))
        assert read(store, MODEL) == BODY
        assert store.list("/models") == [Entry("model.tar", False)]


def test_anonymous_reads(tmp_path: Path) -> None:
    """Without a login files are read and listed, and uploads are refused."""
    with PyFtpServer(tmp_path / "files").running() as server:
        bench = FtpBench(server.folder, server.address, anonymous=True)
        bench.put(DONEFILE, b"1")
        assert look(bench.store).size == 1
        assert bench.store.list("/models") == [Entry("donefile", False)]
        with fault(Refused, f"uploading {bench.store.describe(MODEL)}", "550", "login"):
            bench.store.write(MODEL, io.BytesIO(b"model"))
        assert bench.names("/models") == ["donefile"]


def test_anonymous_reads_of_vsftpd(vsftpd: Vsftpd) -> None:
    """The same holds for a second kind of server."""
    bench = FtpBench(vsftpd.folder / "public", vsftpd.address, anonymous=True)
    bench.put(DONEFILE, b"1")
    assert look(bench.store).size == 1
    with fault(Refused, f"uploading {bench.store.describe(MODEL)}", "550", "login"):
        bench.store.write(MODEL, io.BytesIO(b"model"))
    assert bench.store.donefile("/absent") is None


@pytest.mark.parametrize(
    "stage",
    [
        {"WELCOME": SILENCE},
        {"PASS": SILENCE},
        {"SIZE": SILENCE},
        {"RETR": SILENCE},
        {"RETR": Transfer(BODY[:400], stalling=True, end="")},
        {"RETR": Transfer(BODY, stalling=True)},
    ],
    ids=["welcome", "login", "question", "transfer", "data", "end-of-data"],
)
def test_silent_server_is_unreachable(stage: Script) -> None:
    """A server that takes the connection and falls silent, wherever that is, is unreachable after the timeout."""
    with ScriptedFtp({**FILE, **stage}).running() as server, server.store(IMPATIENT) as store:
        store.resume_pauses = ()
        with pytest.raises(StoreUnreachable, match="timed out"):
            read(store, MODEL)


@pytest.mark.parametrize("stage", ["WELCOME", "PASS", "TYPE", "SIZE", "PASV", "RETR"])
def test_server_that_hangs_up_is_unreachable(stage: str) -> None:
    """A server that hangs up, wherever that is, is unreachable."""
    with (
        ScriptedFtp({**FILE, stage: HANG_UP}).running() as server,
        server.store() as store,
        fault(StoreUnreachable, f"opening {store.describe(MODEL)}", "hung up"),
    ):
        read(store, MODEL)


# replies


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ({"WELCOME": "421 too many connections"}, StoreUnreachable, "try again"),
        ({"WELCOME": "530 not from your address"}, Refused, "login"),
        ({"WELCOME": "HTTP/1.1 400 Bad Request"}, Refused, "host and port"),
        ({"USER": "530 encryption is required"}, Refused, "tls"),
        ({"USER": "550 encryption is required"}, Refused, "tls"),
        ({"PASS": "530 no"}, Refused, "password"),
        ({"PASS": "530 Sorry, the maximum number of clients (5) for this user"}, StoreUnreachable, "try again later"),
        ({"PASS": "332 and your account?"}, Refused, "login"),
        ({"SIZE": "421 going down"}, StoreUnreachable, "try again"),
        ({"SIZE": "530 log in first"}, Refused, "password"),
        ({"PASV": "425 no port is left"}, StoreUnreachable, "try again"),
        ({"PASV": "530 no"}, Refused, "password"),
        ({"PASV": "227 anywhere"}, Refused, "host and port"),
        ({"RETR": "425 no data connection"}, StoreUnreachable, "try again"),
        ({"RETR": "426 closed"}, StoreUnreachable, "try again"),
        ({"RETR": "450 busy", "NLST": Transfer(b"model.tar\r\n")}, StoreUnreachable, "try again"),
        ({"RETR": "450 busy", "NLST": Transfer(b"other\r\n")}, NotThereYet, "check the path"),
        ({"RETR": "451 disk fault"}, StoreUnreachable, "try again"),
        ({"RETR": "452 disk full"}, StoreUnreachable, "try again"),
        ({"RETR": "521 data must be protected"}, Refused, "tls"),
        ({"RETR": "522 data must be protected"}, Refused, "tls"),
        ({"RETR": "550 no", "NLST": Transfer(b"model.tar\r\n")}, Refused, "login may do"),
        ({"RETR": "550 no", "NLST": Transfer(b"other\r\n")}, NotThereYet, "check the path"),
        ({"RETR": "550 no", "NLST": "550 no files"}, NotThereYet, "check the path"),
        ({"RETR": "550 no", "NLST": "425 no data connection"}, StoreUnreachable, "try again"),
        ({"RETR": "550 no", "CWD": "250 ok"}, Refused, "folder"),
        ({"RETR": "553 no", "NLST": Transfer(b"model.tar\r\n")}, Refused, "login may do"),
        ({"RETR": "552 too large"}, Refused, "login may do"),
        ({"RETR": "999 what?"}, Refused, "host and port"),
    ],
)
def test_reply_is_told_apart(script: Script, kind: type[DeliveryError], words: str) -> None:
    """Every reply is of the class by which the caller waits, tries again or gives up, and the message says it."""
    script = {**FILE, f"CWD {MODEL}": "550 no folder", **script}
    if script.get("CWD") == "250 ok":
        script = {name: step for name, step in script.items() if not name.startswith("CWD ")}
    with (
        ScriptedFtp(script).running() as server,
        server.store() as store,
        fault(kind, f"opening {store.describe(MODEL)}", words),
    ):
        read(store, MODEL)


def test_reply_of_several_lines_is_told_in_one() -> None:
    """A reply of several lines makes a message of one."""
    welcome = "530-Not from here.\r\n Nor from there.\r\n530 Never."
    with (
        ScriptedFtp({"WELCOME": welcome}).running() as server,
        server.store() as store,
        fault(Refused, f"asking for {store.describe(MODEL)}", "530-Not from here. Nor from there. 530 Never."),
    ):
        store.stat(MODEL)


def test_folder_that_appears_between_two_questions_is_listed() -> None:
    """A folder that training makes just after the server said that there is none is listed."""
    script: Script = {
        "CWD /models/m": ["550 no folder", "250 ok"],
        "SIZE": "550 no such file",
        "MLSD": Transfer(b"type=file;size=1; weights\r\n"),
    }
    with ScriptedFtp(script).running() as server, server.store() as store:
        assert store.list("/models/m") == [Entry("weights", False)]


def test_closed_folder_is_no_absent_one(vsftpd: Vsftpd) -> None:
    """What lies in a folder that the login may not enter is refused, be it there or not, and the folder too."""
    bench = FtpBench(vsftpd.folder / "files", vsftpd.address)
    bench.put("/models/closed/model.tar", b"model")
    (bench.folder / "models" / "closed").chmod(0)
    for path in ("/models/closed/model.tar", "/models/closed/absent", "/models/closed/absent/model.tar"):
        with fault(Refused, f"asking for {bench.store.describe(path)}", "550"):
            bench.store.stat(path)
    with fault(Refused, f"listing {bench.store.describe('/models/closed')}", "550"):
        bench.store.list("/models/closed")
    with fault(Refused, f"removing {bench.store.describe('/models/closed/model.tar')}", "550"):
        bench.store.remove("/models/closed/model.tar")
    with fault(NotThereYet, f"asking for {bench.store.describe('/models/absent/model.tar')}"):
        bench.store.stat("/models/absent/model.tar")


@pytest.mark.parametrize(
    "absent_at_first", [{"SIZE": ["550 no such file", "213 1000"]}, {"RETR": ["550 no such file", Transfer(BODY)]}]
)
def test_file_that_appears_between_two_questions_is_there(absent_at_first: Script) -> None:
    """A file that training puts there just after the server said that there is none is not taken for a closed one."""
    script: Script = {
        **FILE,
        "RETR": Transfer(BODY),
        f"CWD {MODEL}": "550 no folder",
        "NLST": Transfer(b"model.tar\r\n"),
        **absent_at_first,
    }
    with ScriptedFtp(script).running() as server, server.store() as store:
        assert read(store, MODEL) == BODY


# facts


@pytest.mark.parametrize(
    ("told", "mtime_ns", "resolution_ns"),
    [
        ("20200913122640", LONG_AGO * SECOND_NS, SECOND_NS),
        ("20200913122640.000", LONG_AGO * SECOND_NS, SECOND_NS),
        ("20200913122640.25", LONG_AGO * SECOND_NS + 250_000_000, 10_000_000),
        ("20200913122640.3", LONG_AGO * SECOND_NS + 300_000_000, 100_000_000),
        ("20200913122640.123456", LONG_AGO * SECOND_NS + 123_456_000, 10_000_000),
        ("20200913122640.1234567891", LONG_AGO * SECOND_NS + 123_456_789, 10_000_000),
    ],
)
def test_time_is_as_exact_as_told(told: str, mtime_ns: int, resolution_ns: int) -> None:
    """A time has the fraction that the server tells, and the step in which it counts is honest."""
    with ScriptedFtp({"SIZE": "213 5", "MDTM": f"213 {told}"}).running() as server, server.store() as store:
        facts = store.stat(MODEL)
    assert (facts.size, facts.mtime_ns, facts.resolution_ns) == (5, mtime_ns, resolution_ns)
    machine = {"MLST": f"250-Here\r\n Type=file;Size=5;Modify={told}; {MODEL}\r\n250 End"}
    with ScriptedFtp(machine).running() as server, server.store() as store:
        assert store.stat(MODEL) == facts


@pytest.mark.parametrize("told", ["yesterday", "", "20201332000000", "2020091312264", "1920091312264000"])
def test_odd_time_tells_nothing(told: str) -> None:
    """A time that cannot be read counts as not told, and the listing is asked for it."""
    script: Script = {
        "SIZE": "213 5",
        "MDTM": f"213 {told}",
        "MLST": f"250-Here\r\n modify={told}; x\r\n250 End",
    }
    with ScriptedFtp(script).running() as server, server.store() as store:
        facts = store.stat(MODEL)
    assert (facts.size, facts.mtime_ns) == (5, None)


def test_binary_mode_comes_before_the_size(bench: FtpBench, server: PyFtpServer) -> None:
    """The size is asked for in binary mode, since servers tell another one, or none, in the mode that they begin in."""
    bench.put(MODEL, b"line\n" * 10)
    assert bench.store.stat(MODEL).size == 50
    asked = [line.partition(" ")[0] for line in server.commands]
    assert asked.index("TYPE") < asked.index("SIZE")


def listed_now(age: timedelta, zone: timedelta = timedelta()) -> bytes:
    """Write the line of an empty donefile of some age, as servers do that tell minutes of their own time zone."""
    moment = datetime.now(UTC) - age + zone
    return f"-rw-r--r-- 1 ftp ftp 0 {moment:%b %d %H:%M} donefile\r\n".encode()


@pytest.mark.parametrize("zone", [timedelta(), timedelta(hours=8), timedelta(hours=-9, minutes=-30)])
def test_minutes_settle_late(zone: timedelta) -> None:
    """Where only a listing tells times, a donefile is unsettled for its first minutes, whatever the server's zone."""
    for age, settled in ((timedelta(), False), (timedelta(minutes=1), False), (timedelta(minutes=5), True)):
        seen, minute = None, -1
        # not across the turn of a minute, which makes a file that is listed with the last one two minutes old
        while minute != time.time() // 60:
            minute = time.time() // 60
            with ScriptedFtp({"LIST": Transfer(listed_now(age, zone)), "RETR": Transfer()}).running() as server:
                seen = look(server.store())
        assert seen is not None
        assert seen.settled is settled
        assert seen.mtime_ns is not None
        assert seen.mtime_ns % (60 * SECOND_NS) == 0


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        (
            (
                "total 8\r\n"
                "drwxr-xr-x    2 102      105          4096 Nov 22 19:55 folder\r\n"
                "-rw-r--r--    1 102      105             5 Nov  2  2019 old name\r\n"
                "-rw-r--r--    1 102      105             5 Feb 29 19:55  space around \r\n"
                "-rw-r--r--+   1 Domain Users with space 123 Jan 01 9:05 acl\r\n"
                "crw-rw----    1 root     tty        4,  64 Nov 22 19:55 device\r\n"
            ),
            {"folder": True, "old name": False, " space around ": False, "acl": False, "device": False},
        ),
        (
            (
                "-rw-r--r--   1 owner    group     1803128 Jul 10 10:18 without links -> all the same\n"
                "-rw-r--r--   1  1803128 Jul 10 10:18 without owner\n"
                "lrwxrwxrwx   1 owner    group           8 Jul 10 10:18 a link -> releases\n"
            ),
            {"without links -> all the same": False, "without owner": False, "a link": True},
        ),
        (
            (
                "11-22-26  07:08PM       <DIR>          folder\r\n"
                "11-22-2026  19:08                 1024 with year\r\n"
                "02-29-24  12:00AM       <JUNCTION>     link\r\n"
                "02-29-24  12:00AM                    0  leading\r\n"
            ),
            {"folder": True, "with year": False, "link": True, " leading": False},
        ),
    ],
    ids=["unix", "unix-likes", "windows"],
)
def test_listing_is_read(listing: str, expected: dict[str, bool]) -> None:
    """Listings are read in the forms of Unix and of Windows."""
    with ScriptedFtp({"LIST": Transfer(listing.encode())}).running() as server, server.store() as store:
        assert store.list("/models") == [Entry(name, expected[name]) for name in sorted(expected)]


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("-rw-r--r-- 1 ftp ftp 7 Sep 13  2020 model.tar", datetime(2020, 9, 13, tzinfo=UTC)),
        ("09-13-20  12:26PM  7 model.tar", datetime(2020, 9, 13, 12, 26, tzinfo=UTC)),
        ("09-13-2020  12:26AM  7 model.tar", datetime(2020, 9, 13, 0, 26, tzinfo=UTC)),
        ("09-13-20  00:26  7 model.tar", datetime(2020, 9, 13, 0, 26, tzinfo=UTC)),
    ],
)
def test_listed_time_is_read(line: str, moment: datetime) -> None:
    """Size and time come out of a listing where nothing else tells them."""
    with ScriptedFtp({"LIST": Transfer(f"{line}\r\n".encode())}).running() as server, server.store() as store:
        facts = store.stat(MODEL)
    assert facts.size == 7
    assert facts.mtime_ns == int(moment.timestamp()) * SECOND_NS


@pytest.mark.parametrize(
    "line",
    [
        "something else",
        "-rw-r--r-- 1 ftp ftp 7 Foo 13  2020 model.tar",
        "-rw-r--r-- 1 ftp ftp 7 Feb 30 12:00 model.tar",
        "13-13-20  12:26PM  7 model.tar",
        "-rw-r--r-- 1 ftp ftp 7 Sep 13  2020 ",
    ],
)
def test_unknown_listing_is_refused(line: str) -> None:
    """A listing with a line of an unknown form is refused, rather than taken for one file less."""
    listing = f"-rw-r--r-- 1 ftp ftp 7 Sep 13  2020 other\r\n{line}\r\n"
    with (
        ScriptedFtp({"LIST": Transfer(listing.encode())}).running() as server,
        server.store() as store,
        fault(Refused, f"listing {store.describe('/models')}", repr(line), "MLSD"),
    ):
        store.list("/models")


def test_machine_listing_is_read() -> None:
    """A listing for machines is read, with the folder itself and the one above left out, and links followed."""
    listing = (
        "type=cdir;modify=20200913122640; /models\r\n"
        "type=pdir;modify=20200913122640; ..\r\n"
        "Type=DIR; folder\r\n"
        "size=5;type=file;modify=20200913122640;  space around \r\n"
        "type=OS.unix=slink:/elsewhere; link\r\n"
        " without facts\r\n"
    )
    script: Script = {"MLSD": Transfer(listing.encode()), "CWD /models/link": "550 no folder"}
    with ScriptedFtp(script).running() as server, server.store() as store:
        assert store.list("/models") == [
            Entry(" space around ", False),
            Entry("folder", True),
            Entry("link", False),
            Entry("without facts", True),
        ]


def test_links_are_followed(vsftpd: Vsftpd) -> None:
    """Symbolic links lead to their files and folders, in listings without a word of what is behind them too."""
    bench = FtpBench(vsftpd.folder / "files", vsftpd.address)
    bench.put("/releases/7/weights", b"seven")
    (bench.folder / "latest").symlink_to("releases/7")
    (bench.folder / "weights").symlink_to("releases/7/weights")
    assert bench.store.list("/") == [Entry("latest", True), Entry("releases", True), Entry("weights", False)]
    assert list(bench.store.walk("/latest")) == ["weights"]
    assert read(bench.store, "/weights") == read(bench.store, "/latest/weights") == b"seven"


def test_listing_that_ends_early_is_unreachable() -> None:
    """A listing that breaks off is never taken for whole."""
    line = b"-rw-r--r-- 1 ftp ftp 7 Sep 13  2020 model.tar\r\n"
    script: Script = {"LIST": Transfer(line, end="426 closed")}
    with (
        ScriptedFtp(script).running() as server,
        server.store() as store,
        fault(StoreUnreachable, f"listing {store.describe('/models')}", "426"),
    ):
        store.list("/models")


# names


@pytest.mark.parametrize("name", ["/a\r\nDELE b", "/a\nDELE b", "/a\rb"])
def test_line_break_in_a_name_is_refused(server: PyFtpServer, bench: FtpBench, name: str) -> None:
    """A name with a line break is refused, and nothing of it is sent: it would be a further command."""
    bench.put("/b", b"precious")
    with fault(Refused, "asking for ", "line break"):
        bench.store.stat(name)
    with fault(Refused, "uploading ", "line break"):
        bench.store.write(name, io.BytesIO(b"new"))
    assert bench.names("/") == ["b"]
    assert not [line for line in server.commands if "DELE" in line]


def test_utf8_is_asked_for() -> None:
    """A server is told that names are in UTF-8, unless the connection has another encoding; it need not know that."""
    for encoding, said in (("utf-8", ["OPTS UTF8 ON"]), ("UTF8", ["OPTS UTF8 ON"]), ("latin-1", [])):
        with ScriptedFtp({**FILE, "OPTS": "501 no"}).running() as server, server.store(encoding=encoding) as store:
            assert store.stat(MODEL).size == 1000
        assert server.said("OPTS") == said


def test_names_in_another_encoding(tmp_path: Path) -> None:
    """Names that are not in UTF-8 are read, listed and written in the encoding of the connection."""
    with PyFtpServer(tmp_path / "files", encoding="latin-1").running() as server:
        bench = FtpBench(server.folder, server.address, encoding="latin-1")
        bench.store.write("/café", io.BytesIO(b"1"))
        assert bench.store.list("/") == [Entry("café", False)]
        assert read(bench.store, "/café") == b"1"
        with fault(Refused, "asking for ", "encoding"):
            bench.store.stat("/模型")


def test_answer_in_another_encoding_is_refused() -> None:
    """A server that speaks in another encoding is refused, and the message names the setting."""
    with (
        ScriptedFtp({"WELCOME": "220 schöner Server"}, encoding="latin-1").running() as server,
        server.store() as store,
        fault(Refused, f"asking for {store.describe(MODEL)}", "encoding"),
    ):
        store.stat(MODEL)


def test_foreign_name_does_not_hide_the_others(bench: FtpBench) -> None:
    """A name that is none in the encoding of the connection is listed, but cannot be asked for."""
    bench.put("/models/weights", b"1")
    Path(os.fsdecode(os.fsencode(bench.folder) + b"/models/caf\xe9")).write_bytes(b"latin")
    listed = bench.store.list("/models")
    assert listed is not None
    assert len(listed) == 2
    assert Entry("weights", False) in listed


# transfers


@pytest.mark.parametrize("end", ["", "426 closed", "451 disk fault", "200 ok", "150 more to come"])
def test_end_without_its_reply_proves_nothing(end: str) -> None:
    """A data connection that just ends, be it after all bytes, is no whole file until the server says so."""
    transfers = [Transfer(BODY, end=end), Transfer(end=end)]
    with ScriptedFtp({**FILE, "RETR": transfers}).running() as server, server.store() as store:
        with fault(StoreUnreachable, f"reading {store.describe(MODEL)}"):
            read(store, MODEL)
        with pytest.raises(StoreUnreachable):
            store.donefile(MODEL)


def test_transfer_goes_on_behind_the_last_byte() -> None:
    """After a break the server is asked for the rest, and only for that."""
    broken = Transfer(BODY[:400], end="426 closed")
    script: Script = {**FILE, "RETR": [broken, Transfer(BODY[400:])]}
    with ScriptedFtp(script).running() as server, server.store() as store:
        assert read(store, MODEL) == BODY
    assert server.said("REST", "RETR") == [f"RETR {MODEL}", "REST 400", f"RETR {MODEL}"]


def test_transfer_begins_anew_where_it_must() -> None:
    """A server that cannot begin in the middle sends the file anew, and is not asked for more again."""
    broken = Transfer(BODY[:400], end="426 closed")
    script: Script = {**FILE, "REST": "502 no", "RETR": [broken, Transfer(BODY), broken, Transfer(BODY)]}
    with ScriptedFtp(script).running() as server, server.store() as store:
        assert read(store, MODEL) == read(store, MODEL) == BODY
    assert server.said("REST") == ["REST 400"]


@pytest.mark.parametrize(
    "changed", [{"SIZE": ["213 1000", "213 1001"]}, {"MDTM": ["213 20200913122640", "213 20200913122641"]}]
)
def test_file_that_changes_on_its_way_is_unreachable(changed: Script) -> None:
    """A file whose facts are not the same behind the transfer as before it may be of two halves, and is not taken."""
    with (
        ScriptedFtp({**FILE, "RETR": Transfer(BODY), **changed}).running() as server,
        server.store() as store,
        fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "changed"),
    ):
        read(store, MODEL)


def test_file_that_vanishes_on_its_way_is_not_there_yet() -> None:
    """A file that is removed while it comes is absent, as it is before training puts the next one."""
    script: Script = {
        **FILE,
        "SIZE": ["213 1000", "550 no such file"],
        "RETR": Transfer(BODY),
        f"CWD {DONEFILE}": "550 no folder",
        "NLST": Transfer(),
    }
    with ScriptedFtp(script).running() as server, server.store() as store:
        assert store.donefile(DONEFILE) is None


@pytest.mark.parametrize(
    ("stor", "size", "kind", "words"),
    [
        (Transfer(takes=None), "213 999", StoreUnreachable, "999 of 1000"),
        (Transfer(takes=None, end=""), "213 1000", StoreUnreachable, "hung up"),
        (Transfer(takes=None, end="200 ok"), "213 1000", StoreUnreachable, "226"),
        (Transfer(takes=None, end="426 closed"), "213 1000", StoreUnreachable, "426"),
        (Transfer(takes=None, end="452 disk full"), "213 1000", StoreUnreachable, "452"),
        (Transfer(takes=None, end="552 quota"), "213 1000", Refused, "552"),
        ("553 may not", "213 1000", Refused, "553"),
    ],
)
def test_upload_is_whole_only_when_proven(stor: Step, size: str, kind: type[DeliveryError], words: str) -> None:
    """An upload counts when the server says that it has all, and as many bytes as were sent; else it is removed."""
    script: Script = {"STOR": stor, "SIZE": size, "DELE": "250 gone", "RNFR": "350 ok", "RNTO": "250 ok"}
    with ScriptedFtp(script).running() as server, server.store() as store:
        with fault(kind, f"uploading {store.describe(MODEL)}", words):
            store.write(MODEL, io.BytesIO(BODY))
        [(_, temporary)] = [line.split(" ") for line in server.said("STOR")]
        assert server.said("RNFR", "RNTO", "DELE") == [f"DELE {temporary}"]


@pytest.mark.parametrize("end", ["552 quota", "452 disk full", ""])
def test_upload_that_is_stopped_says_why(end: str) -> None:
    """An upload that the server stops in the middle is told by the reason that the server gives, if it gives one."""
    script: Script = {"STOR": Transfer(takes=10, end=end), "DELE": "250 gone"}
    kind = Refused if end.startswith("5") else StoreUnreachable
    with (
        ScriptedFtp(script).running() as server,
        server.store() as store,
        fault(kind, f"uploading {store.describe(MODEL)}", end),
    ):
        store.write(MODEL, io.BytesIO(bytes(64 * CHUNK)))


def test_refused_rename_removes_nothing() -> None:
    """Where the login may not rename, the model that is there stays, and the message says so."""
    script: Script = {"STOR": Transfer(takes=None), "SIZE": "213 1000", "RNFR": "550 may not", "DELE": "250 gone"}
    with ScriptedFtp(script).running() as server, server.store() as store:
        with fault(Refused, f"uploading {store.describe(MODEL)}", "550 may not", "login may do"):
            store.write(MODEL, io.BytesIO(BODY))
        assert f"DELE {MODEL}" not in server.commands


# TLS


@pytest.fixture
def secure(tmp_path: Path, authority: Authority) -> Iterator[PyFtpServer]:
    """Start a pyftpdlib that takes nothing but TLS."""
    with PyFtpServer(tmp_path / "files", **tls_handler(authority, tmp_path)).running() as server:
        yield server


def test_unknown_authority_is_refused(secure: PyFtpServer, tmp_path: Path) -> None:
    """A certificate by an authority that the client does not know is refused, before the password is sent."""
    (tmp_path / "other").mkdir()
    bench = FtpBench(secure.folder, secure.address, authority=Authority(tmp_path / "other"))
    with fault(Refused, f"asking for {bench.store.describe(MODEL)}", "certificate verify failed", "verify"):
        bench.store.stat(MODEL)
    assert not [line for line in secure.commands if line.startswith("PASS")]


def test_certificate_of_another_host_is_refused(secure: PyFtpServer, authority: Authority) -> None:
    """A certificate that is not the host's is refused, whoever signed it."""
    bench = FtpBench(secure.folder, secure.address, authority=authority)
    with (
        bench.connect(Address("localhost", secure.address.port)) as store,
        fault(Refused, f"asking for {store.describe(MODEL)}", "localhost", "certificate"),
    ):
        store.stat(MODEL)


def test_server_that_wants_tls_refuses_plain_text(secure: PyFtpServer) -> None:
    """Plain text to a server that wants TLS is refused, and the message names the setting."""
    bench = FtpBench(secure.folder, secure.address)
    with fault(Refused, f"asking for {bench.store.describe(MODEL)}", "tls in its extra"):
        bench.store.stat(MODEL)


def test_server_without_tls_is_refused(server: PyFtpServer, authority: Authority) -> None:
    """TLS with a server that has none is refused, and no password is sent in plain text."""
    bench = FtpBench(server.folder, server.address, authority=authority)
    with fault(Refused, f"asking for {bench.store.describe(MODEL)}", "500", "tls"):
        bench.store.stat(MODEL)
    assert not [line for line in server.commands if line.startswith(("USER", "PASS"))]


def test_every_data_connection_is_protected(secure: PyFtpServer, authority: Authority) -> None:
    """Uploads, files and listings pass only through TLS."""
    bench = FtpBench(secure.folder, secure.address, authority=authority)
    bench.store.write(MODEL, io.BytesIO(BODY))
    assert read(bench.store, MODEL) == BODY
    assert bench.store.list("/models") == [Entry("model.tar", False)]
    assert "PROT P" in secure.commands
    assert not [line for line in secure.commands if line.startswith("PROT") and line != "PROT P"]
