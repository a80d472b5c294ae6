"""What a Paddle server's log and a probe tell about a reload."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_serving_reload.delivery.errors import Refused, ReloadRefused
from airflow_serving_reload.delivery.servers import base
from airflow_serving_reload.delivery.servers.base import Expected, Look, State
from airflow_serving_reload.delivery.servers.paddle import PaddleServer

SECOND_NS = 1_000_000_000
EXPECTED = Expected("20260101-v2", 1_700_000_000 * SECOND_NS + 5)

# The words, and the order, of core/predictor/framework/{server,infer,manager,resource}.{h,cpp} of Paddle Serving 0.9.
PASS = "I server.cpp:155] Begin reload framework..."
BEGIN = "W infer.cpp:134] begin reload model[./uci_housing_model]."
SUCCESS = "W infer.h:239] Succ load engine, path: ./uci_housing_model"
VERSION = "W infer.cpp:286] Succ reload version engine: 18446744073709551615"
FINISH = "I manager.h:131] Finish reload 1 workflow(s)"
IDLE = [PASS, VERSION, FINISH]
LOADING = [
    "W infer.h:263] Loading EngineCore[1] ...",
    "I analysis_predictor.cc:888] TensorRT subgraph engine is not enabled",
    "W infer.h:270] Loading EngineCore[1] done.",
    "W infer.h:281] Loading cube cache[1] ...",
    "E infer.h:288] model_path ./uci_housing_model is not exits. Ignore cube cache!",
    "W infer.h:295] Reload model and cube cache done. switching to current_idx[1]",
]
FAILURE = [
    "E infer.h:266] Failed create model, path: ./uci_housing_model",
    "E infer.h:234] Failed reload engine model: 0",
    "E infer.cpp:283] Failed reload version engine: 18446744073709551615",
    "E infer.cpp:458] Failed reload engine, name: general_infer_0",
    "E resource.cpp:333] Failed reload infer manager",
    "E server.cpp:157] Failed reload resource!",
]

# The words of Paddle Serving 0.2, as its document on hot reloads quotes them.
OLDER = """\
I0330 09:38:50.087535  7361 server.cpp:150] Begin reload framework...
W0330 09:38:50.087641  7361 infer.h:250] begin reload model[uci_housing_model].
I0330 09:38:50.087972  7361 infer.h:66] InferEngineCreationParams: model_path = uci_housing_model
I0330 09:38:50.088393  7361 analysis_predictor.cc:841] MODEL VERSION: 1.7.1
I0330 09:38:50.090925  7361 analysis_predictor.cc:470] ======= optimize end =======
W0330 09:38:50.090986  7361 infer.h:472] Succ load common model[0x7fc83c06abd0], path[uci_housing_model].
W0330 09:38:50.091050  7361 infer.h:509] td_core[0x7fc83c0ad770] clone model from pd_core[0x7fc83c06abd0] succ
"""
OLDER_CLONE = "W0330 09:38:50.091784  7361 infer.h:489] Succ load clone model, path[uci_housing_model]\n"
OLDER_END = """\
W0330 09:38:50.091794  7361 infer.h:656] Succ reload version engine: 18446744073709551615
I0330 09:38:50.091820  7361 manager.h:131] Finish reload 1 workflow(s)
"""


def glog(*lines: str, at: datetime | None = None) -> str:
    """Write lines as glog does: severity, time, thread, place and message."""
    moment = at or datetime.now().astimezone()
    parts = (line.split(" ", 1) for line in lines)
    return "".join(f"{severity}{moment:%m%d %H:%M:%S.%f}  7361 {text}\n" for severity, text in parts)


class Log:
    """The log of a server, and a server described by it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = PaddleServer(log_path=str(path), reload_interval=0, load_timeout=0)

    def add(self, *lines: str, at: datetime | None = None) -> None:
        """Write lines at its end."""
        self.add_text(glog(*lines, at=at))

    def add_text(self, text: str) -> None:
        """Write text at its end."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def look(self, mark: dict[str, Any] | None = None) -> Look:
        """Look at what it says since a mark."""
        return self.server.look(EXPECTED, mark or {})


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Give a log that tells of a start, a reload long ago and an idle pass."""
    log = Log(tmp_path / "serving.INFO")
    log.add_text("Log file created at: 2026/01/01 00:00:00\nRunning on machine: host\n")
    log.add("W infer.cpp:43] Succ load model:./uci_housing_model", PASS, BEGIN, *LOADING, SUCCESS, VERSION, FINISH)
    log.add(*IDLE)
    return log


def test_a_reload_as_it_goes(log: Log) -> None:
    """Waiting, loading and serving are told apart, line by line, and nothing before the mark counts."""
    mark = log.server.mark()
    told = []
    for line in [*IDLE, PASS, BEGIN, *LOADING, SUCCESS, VERSION, FINISH, *IDLE]:
        log.add(line)
        told.append(log.look(mark).state)
    assert told == [State.WAITING] * 4 + [State.LOADING] * 9 + [State.SERVED] * 4
    assert log.look(mark).evidence.endswith("infer.h:239] Succ load engine, path: ./uci_housing_model")


def test_a_load_that_fails(log: Log) -> None:
    """A failure is told at its first line, in the server's own words, and what the next passes say changes nothing."""
    mark = log.server.mark()
    log.add(PASS, BEGIN, LOADING[0], FAILURE[0])
    look = log.look(mark)
    assert look.state is State.REFUSED
    assert look.evidence.endswith("Failed create model, path: ./uci_housing_model")
    log.add(*FAILURE[1:], FINISH, *IDLE, *IDLE)
    assert log.look(mark) == look


@pytest.mark.parametrize(
    "line",
    [
        *FAILURE,
        "E infer.h:469] Failed clone model from core",
        "E infer.h:338] Failed clone model from pd_core[ 0x7fc83c06abd0], idx[1]",
        "E infer.h:303] Failed to create common model from [./uci_housing_model].",
    ],
    ids=lambda line: line.split("] ")[1],
)
def test_each_word_for_failure(line: str, log: Log) -> None:
    """Each line by which any release of the server tells of a failed load is one, behind its beginning alone."""
    mark = log.server.mark()
    log.add(PASS, line)
    assert log.look(mark).state is State.WAITING
    log.add(BEGIN, line)
    assert log.look(mark).state is State.REFUSED


def test_a_second_touch_after_a_failure(log: Log) -> None:
    """A mark set behind a failure sees the load that follows alone."""
    log.add(PASS, BEGIN, *FAILURE, FINISH)
    mark = log.server.mark()
    assert log.look(mark) == Look(State.WAITING)
    log.add(PASS, BEGIN, *LOADING, SUCCESS, VERSION, FINISH)
    assert log.look(mark).state is State.SERVED


def test_the_older_words(log: Log) -> None:
    """The success of older releases is known: the common model alone, or with its clones behind it."""
    mark = log.server.mark()
    log.add_text(OLDER)
    assert log.look(mark).state is State.LOADING
    log.add_text(OLDER_CLONE)
    assert log.look(mark).state is State.LOADING
    log.add_text(OLDER_END)
    assert log.look(mark).state is State.SERVED
    mark = log.server.mark()
    log.add_text(OLDER + OLDER_END)
    look = log.look(mark)
    assert look.state is State.SERVED
    assert "Succ load common model" in look.evidence


def test_older_clones_that_fail(log: Log) -> None:
    """A common model that was loaded is no success while its clones fail."""
    mark = log.server.mark()
    log.add_text(OLDER + glog("E infer.h:484] Failed reload engine model: 0") + OLDER_END)
    assert log.look(mark).state is State.REFUSED


OTHER_BEGIN = "W infer.cpp:134] begin reload model[/srv/other_model]."
OTHER_SUCCESS = "W infer.h:239] Succ load engine, path: /srv/other_model"
OTHER_FAILURE = "E infer.h:266] Failed create model, path: /srv/other_model"


@pytest.fixture
def ours(log: Log) -> Log:
    """Give a log that several models share, one of which is ours."""
    log.server.model_name = "some/where/uci_housing_model"
    return log


def test_another_model_is_not_ours(ours: Log) -> None:
    """What the log says of another model proves nothing, neither success nor failure."""
    mark = ours.server.mark()
    ours.add(PASS, OTHER_BEGIN, *LOADING, OTHER_SUCCESS, VERSION, FINISH)
    ours.add(PASS, OTHER_BEGIN, OTHER_FAILURE, *FAILURE[1:], FINISH)
    assert ours.look(mark).state is State.WAITING


@pytest.mark.parametrize("outcome", [OTHER_SUCCESS, OTHER_FAILURE])
@pytest.mark.parametrize("ours_first", [True, False])
def test_two_models_in_one_pass(outcome: str, ours_first: bool, ours: Log) -> None:
    """Our model is served whatever comes of another one in the same pass, before or after it."""
    mark = ours.server.mark()
    passes = [[OTHER_BEGIN, *LOADING, outcome], [BEGIN, *LOADING, SUCCESS]]
    for lines in reversed(passes) if ours_first else passes:
        ours.add(*lines)
    ours.add(VERSION, FINISH)
    assert ours.look(mark).state is State.SERVED


def test_our_failure_beside_a_success(ours: Log) -> None:
    """Our model has failed, though another one was loaded before it in the same pass."""
    mark = ours.server.mark()
    ours.add(PASS, OTHER_BEGIN, *LOADING, OTHER_SUCCESS, BEGIN, FAILURE[0])
    assert ours.look(mark).state is State.REFUSED


def test_a_load_without_an_outcome(log: Log) -> None:
    """A pass that ends without a word of success or failure proves nothing."""
    mark = log.server.mark()
    log.add(PASS, BEGIN, VERSION, FINISH)
    assert log.look(mark).state is State.WAITING


def test_a_line_that_is_half_written(log: Log) -> None:
    """A line counts once it is whole."""
    mark = log.server.mark()
    log.add(PASS, BEGIN, SUCCESS)
    half = glog(FINISH)
    log.add_text(half[:-1])
    assert log.look(mark).state is State.LOADING
    log.add_text(half[-1:])
    assert log.look(mark).state is State.SERVED


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    """A server that has no log yet is waited for, and its first lines count from the first one on."""
    log = Log(tmp_path / "serving.INFO")
    marks = [log.server.mark(), log.server.mark_since(time.time())]
    assert log.look() == Look(State.WAITING)
    log.add(PASS, BEGIN, SUCCESS, FINISH)
    assert [log.look(mark).state for mark in marks] == [State.SERVED] * 2


def test_what_was_read_is_not_read_again(log: Log) -> None:
    """However much a server logs while it loads, a look reads what was written since the last one."""
    mark = log.server.mark()
    log.add(PASS, BEGIN)
    assert log.look(mark).state is State.LOADING
    with log.path.open("r+b") as file:
        file.write(b"x" * log.path.stat().st_size)
    log.add(SUCCESS)
    assert log.look(mark).state is State.LOADING
    log.add(FINISH)
    assert log.look(mark).state is State.SERVED


@pytest.mark.parametrize("looked", [False, True], ids=["at once", "while loading"])
@pytest.mark.parametrize("how", ["replaced", "truncated"])
def test_a_log_begun_anew(how: str, looked: bool, log: Log) -> None:
    """A log that was rotated or truncated since the mark, or since the last look, is read from its beginning."""
    mark = log.server.mark()
    if looked:
        log.add(PASS, BEGIN)
        assert log.look(mark).state is State.LOADING
    if how == "replaced":
        log.path.rename(log.path.with_suffix(".1"))
    else:
        os.truncate(log.path, 0)
    assert log.look(mark).state is State.WAITING
    log.add(PASS, BEGIN, SUCCESS, FINISH)
    assert log.look(mark).state is State.SERVED


def test_bytes_that_are_no_text(log: Log) -> None:
    """Bytes of another encoding in the log are passed over."""
    mark = log.server.mark()
    with log.path.open("ab") as file:
        file.write(b"\xff\xfe\x80\r\n\n")
    log.add(PASS, BEGIN, SUCCESS, FINISH)
    assert log.look(mark).state is State.SERVED


@pytest.mark.parametrize(
    "use",
    [
        lambda server: server.mark(),
        lambda server: server.mark_since(0),
        lambda server: server.look(EXPECTED, {}),
    ],
    ids=["mark", "mark of a moment", "look"],
)
@pytest.mark.parametrize(
    ("name", "complaint"),
    [("", "Is a directory"), ("file/serving.INFO", "Not a directory"), ("x" * 300, "File name too long")],
    ids=["folder", "below a file", "long"],
)
def test_a_log_that_cannot_be_read(
    name: str, complaint: str, use: Callable[[PaddleServer], object], tmp_path: Path
) -> None:
    """A log path that is a folder, or not to be read, is refused by name, already before anything is published."""
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(Refused, match=f"reading the log {path}: {complaint}; .*log_path"):
        use(PaddleServer(log_path=str(path)))


NOW = datetime.now().astimezone()


def _minutes_ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def test_the_mark_of_a_moment(log: Log) -> None:
    """The mark of a moment lies before the first line written at or after it, and behind all lines before it."""
    log.path.unlink()
    log.add(PASS, BEGIN, *LOADING, SUCCESS, FINISH, at=_minutes_ago(30))
    between = log.path.stat().st_size
    log.add_text("a line without a time\n")
    second = log.path.stat().st_size
    log.add(PASS, BEGIN, *LOADING, *FAILURE, FINISH, at=_minutes_ago(20))
    log.add_text("another one\n")
    end = log.path.stat().st_size
    offsets = [log.server.mark_since(_minutes_ago(ago).timestamp())["offset"] for ago in (40, 30, 25, 20, 10)]
    assert offsets == [0, 0, second, second, end]
    assert between < second
    states = [log.look(log.server.mark_since(_minutes_ago(ago).timestamp())).state for ago in (30, 25, 10)]
    assert states == [State.SERVED, State.REFUSED, State.WAITING]


def test_the_mark_of_a_moment_in_a_long_log(tmp_path: Path) -> None:
    """Wherever the moment lies in a log of many blocks, its line is found."""
    log = Log(tmp_path / "serving.INFO")
    chance = random.Random(0)
    lines = []
    for number in range(3000):
        moment = _minutes_ago(3000 - number)
        text = f"I some.cpp:{number}] " + "x" * chance.choice([0, 10, 100, 5000 if number % 100 == 0 else 1])
        lines.append((moment.timestamp(), glog(text, at=moment)))
    log.add_text("".join(line for _, line in lines))
    offset = 0
    offsets = {}
    for seconds, line in lines:
        offsets[seconds] = offset
        offset += len(line)
    for seconds in [*list(offsets)[::97], lines[-1][0]]:
        assert log.server.mark_since(seconds)["offset"] == offsets[seconds]
    assert log.server.mark_since(lines[-1][0] + 1)["offset"] == offset


def test_the_mark_of_a_moment_reads_the_end_alone(tmp_path: Path) -> None:
    """To find a moment that is not long past, no more of a huge log is read than its end."""
    log = Log(tmp_path / "serving.INFO")
    with log.path.open("wb") as file:
        file.truncate(1 << 40)  # a tebibyte of nothing, which nobody could read
    log.add_text("\n")
    log.add(*IDLE * 1000, at=_minutes_ago(5))
    offset = log.path.stat().st_size
    log.add(PASS, BEGIN, SUCCESS, FINISH, at=_minutes_ago(1))
    assert log.server.mark_since(_minutes_ago(2).timestamp())["offset"] == offset


def test_lines_of_last_year(log: Log) -> None:
    """Lines bear no year: one that would lie ahead, or that this year has no day for, is an older one."""
    log.path.unlink()
    log.add_text("I0229 12:00:00.000000  7361 server.cpp:155] a leap day\n")
    log.add_text("I1399 99:99:99.000000  7361 server.cpp:155] no day at all\n")
    log.add(PASS, at=NOW + timedelta(days=40))
    offset = log.path.stat().st_size
    log.add(PASS, BEGIN, SUCCESS, FINISH, at=NOW)
    assert log.server.mark_since(_minutes_ago(1).timestamp())["offset"] == offset


class Probed:
    """What a probe is to be answered, and how often it came."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes = b"ok"
        self.url = ""


@pytest.fixture
def probed() -> Iterator[Probed]:
    """Run a small HTTP server on a free port of this host."""
    probed = Probed()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(probed.status)
            self.send_header("Content-Length", str(len(probed.body)))
            self.end_headers()
            self.wfile.write(probed.body)

        def log_message(self, *_arguments: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        probed.url = f"http://127.0.0.1:{server.server_port}/status"
        yield probed
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"release": "20260101-v2"}, State.SERVED),
        ({"timestamp": 1_700_000_000}, State.SERVED),
        ({"release": "20260101-v2", "timestamp": 1_700_000_000, "more": [1]}, State.SERVED),
        ({"release": "20260101-v1"}, State.WAITING),
        ({"timestamp": 1_700_000_001}, State.WAITING),
        ({"release": "20260101-v1", "timestamp": 1_700_000_000}, State.WAITING),
        ({"release": "20260101-v2", "timestamp": 1_699_999_999}, State.WAITING),
        ({"release": None}, State.WAITING),
    ],
)
def test_a_probe_that_says_what_it_serves(answer: dict[str, Any], state: State, probed: Probed) -> None:
    """A probe alone proves the release whose name, or whose timestamp, it answers with, and no other."""
    probed.body = json.dumps(answer).encode()
    look = PaddleServer(probe_url=probed.url).look(EXPECTED, {})
    assert look.state is state
    assert probed.body.decode() in look.evidence


@pytest.mark.parametrize("body", [b"ok", b"[1]", b'{"status": "ready"}', b""])
def test_a_probe_that_says_nothing(body: bytes, probed: Probed, log: Log) -> None:
    """A probe without evidence is refused where it is all there is; behind a log that says yes it is enough."""
    probed.body = body
    with pytest.raises(Refused, match="has neither 'release' nor 'timestamp'; give log_path too"):
        PaddleServer(probe_url=probed.url).look(EXPECTED, {})
    log.server.probe_url = probed.url
    mark = log.server.mark()
    assert log.look(mark).state is State.WAITING
    log.add(PASS, BEGIN, SUCCESS, FINISH)
    look = log.look(mark)
    assert look.state is State.SERVED
    assert "Succ load engine" in look.evidence
    assert "the probe answered" in look.evidence


def test_a_probe_contradicts_the_log(probed: Probed, log: Log) -> None:
    """A log that says yes is not enough where the probe names another release, or does not answer."""
    log.server.probe_url = probed.url
    log.add(PASS, BEGIN, SUCCESS, FINISH)
    probed.body = b'{"release": "20260101-v1"}'
    assert log.look().state is State.WAITING
    probed.status, probed.body = 503, b'{"release": "20260101-v2"}'
    look = log.look()
    assert (look.state, "the probe answered 503" in look.evidence) == (State.WAITING, True)
    probed.status = 200
    assert log.look().state is State.SERVED


def test_a_probe_without_an_answer(tmp_path: Path) -> None:
    """A server that does not answer is waited for, and the evidence says why; what is secret in the address is not."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    described = PaddleServer(probe_url=f"http://user:p@secret@127.0.0.1:{port}/status?token=secret")
    look = described.look(EXPECTED, {})
    assert look.state is State.WAITING
    assert f"asking the probe_url (http://127.0.0.1:{port}/status): the server cannot be reached" in look.evidence
    assert "secret" not in f"{described} {look}"
    assert str(described) == f"the Paddle server (http://127.0.0.1:{port}/status)"


@pytest.mark.parametrize(
    "url", ["htp://user:secret@host", "http://user:secret@[bad/", "http://user:secret?@host/", "user:secret@host"]
)
def test_a_probe_with_no_address(url: str, log: Log) -> None:
    """An address that no request can be made to is refused at once, without what may be secret in it."""
    log.server.probe_url = url
    mark = log.server.mark()
    log.add(PASS, BEGIN, SUCCESS, FINISH)
    with pytest.raises(Refused, match=r"asking the probe_url .*: the address cannot be used") as refusal:
        log.look(mark)
    assert "secret" not in f"{refusal.value} {log.server}"


def test_confirming(log: Log, probed: Probed) -> None:
    """Confirming waits until log and probe agree, and gives their evidence."""
    log.server = PaddleServer(log_path=str(log.path), probe_url=probed.url, model_name="uci_housing_model")
    probed.status = 503
    mark = log.server.mark()

    def reload() -> None:
        log.add(PASS, BEGIN, *LOADING, SUCCESS, FINISH)
        probed.body, probed.status = b'{"timestamp": 1700000000}', 200

    timer = threading.Timer(0.05, reload)
    timer.start()
    evidence = log.server.confirm(EXPECTED, mark, pause=0.01)
    timer.join()
    assert evidence.endswith(
        'Succ load engine, path: ./uci_housing_model; the probe answered {"timestamp": 1700000000}'
    )


def test_confirming_a_failure(log: Log) -> None:
    """A failed load ends the waiting at once, with the release and the server's own words."""
    mark = log.server.mark()
    log.add(PASS, BEGIN, *FAILURE)
    with pytest.raises(
        ReloadRefused, match=r"failed to load the release 20260101-v2: .*Failed create model, path: \./u"
    ):
        log.server.confirm(EXPECTED, mark)


@pytest.mark.parametrize("lines", [[], [PASS, BEGIN]], ids=["idle", "loading"])
def test_confirming_what_never_comes(lines: list[str], log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing, or never ends loading, counts as having refused once its time is over."""
    monkeypatch.setattr(PaddleServer, "patience", lambda _server, _state: 0.0)
    mark = log.server.mark()
    log.add(*lines)
    with pytest.raises(
        ReloadRefused, match=r"does not serve the release 20260101-v2: for 0 s it .*; see whether it runs"
    ):
        log.server.confirm(EXPECTED, mark)


def test_confirming_what_goes_back_and_forth(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that begins anew all the time has no more time for it than one that does not."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    states = [State.WAITING, State.LOADING] * 100
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(PaddleServer, "look", lambda *_: Look(states.pop()))
    monkeypatch.setattr(PaddleServer, "patience", lambda _server, state: 7 if state is State.LOADING else 30)
    with pytest.raises(ReloadRefused, match="for 7 s it is loading it"):
        log.server.confirm(EXPECTED, {}, pause=1)
    assert 7 < now <= 7 + 30


def test_patience() -> None:
    """A server has two intervals and a margin to notice, and its own time to load."""
    with_log = PaddleServer(log_path="log", reload_interval=7, load_timeout=99)
    assert (with_log.patience(State.WAITING), with_log.patience(State.LOADING)) == (24, 99)
    assert PaddleServer(probe_url="http://x", load_timeout=99).patience(State.WAITING) == 99


def test_describing_nothing() -> None:
    """A server without log and probe is refused when it is described."""
    with pytest.raises(Refused, match="without log_path and probe_url"):
        PaddleServer()


def test_asking_is_left_to_the_timestamp_file(log: Log) -> None:
    """Asking does nothing to the server, which looks at the timestamp file by itself."""
    before = log.path.read_bytes()
    assert log.server.ask({"offset": 1}) == {"offset": 1}
    assert log.path.read_bytes() == before
