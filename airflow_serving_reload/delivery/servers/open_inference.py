"""Servers that are told over HTTP to load a model: MLServer, Triton, KServe and others of the Open Inference Protocol.

Its repository extension loads while the request waits: the answer says whether it worked. That the server is ready
says nothing, because after a load that failed the old model goes on answering, and is as ready as before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self
from urllib.parse import quote

from airflow_serving_reload.delivery.errors import Refused, ReloadRefused, ReloadUnanswered
from airflow_serving_reload.delivery.servers.base import (
    Connect,
    Expected,
    HttpClient,
    Look,
    Mark,
    ModelServer,
    ServerDescription,
    State,
)
from airflow_serving_reload.delivery.statuses import BUSY

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds between two attempts to reach the server."""
WORDS = 300
"""Characters of an answer that are repeated in a message."""
LOGIN_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED})
UNAVAILABLE = BUSY - {HTTPStatus.INTERNAL_SERVER_ERROR}
"""Statuses of a server, or of a proxy before it, that is not up; 500 is MLServer's word for a load that failed."""
NOT_WAITED_FOR = frozenset({HTTPStatus.GATEWAY_TIMEOUT, 524})
"""Statuses of a proxy that has waited no longer for its server: that may be down, or at work; 524 is Cloudflare's."""


@dataclass
class OpenInferenceServer(ServerDescription):
    """A server that speaks the Open Inference Protocol with its repository extension, on the host of the model.

    It is told to load the model, and has to answer that it did and then that the model is ready. Where the metadata
    of the model, or the answer to the probe, tell which release or version it is, that proves it: metadata by
    `versions` (MLServer repeats what `model-settings.json` says there, Triton the numbers of its folders), an answer
    by `model_version`, and both by `release` or `version` among their `parameters`. A version is what training
    called the model, as the donefile says; a release is known by the folder to which the model's link leads. Triton
    loads a model only if a file in it is newer than before, for which the timestamp file takes care.

    :param http_conn_id: Airflow connection of type `http` that leads to it.
    :param model_name: name of the model there.
    :param probe: an inference request, as the protocol writes it in JSON: `{"inputs": [...]}`. It has to be answered,
        and if the answer tells a release or a version, by the expected one.
    :param load_timeout: seconds that loading the model may take; be generous, since no order can be taken back, and
        a server that loads several models at a time may end a load that was given up after the roll-back.
    :param ready_timeout: seconds for which it may be out of reach, and that it may take to answer with the model
        after it said that it has loaded it.
    """

    http_conn_id: str
    model_name: str
    probe: dict[str, Any] | None = None
    load_timeout: float = 600
    ready_timeout: float = 30

    template_fields: ClassVar[tuple[str, ...]] = ("http_conn_id", "model_name", "probe")

    @contextmanager
    def open(self, connect: Connect) -> Iterator[ModelServer]:
        """Give the server at the other end of the connection."""
        with connect(self.http_conn_id) as client:
            yield _Reached(self, client)


class _Reached(ModelServer):
    """The server itself.

    :param description: what is to be told and asked.
    :param client: the way to it.
    """

    def __init__(self, description: OpenInferenceServer, client: HttpClient) -> None:
        # Only whoever asks pays for the client.
        from airflow_serving_reload.delivery.requests_faults import without_credentials

        self._description = description
        self._client = client
        self._base_url = client.base_url.rstrip("/")
        try:
            self._public_url = without_credentials(self._base_url)
        except ValueError:
            raise Refused(
                f"opening the connection {description.http_conn_id!r}: its address is no URL; check its host"
            ) from None

    def __str__(self) -> str:
        return f"the server of {self._description.model_name} at {self._public_url}"

    def mark(self) -> Mark:
        """Note nothing: what counts is its answer."""
        return {}

    def ask(self, mark: Mark) -> Mark:
        """Tell it to load what lies in its repository now, and wait until it says how that went.

        :raises ReloadUnanswered: it has not said in time how that went, or a proxy before it waited no longer.
        :raises ReloadRefused: it failed to load it, or is out of reach.
        :raises Refused: it does not let itself be told.
        """
        path = f"/v2/repository/models/{quote(self._description.model_name, safe='')}/load"
        doing = f"telling {self} to load it"
        began = time.monotonic()
        while True:
            may_be_at_it = False
            try:
                answer = self._request("POST", path, doing, seconds=self._description.load_timeout)
            except _NoAnswerError as error:
                why = str(error)
            else:
                if answer.status_code not in UNAVAILABLE:
                    return mark | self._told_to_load(answer, doing)
                why = f"{doing}: it answered {_said(answer)}"
                may_be_at_it = answer.status_code in NOT_WAITED_FOR
            if (waited := time.monotonic() - began) > self._description.ready_timeout:
                if may_be_at_it:
                    raise ReloadUnanswered(
                        f"{why}; it was tried for {waited:.0f} s, and may still be at it; "
                        "let the proxy before it wait for as long as a load takes"
                    )
                raise ReloadRefused(f"{why}; it was tried for {waited:.0f} s")
            log.info("%s; trying again", why)
            time.sleep(PAUSE)

    @staticmethod
    def _told_to_load(answer: requests.Response, doing: str) -> Mark:
        if answer.ok:
            return {"loaded": f"told to load it, it answered {answer.status_code}"}
        advice = "see its log"
        if answer.status_code == HTTPStatus.NOT_FOUND:
            advice = "check model_name, and that the model brings what the server knows it by"
        elif answer.status_code in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
            advice = "let the server take orders (Triton: --model-control-mode=explicit)"
        raise ReloadRefused(f"{doing}: it answered {_said(answer)}; {advice}")

    def mark_since(self, seconds: float) -> Mark:
        """Note nothing: it does not tell when it loaded what."""
        return {}

    def patience(self, state: State) -> float:
        """Give the time that it may be out of reach or not ready: when it is looked at, it has loaded."""
        return self._description.ready_timeout

    def look(self, expected: Expected, mark: Mark) -> Look:
        """Ask whether the model is ready, and then which one it is.

        :raises Refused: nothing tells which one it is, and it was not told to load it either.
        """
        try:
            return self._look(expected, mark)
        except _NoAnswerError as error:
            return Look(State.WAITING, str(error))

    def _look(self, expected: Expected, mark: Mark) -> Look:
        ready = self._ask_model("GET", "/ready")
        if not _says_yes(ready):
            return Look(State.LOADING, f"asked whether it is ready it answered {_said(ready)}")
        told = []
        if self._description.probe is not None:
            probed = self._ask_model("POST", "/infer", json=self._description.probe)
            if not probed.ok:
                return Look(State.LOADING, f"the probe was answered {_said(probed)}")
            told.append(_Told.of(probed, certain=True))
        told.append(_Told.of(self._ask_model("GET", "")))
        return self._judge(expected, mark, told)

    def _judge(self, expected: Expected, mark: Mark, told: Sequence[_Told]) -> Look:
        """Weigh what the answers tell, the first one that can be compared before the others."""
        evidence = "; ".join((*mark.values(), "it is ready"))
        decisive = next((each for each in told if each.names(expected) is not None), None)
        if decisive and decisive.names(expected):
            return Look(State.SERVED, f"{evidence}, and answers as {decisive}")
        if decisive and (decisive.certain or not mark):
            return Look(State.LOADING, f"{evidence}, but answers as {decisive}, not as {_wanted(expected)}")
        if mark:
            return Look(State.SERVED, evidence)
        raise Refused(
            f"asking {self} whether it serves {_wanted(expected)}: its answers do not tell; give the release that "
            "PublishModelOperator returned, and let the metadata or the answer to a probe name it or its version"
        )

    def _ask_model(self, method: str, what: str, **options: Any) -> requests.Response:
        path = f"/v2/models/{quote(self._description.model_name, safe='')}{what}"
        answer = self._request(method, path, f"asking {self} for {what.strip('/') or 'its metadata'}", **options)
        if answer.status_code in UNAVAILABLE:
            raise _NoAnswerError(f"asking {self}: it answered {_said(answer)}")
        return answer

    def _request(
        self, method: str, path: str, doing: str, *, seconds: float | None = None, **options: Any
    ) -> requests.Response:
        """Make a request, which is not redirected: a redirected order would end as a mere question.

        :param seconds: how long an answer may take, where not as long as any.
        :raises _NoAnswerError: there is none.
        :raises ReloadUnanswered: there is none in the time that was given for it.
        :raises Refused: neither this nor any other request will be answered.
        """
        import requests

        from airflow_serving_reload.delivery.requests_faults import faults_of_requests

        connecting, reading = self._client.timeout
        reading = reading if seconds is None else seconds
        with faults_of_requests(doing, other_end="server", unreachable=_NoAnswerError):
            try:
                answer = self._client.session.request(
                    method,
                    self._base_url + path,
                    timeout=(connecting, reading),
                    allow_redirects=False,
                    # said with each request, because the environment's authorities would count more than the session's
                    verify=self._client.session.verify,
                    **options,
                )
            except requests.ReadTimeout:
                if seconds is None:
                    raise
                # it may still be at it, and must not be told again meanwhile
                raise ReloadUnanswered(
                    f"{doing}: it has not answered within {seconds:g} s; give it more by load_timeout"
                ) from None
        if answer.status_code in LOGIN_REFUSED:
            raise Refused(f"{doing}: it answered {_said(answer)}; check the connection's login, and what it may do")
        if answer.is_redirect:
            raise Refused(f"{doing}: it answered {_said(answer)}; give the connection the address that it redirects to")
        return answer


class _NoAnswerError(Exception):
    """The server is out of reach, or not up."""


class _Told(NamedTuple):
    """What an answer tells of the model that gave it.

    :param releases: names of releases.
    :param versions: names of versions.
    :param certain: whether another name speaks against the model. Among the versions in metadata MLServer has those
        of what the model depends on, and Triton the number of a folder, which need not be training's version.
    """

    releases: frozenset[str] = frozenset()
    versions: frozenset[str] = frozenset()
    certain: bool = False

    @classmethod
    def of(cls, answer: requests.Response, *, certain: bool = False) -> Self:
        """Read an answer."""
        try:
            told = answer.json() if answer.ok else None
        except ValueError:
            told = None
        if not isinstance(told, dict):
            return cls()
        parameters = told["parameters"] if isinstance(told.get("parameters"), dict) else {}
        several = told["versions"] if isinstance(told.get("versions"), list) else []
        releases = _names(parameters.get("release"))
        versions = _names(parameters.get("version"), told.get("model_version"), *several)
        return cls(releases, versions, certain or bool(releases))

    def __str__(self) -> str:
        return " and ".join(
            f"the {kind} {', '.join(sorted(names))}"
            for kind, names in (("release", self.releases), ("version", self.versions))
            if names
        )

    def names(self, expected: Expected) -> bool | None:
        """Whether this names what is expected; None if that cannot be compared."""
        if expected.release is not None and self.releases:
            return expected.release in self.releases
        if expected.version is not None and self.versions:
            return expected.version in self.versions
        return None


def _names(*values: object) -> frozenset[str]:
    return frozenset(str(value) for value in values if isinstance(value, str | int) and value != "")


def _wanted(expected: Expected) -> str:
    return f"the release {expected.release}" + (f" of the version {expected.version}" if expected.version else "")


def _says_yes(ready: requests.Response) -> bool:
    """Whether the model is ready: by the status, and by KServe in the body also."""
    try:
        told = ready.json() if ready.content else None
    except ValueError:
        told = None
    return ready.ok and not (isinstance(told, Mapping) and told.get("ready") is False)


def _said(answer: requests.Response) -> str:
    """Give the status of an answer and the words that tell why, if it has some."""
    words = ""
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("application/json"):
        try:
            told = answer.json()
        except ValueError:
            told = None
        words = str(told.get("error") or told) if isinstance(told, dict) else answer.text
    elif kind.startswith("text/plain"):
        # of a traceback, what it ends with
        words = answer.text.strip().rpartition("\n")[2]
    words = " ".join(words.split())
    return f"{answer.status_code} {words or answer.reason}"[:WORDS].strip()
