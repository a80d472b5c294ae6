"""Deliveries over a network that breaks: either the new model is live, or there is a clear fault and nothing has moved.

What nothing can catch is a flipped bit in a file within a plain `.tar` whose donefile is empty, where the network is
without TLS: HTTP and FTP have no checksum, and HDFS tells its own only to who asks for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from airflow_serving_reload.delivery.errors import Corrupt, DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.fetch import Remote
from airflow_serving_reload.delivery.pipeline import deliver
from airflow_serving_reload.demo.processes import Processes
from tests.contract.ftp_servers import Vsftpd
from tests.contract.hadoop import Hdfs
from tests.contract.nginx import Nginx
from tests.delivery.models import TIMESTAMP
from tests.delivery.packing import COMPRESSORS, file, tar

from .breaking import PIECE, BreakingProxy, Fault, Kind
from .kill_campaign import Place
from .transports import BUSY_SECONDS, Ftp, Http, HttpInParts, Spot, Transport, WebHdfs

LONG_TIMEOUT = 30.0
"""Seconds that a store waits for an answer which is sure to come."""

LONG_AGO = 1_600_000_000
"""A time, in seconds since the epoch, at which every store has settled."""

LOST = 2 * PIECE
"""Bytes that a break may cost: the server had sent them already."""

Files = dict[str, bytes]

OLD: Files = {"a": b"old", "b": b"old", "only-old": b"old"}
NEW: Files = {"version": b"new", "weights": random.Random(1).randbytes(2_500_000)}
NEWER: Files = {"version": b"2nd", "weights": random.Random(2).randbytes(2_500_000)}

PACKINGS = ("tar", "tar.gz")


def packed(files: Files, packing: str) -> bytes:
    """Pack a model."""
    return COMPRESSORS[packing](tar(*(file(f"m/{name}", content) for name, content in files.items())))


NEW_PACKED = {packing: packed(NEW, packing) for packing in PACKINGS}
NEWER_PACKED = {packing: packed(NEWER, packing) for packing in PACKINGS}


@dataclass(frozen=True)
class Case:
    """A delivery, and what breaks meanwhile.

    :param packing: of the archive.
    :param described: whether the donefile has the length and the digest of the archive.
    :param where: what breaks, for people.
    :param faults: the faults.
    :param arrives: whether it has to arrive without a further run.
    :param sends: bytes of the archive that the server may send at most.
    :param uncaught: whether nothing can catch it.
    :param replaced: what is replaced when the fault happens.
    """

    packing: str
    described: bool
    where: str = ""
    faults: Sequence[Fault] = ()
    arrives: bool = False
    sends: float = math.inf
    uncaught: bool = False
    replaced: Sequence[str] = ()

    def __str__(self) -> str:
        """Name the case."""
        return f"{self.where}, .{self.packing}, {'JSON' if self.described else 'empty'} donefile"

    @property
    def model(self) -> str:
        """The name of the archive."""
        return f"model.{self.packing}"

    @property
    def size(self) -> int:
        """The length of the archive."""
        return len(NEW_PACKED[self.packing])

    def uploaded(self, archive: bytes) -> dict[str, bytes]:
        """Give what training uploads, in order."""
        facts = {"version": "1", "sha256": hashlib.sha256(archive).hexdigest(), "size": len(archive)}
        return {self.model: archive, "donefile": json.dumps(facts).encode() if self.described else b""}


BARE = [Case(packing, described) for packing in PACKINGS for described in (True, False)]

# what breaks where


def spots(transport: Transport, bare: Case) -> dict[str, Spot]:
    """Give all spots of a delivery where something may break."""
    found = {f"{name} of the archive": spot for name, spot in transport.heads(bare.model).items()}
    heads = transport.heads("donefile", empty=not bare.described)
    found |= {f"{name} of the donefile": spot for name, spot in heads.items()}
    if bare.described:
        found["middle of the donefile"] = Spot(transport.reading("donefile"), 70)
    found["second look"] = replace(next(iter(heads.values())), after=transport.reading(bare.model))
    return found | transport.bodies(bare.model, bare.size)


def broken(kind: Kind, transport: Transport, bare: Case) -> Iterator[Case]:
    """Break each spot once; what breaks within the archive goes on where it was."""
    within = transport.bodies(bare.model, bare.size)
    for where, spot in spots(transport, bare).items():
        goes_on = _goes_on(kind, bare) if where in within else {}
        yield replace(bare, where=where, faults=[spot.fault(kind)], **goes_on)


def _goes_on(kind: Kind, bare: Case) -> dict[str, Any]:
    """Say what must come of an archive that breaks off; a reset takes what has come, but was not looked at yet."""
    return {"arrives": True, "sends": math.inf if kind == "reset" else bare.size + LOST}


def slow(transport: Transport, bare: Case) -> Iterator[Case]:
    """Let each spot trickle, altogether for longer than an answer may take: as long as something comes, all is well."""
    for where, spot in spots(transport, bare).items():
        yield replace(bare, where=where, faults=[spot.fault("slow")], arrives=True, sends=bare.size)


def shortened(transport: Transport, bare: Case) -> Iterator[Case]:
    """End the archive early, as if that were its end; its length goes on being known where it is told apart."""
    for where, spot in transport.bodies(bare.model, bare.size).items():
        yield replace(bare, where=where, faults=[spot.fault("shorten")], arrives=transport.length_apart)


def flipped(transport: Transport, bare: Case) -> Iterator[Case]:
    """Flip a bit at each spot."""
    within = transport.bodies(bare.model, bare.size)
    for where, spot in spots(transport, bare).items():
        inside = where in within if transport.in_parts else where == "middle of the archive"
        uncaught = inside and bare.packing == "tar" and not bare.described
        yield replace(bare, where=where, faults=[spot.fault("flip")], uncaught=uncaught)


def busy(transport: Transport, bare: Case) -> Iterator[Case]:
    """Let the server be busy when it is asked for each file, and when the archive is to go on."""
    _, middle, _ = transport.bodies(bare.model, bare.size).values()
    cut = middle.fault("cut")
    first = {"donefile": next(iter(transport.heads("donefile").values())).request, "archive": cut.request}
    for name, reply in transport.busy.items():
        for where, request in first.items():
            yield replace(bare, where=f"{name} to the {where}", faults=[reply.fault(request)])
        second_look = replace(reply.fault(first["donefile"]), after=cut.request)
        yield replace(bare, where=f"{name} to the second look", faults=[second_look])
        again = replace(reply.fault(cut.request), nth=3 if transport.in_parts else 2)
        goes_on = _goes_on("cut", bare)
        yield replace(bare, where=f"{name} when it goes on", faults=[cut, again], **goes_on)
        yield replace(bare, where=f"{name} for ever when it goes on", faults=[cut, replace(again, times=math.inf)])
        if reply.tells_when:
            while_it_says = replace(again, times=math.inf, seconds=BUSY_SECONDS)
            yield replace(bare, where=f"{name} for as long as it says", faults=[cut, while_it_says], **goes_on)


def replaced(transport: Transport, bare: Case) -> Iterator[Case]:
    """Break off within the archive, which is another one when it goes on, alone or with its donefile."""
    for where, spot in transport.bodies(bare.model, bare.size).items():
        for names, arrives in (([bare.model], False), ([bare.model, "donefile"], True)):
            what = f"{' and '.join(names)} replaced at the {where}"
            yield replace(bare, where=what, faults=[spot.fault("cut")], replaced=names, arrives=arrives)


def again(transport: Transport, bare: Case) -> Iterator[Case]:
    """Break each answer: it arrives if each time something has come, however often."""
    reading = transport.reading(bare.model)
    for kind in BREAKS:
        step = Spot(reading, bare.size // 8).fault(kind, times=math.inf)
        yield replace(bare, where=f"{kind} after each eighth", faults=[step], arrives=kind != "reset")
        for where, spot in (("first byte", Spot(reading, 0)), ("answer", transport.heads(bare.model)["answer"])):
            yield replace(bare, where=f"{kind} at each {where}", faults=[spot.fault(kind, times=math.inf)])


BREAKS: tuple[Kind, ...] = ("cut", "reset", "stall")

Faults = frozenset[type[DeliveryError]]
UNREACHABLE: Faults = frozenset({StoreUnreachable})
NOT_WHOLE: Faults = UNREACHABLE | {Corrupt}


@dataclass(frozen=True)
class Scenario:
    """A kind of fault.

    :param cases: gives the cases for an archive and a donefile.
    :param raises: the faults that a delivery may end with.
    :param waits: whether the store may wait in vain.
    """

    cases: Callable[[Transport, Case], Iterable[Case]]
    raises: Faults = UNREACHABLE
    waits: bool = False


SCENARIOS = {
    "cut": Scenario(partial(broken, "cut")),
    "reset": Scenario(partial(broken, "reset")),
    "stalled": Scenario(partial(broken, "stall"), waits=True),
    "slow": Scenario(slow, waits=True),
    "again and again": Scenario(again, waits=True),
    "ended early": Scenario(shortened, NOT_WHOLE),
    "flipped bit": Scenario(flipped, NOT_WHOLE | {Refused, NotThereYet}, waits=True),
    "busy": Scenario(busy),
    "replaced": Scenario(replaced, NOT_WHOLE),
}

# what comes of it


@dataclass
class Tally:
    """What came of cases.

    :param delivered: deliveries that arrived in spite of the fault.
    :param refused: deliveries that ended with a clear fault, and nothing moved.
    :param unnoticed: deliveries of damaged bytes, where nothing can catch it.
    :param faults: what should not have been.
    """

    cases: int = 0
    delivered: int = 0
    refused: int = 0
    unnoticed: int = 0
    faults: list[str] = field(default_factory=list)


def attack(transport: Transport, name: str, *, step: int = 1, first: int = 0) -> Tally:
    """Deliver once for each case of a scenario, or for each `step`th from the `first` on, and see what comes of it."""
    scenario = SCENARIOS[name]
    cases = [case for bare in BARE for case in scenario.cases(transport, bare)][first::step]
    tally = Tally(len(cases))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, ThreadPoolExecutor(transport.at_once) as pool:
        trials = [Trial(transport, scenario, case, Place(Path(folder, str(n)))) for n, case in enumerate(cases)]
        for trial in pool.map(Trial.run, trials):
            tally.delivered += trial.came == "delivered"
            tally.refused += trial.came == "refused"
            tally.unnoticed += trial.came == "unnoticed"
            tally.faults += [f"{transport.name}, {trial.case}: {fault}" for fault in trial.faults]
    return tally


@dataclass
class Trial:
    """The run of a case.

    :ivar came: what came of it: delivered, refused, unnoticed, or something that should not have been.
    """

    transport: Transport
    scenario: Scenario
    case: Case
    place: Place
    came: str = ""
    faults: list[str] = field(default_factory=list)
    remote: str = field(init=False)

    def __post_init__(self) -> None:
        """Take a folder of its own."""
        self.remote = f"{self.transport.root}/{secrets.token_hex(8)}"

    def run(self) -> Trial:
        """Deliver with the fault and without, and see what comes of it."""
        self.place.folder.mkdir()
        self.place.host.start_with("old")
        case = self.case
        self._upload(case.uploaded(NEW_PACKED[case.packing]), LONG_AGO)
        newer = case.uploaded(NEWER_PACKED[case.packing]) if case.replaced else {}
        meanwhile = {name: newer[name] for name in case.replaced}
        faults = [replace(fault, before=lambda: self._upload(meanwhile, LONG_AGO + 1)) for fault in case.faults]
        expected = NEWER if case.replaced else NEW
        try:
            with self.transport.broken(faults, self.transport.reading(case.model)) as proxy:
                self.faults += self._with_fault(proxy, expected)
                if self.came != "unnoticed":
                    proxy.faults = ()
                    self._upload(newer, LONG_AGO + 1)
                    self.faults += self._without_fault(proxy, expected)
        finally:
            self.transport.remove(self.remote)
        return self

    def _upload(self, files: Mapping[str, bytes], mtime: int) -> None:
        for name, content in files.items():
            self.transport.put(f"{self.remote}/{name}", content, mtime)

    def _deliver(self, proxy: BreakingProxy, timeout: float) -> DeliveryError | None:
        host = self.place.host
        with self.transport.open(proxy.address, timeout) as store:
            remote = Remote(store, self.remote, self.case.model, "donefile")
            try:
                deliver(remote, host.local, unpacked_filename="m", temporary=host.temporary)
            except DeliveryError as fault:
                return fault
        return None

    def _live(self) -> Files:
        return {path.name: path.read_bytes() for path in self.place.host.model.iterdir() if path.name != TIMESTAMP}

    def _with_fault(self, proxy: BreakingProxy, expected: Files) -> Iterator[str]:
        fault = self._deliver(proxy, self.transport.short_timeout if self.scenario.waits else LONG_TIMEOUT)
        in_parts = self.transport.in_parts
        if len(set(proxy.happened)) < len(self.case.faults) and not in_parts:
            yield "not everything broke that was to"
        if fault is not None:
            self.came = "refused"
            yield from self._refused(fault)
        elif self._live() in ([expected, NEW] if in_parts and self.case.replaced == [self.case.model] else [expected]):
            self.came = "delivered"
            if proxy.sent > self.case.sends and not in_parts:
                yield f"the server sent {proxy.sent} bytes of {self.case.size}"
        elif self.case.uncaught:
            self.came = "unnoticed"
        else:
            self.came = "damaged"
            yield "something else is live"
        if debris := self.place.debris():
            yield f"left behind: {debris}"

    def _refused(self, fault: DeliveryError) -> Iterator[str]:
        if self.case.arrives:
            yield f"did not arrive: {fault}"
        if type(fault) not in self.scenario.raises or "; " not in str(fault):
            yield f"raised {fault!r}"
        if self._live() != OLD or self.place.host.model.is_symlink():
            yield "something moved"

    def _without_fault(self, proxy: BreakingProxy, expected: Files) -> Iterator[str]:
        if fault := self._deliver(proxy, LONG_TIMEOUT):
            yield f"the next run raised {fault!r}"
        elif self._live() != expected:
            yield "something else is live after the next run"
        if debris := self.place.debris():
            yield f"left behind by the next run: {debris}"


# servers


@contextmanager
def http(processes: Processes) -> Iterator[Transport]:
    """Start an nginx."""
    with tempfile.TemporaryDirectory() as folder:
        nginx = Nginx.start(processes, Path(folder))
        yield Http(nginx.files, nginx.address)


@contextmanager
def http_in_parts(processes: Processes) -> Iterator[Transport]:
    """Start an nginx."""
    with tempfile.TemporaryDirectory() as folder:
        nginx = Nginx.start(processes, Path(folder))
        yield HttpInParts(nginx.files, nginx.address)


@contextmanager
def ftp(processes: Processes) -> Iterator[Transport]:
    """Start a vsftpd."""
    with Vsftpd.running(processes) as server:
        yield Ftp(server.folder / "files", server.address)


@contextmanager
def webhdfs(processes: Processes) -> Iterator[Transport]:
    """Start an HDFS."""
    with tempfile.TemporaryDirectory() as folder:
        yield WebHdfs(Hdfs.start(processes, Path(folder)))


SERVERS = {"http": http, "http_in_parts": http_in_parts, "ftp": ftp, "webhdfs": webhdfs}
