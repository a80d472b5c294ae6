"""What servers of the Open Inference Protocol may answer, and what is taken for a proof."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_serving_reload.delivery.errors import Refused, ReloadRefused, ReloadUnanswered
from airflow_serving_reload.delivery.servers.base import Expected, HttpClient, Look, ModelServer, State
from airflow_serving_reload.delivery.servers.open_inference import OpenInferenceServer
from tests.contract.answers import Answers, answer

from .mlserver import QUESTION, session_to

EXPECTED = Expected("20260101-v2", None, "2")
LOADED = {"loaded": "told to load it, it answered 200"}


def says(value: Any, status: str = "200 OK") -> bytes:
    """Compose an answer in JSON."""
    body = json.dumps(value).encode()
    return answer(status, "Content-Type: application/json", f"Content-Length: {len(body)}", body=body)


def says_text(status: str, kind: str, text: str) -> bytes:
    """Compose an answer of text."""
    return answer(status, f"Content-Type: {kind}", f"Content-Length: {len(text)}", body=text.encode())


OK = answer("200 OK", "Content-Length: 0")


@contextmanager
def answering(*answers: bytes, stalling: bool = False, **description: Any) -> Iterator[tuple[ModelServer, Answers]]:
    """Give a server that answers in this order, and what it was asked."""

    @contextmanager
    def connect(_conn_id: str) -> Iterator[HttpClient]:
        with session_to("http://{}:{}".format(*scripted.address)) as client:
            yield client

    description = {"http_conn_id": "c", "model_name": "m", "ready_timeout": 0, **description}
    with (
        Answers(answers, stalling=stalling).running() as scripted,
        OpenInferenceServer(**description).open(connect) as server,
    ):
        yield server, scripted


def look(
    *answers: bytes, mark: dict[str, Any] | None = None, expected: Expected = EXPECTED, **description: Any
) -> Look:
    """Look once at a server that answers so."""
    with answering(*answers, **description) as (server, _):
        return server.look(expected, LOADED if mark is None else mark)


def test_how_it_is_told() -> None:
    """The order is one POST of the repository extension, with the name of the model as one part of the path."""
    with answering(OK, model_name="a/b c") as (server, scripted):
        assert server.ask(server.mark()) == LOADED
    assert [head.splitlines()[0] for head in scripted.asked] == ["POST /v2/repository/models/a%2Fb%20c/load HTTP/1.1"]


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (
            says({"error": "load failed for model 'm':\n\nAt:\n  model.py(6)\n"}, "400 Bad Request"),
            "400 load failed .*:",
        ),
        (says({"error": "x" * 1000}, "500 Internal Server Error"), "500 x{200,300};"),
        (
            says({"error": "failed to poll from model repository"}, "404 Not Found"),
            "404 failed to poll .*check model_n",
        ),
        (says({}, "404 Not Found"), "404 .*check model_name"),
        (says([], "422 Unprocessable"), r"422 \[\]; see its log"),
        (says_text("500 Oops", "text/html", "<html>"), "500 Oops; see its log"),
        (says_text("500 Oops", "application/json", "{"), "500 {; see its log"),
        (
            says_text("500 Oops", "text/plain; charset=utf-8", "Trace\n at\nValueError: why\n"),
            "500 ValueError: why; see",
        ),
        (answer("501 Not Implemented"), "501 Not Implemented; let the server take orders"),
        (answer("405 Method Not Allowed"), "let the server take orders"),
    ],
)
def test_an_order_that_is_refused(answered: bytes, words: str) -> None:
    """A refusal is told at once and in the server's own words, on one line and bounded."""
    with answering(answered) as (server, scripted), pytest.raises(ReloadRefused, match=words) as refusal:
        server.ask({})
    assert len(scripted.asked) == 1
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "407 Proxy Authentication Required"])
def test_a_login_that_is_refused(status: str) -> None:
    """Whoever may not order may not order the next time either, whatever is asked."""
    with answering(answer(status)) as (server, _):
        with pytest.raises(Refused, match=f"{status}; check the connection's login"):
            server.ask({})
        with pytest.raises(Refused, match=f"{status}; check the connection's login"):
            server.look(EXPECTED, LOADED)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect(status: str) -> None:
    """An order is not sent on: redirected, it would end as a mere question."""
    with (
        answering(answer(status, "Location: /elsewhere")) as (server, scripted),
        pytest.raises(Refused, match="give the connection the address that it redirects to"),
    ):
        server.ask({})
    assert len(scripted.asked) == 1


@pytest.mark.parametrize(
    "busy",
    [
        b"",
        b"nonsense",
        answer("503 Service Unavailable"),
        answer("502 Bad Gateway"),
        answer("504 Gateway Timeout"),
        answer("507 Insufficient Storage"),
        answer("522 Connection Timed Out"),
        answer("429 Too Many Requests"),
    ],
)
def test_a_server_that_is_not_up_yet(busy: bytes) -> None:
    """A server that is not up is told again until it is, and given up after its time."""
    with answering(busy, busy, OK, ready_timeout=30) as (server, scripted):
        assert server.ask({}) == LOADED
    assert len(scripted.asked) == 3
    with answering(busy) as (server, scripted), pytest.raises(ReloadRefused, match="it was tried for 0 s"):
        server.ask({})
    with answering(busy) as (server, _):
        assert server.look(EXPECTED, LOADED).state is State.WAITING


def test_an_order_that_is_never_answered() -> None:
    """A load that outlasts its time is given up, and not ordered a second time meanwhile."""
    with (
        answering(b"", stalling=True, load_timeout=0.05, ready_timeout=30) as (server, scripted),
        pytest.raises(ReloadUnanswered, match=r"it has not answered within 0\.05 s; give it more by load_timeout"),
    ):
        server.ask({})
    assert len(scripted.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("504 Gateway Timeout", ReloadUnanswered),
        ("524 A Timeout Occurred", ReloadUnanswered),
        ("503 Service Unavailable", ReloadRefused),
        ("520 Unknown", ReloadRefused),
    ],
)
def test_an_order_that_a_proxy_does_not_wait_for(status: str, kind: type[ReloadRefused]) -> None:
    """Where a proxy's last word is that it waited no longer, the load may go on, so that it is told as unanswered."""
    with answering(answer(status)) as (server, _), pytest.raises(ReloadRefused, match=f"it answered {status}") as fault:
        server.ask({})
    assert type(fault.value) is kind


MLSERVER = {"name": "m", "platform": "", "inputs": [], "outputs": [], "parameters": {}}


@pytest.mark.parametrize(
    ("metadata", "state", "state_unasked"),
    [
        ({**MLSERVER, "versions": ["2"]}, State.SERVED, State.SERVED),
        ({**MLSERVER, "versions": ["1", "2"]}, State.SERVED, State.SERVED),
        ({**MLSERVER, "versions": ["sklearn/1.5"]}, State.SERVED, State.LOADING),
        ({**MLSERVER, "versions": []}, State.SERVED, None),
        ({**MLSERVER, "parameters": {"release": "20260101-v2"}}, State.SERVED, State.SERVED),
        ({**MLSERVER, "parameters": {"release": "20260101-v1"}, "versions": ["2"]}, State.LOADING, State.LOADING),
        ({**MLSERVER, "parameters": {"version": 2}}, State.SERVED, State.SERVED),
        ({**MLSERVER, "parameters": None, "versions": "2"}, State.SERVED, None),
        ([], State.SERVED, None),
    ],
)
def test_what_metadata_tell(metadata: Any, state: State, state_unasked: State | None) -> None:
    """Metadata prove what they name; what else they name counts only against a server that nobody has told to load."""
    answers = (OK, says(metadata))
    assert look(*answers).state is state
    if state_unasked:
        assert look(*answers, mark={}).state is state_unasked
    else:
        with pytest.raises(Refused, match="its answers do not tell"):
            look(*answers, mark={})


@pytest.mark.parametrize("metadata", [answer("404 Not Found"), says_text("200 OK", "text/html", "<html>")])
def test_a_server_without_metadata(metadata: bytes) -> None:
    """Where there are no metadata, the answer to the order is the proof, and without an order there is none."""
    assert look(OK, metadata).evidence == "told to load it, it answered 200; it is ready"
    with pytest.raises(Refused, match="its answers do not tell"):
        look(OK, metadata, mark={})


@pytest.mark.parametrize(
    ("prediction", "state"),
    [
        ({"model_version": "2"}, State.SERVED),
        ({"model_version": "1"}, State.LOADING),
        ({"parameters": {"release": "20260101-v2"}, "model_version": "1"}, State.SERVED),
        ({"parameters": {"release": "20260101-v1"}, "model_version": "2"}, State.LOADING),
        ({"outputs": []}, State.SERVED),
    ],
)
def test_what_a_probe_tells(prediction: Any, state: State) -> None:
    """Another name in the answer to a probe speaks against the model, whatever the metadata say."""
    found = look(OK, says(prediction), says({"versions": ["2"]}), probe=QUESTION)
    assert found.state is state


def test_a_release_of_no_version() -> None:
    """Where no version is known of a release, such as the one that was there at first, a version tells nothing."""
    adopted = Expected("20260101-adopted", None, None)
    assert look(OK, says({"model_version": "1"}), OK, probe=QUESTION, expected=adopted).state is State.SERVED
    with pytest.raises(Refused, match="its answers do not tell"):
        look(OK, says({"model_version": "1"}), OK, probe=QUESTION, expected=adopted, mark={})


@pytest.mark.parametrize(
    ("ready", "words"),
    [
        (answer("400 Bad Request"), "400 Bad Request"),
        (says({"error": "Model m not found"}, "404 Not Found"), "404 Model m not found"),
        (says({"name": "m", "ready": False}), "200"),
    ],
)
def test_a_model_that_is_not_ready(ready: bytes, words: str) -> None:
    """A model that is not ready is not served, whether the status says so or the body."""
    found = look(ready)
    assert found.state is State.LOADING
    assert f"asked whether it is ready it answered {words}" in found.evidence


def test_a_probe_that_fails() -> None:
    """A model that does not answer the probe is not served."""
    found = look(OK, says({"error": "unexpected shape"}, "400 Bad Request"), probe=QUESTION)
    assert found == Look(State.LOADING, "the probe was answered 400 unexpected shape")


def test_an_address_that_is_none() -> None:
    """A connection whose host makes no URL is refused, without what may be a password in it."""
    with (
        pytest.raises(Refused, match="its address is no URL") as refusal,
        OpenInferenceServer("conn", "m").open(lambda _: session_to("http://user:secret@[::1")),
    ):
        pass
    assert "secret" not in str(refusal.value)


def test_patience() -> None:
    """What was loaded has to be ready soon, and a server out of reach is waited for as long."""
    with answering(OK, ready_timeout=7) as (server, _):
        assert {server.patience(state) for state in State} == {7}
