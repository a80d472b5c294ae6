"""Deliveries and roll-backs killed everywhere: whoever reads meanwhile sees whole models, the next run succeeds."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from airflow_serving_reload.delivery import steps
from airflow_serving_reload.delivery.errors import ReloadRefused
from airflow_serving_reload.delivery.filesystem import replace_file
from airflow_serving_reload.delivery.pipeline import deliver, roll_back
from airflow_serving_reload.delivery.release import PublishMode
from tests.delivery.models import AN_HOUR_NS, TIMESTAMP, Host, Training, set_time, version_in
from tests.delivery.watching import read

from .killing import Watching, copies, killed_at

NOTHING = "nothing"
MODEL = "m"


@dataclass(frozen=True)
class Place:
    """A store, and a host, in one folder.

    :param folder: of both.
    :param mode: how releases are published.
    :param packed: whether the model is an archive.
    """

    folder: Path
    mode: PublishMode = "auto"
    packed: bool = True

    @property
    def training(self) -> Training:
        """What uploads to the store."""
        return Training(self.folder, "model.tar.gz" if self.packed else "model")

    @property
    def host(self) -> Host:
        """The host, which keeps two releases."""
        return Host(self.folder, publish_mode=self.mode, keep_releases=2)

    def deliver(self, **options: object) -> None:
        """Deliver what is in the store, by a server's proof."""
        host = self.host
        server = host.serve(**options) if host.timestamp.exists() else None
        filename = MODEL if self.packed else None
        deliver(self.training.remote, host.local, unpacked_filename=filename, temporary=host.temporary, server=server)

    def upload_and_deliver(self, *versions: str) -> None:
        """Upload and deliver one version after the other, with a time from which on no touch has to wait."""
        for version in versions:
            self.training.upload(version)
            self.deliver()
            set_time(self.host.timestamp, ahead_ns=AN_HOUR_NS)

    def live(self) -> str:
        """Tell the version that is live, which has to be whole; an unfinished timestamp file beside it does no harm."""
        model = self.host.model
        if not model.is_dir() or not any(model.iterdir()):
            return NOTHING
        version = read(str(model))
        found = {path.name for path in model.iterdir() if not path.name.startswith((TIMESTAMP, f".{TIMESTAMP}."))}
        return version if found == {"a", "b", f"only-{version}"} else f"{version}, with {sorted(found)}"

    def debris(self) -> list[str]:
        """Tell what lies around beside the store, the model, and its releases with their records."""
        host = self.host
        releases = host.folder / ".model.releases"
        kept = {record.release for record in host.releases.history()}
        known = {".publish.lock", ".deliver.lock", ".in_place.json"}
        known |= {f"{name}{ending}" for name in kept for ending in ("", ".json", ".files")}
        strays = {path.name for path in releases.iterdir()} - known
        strays |= {path.name for path in host.folder.iterdir()} - {"model", "tmp", ".model.releases"}
        strays |= {path.name for path in host.temporary.iterdir()} if host.temporary.exists() else set()
        strays |= {path.name for path in host.folder.rglob(".*.tmp")}
        return sorted(strays)


def nothing_yet(place: Place) -> None:
    """Have a model in the store, and none on the host."""
    place.training.upload("new")


def by_hand(place: Place) -> None:
    """Have an initial model on the host, in a folder."""
    place.host.start_with("old")
    place.training.upload("new")


def delivered(place: Place) -> None:
    """Have as many releases on the host as are kept."""
    place.host.start_with("first")
    place.upload_and_deliver("older", "old")
    place.training.upload("new")


def the_same_again(place: Place) -> None:
    """Have a release on the host, and in the store the same model announced anew."""
    place.host.start_with("first")
    place.training.upload("old")
    for file in place.training.root.rglob("*"):
        set_time(file, ahead_ns=-AN_HOUR_NS)  # a file that is just written could be written again unnoticed
    place.deliver()
    set_time(place.host.timestamp, ahead_ns=AN_HOUR_NS)
    set_time(place.training.donefile, ahead_ns=-AN_HOUR_NS // 2)


def deliver_the_new(place: Place) -> None:
    """Deliver."""
    place.deliver()


def deliver_what_is_here(place: Place) -> None:
    """Deliver a model whose files are those of the live release."""
    place.deliver()
    assert (place.host.model / "a").stat().st_nlink > 1, "it was not linked"


def deliver_what_is_refused(place: Place) -> None:
    """Deliver what the server cannot load, so that the old model is put back."""
    try:
        place.deliver(fails={"new": 2})
    except ReloadRefused:
        return
    raise AssertionError("nothing was refused")


def roll_the_old_back(place: Place) -> None:
    """Return to the release before."""
    roll_back(place.host.local, None, place.host.serve(), "a test")


def deliver_in_steps(place: Place) -> None:
    """Deliver by the four steps, of which those that came to their end are not repeated, as Airflow has it."""
    results = place.folder / "results"
    results.mkdir(exist_ok=True)

    def done(name: str, step: Callable[[], object]) -> Path:
        result = results / name
        if not result.exists():
            replace_file(result, str(step()))
        return Path(result.read_text())

    host, remote = place.host, place.training.remote
    folder, announced = place.folder / "downloaded", remote.look()
    folder.mkdir(exist_ok=True)
    download = partial(steps.download, remote.store, remote.path, remote.model, folder, announced=announced)
    packed = done("downloaded", download)
    unpacked = done("unpacked", lambda: steps.unpack(packed, MODEL))
    done("published", lambda: steps.publish(unpacked, host.local, run={"run_id": "a test"}))
    done("touched", lambda: steps.touch(host.local))


@dataclass(frozen=True)
class Scenario:
    """Something that is killed.

    :param prepare: makes the place ready.
    :param change: what is killed there.
    :param before: the version that may be seen until then.
    :param after: the version that may be seen from then on.
    :param lasting: the version that stays.
    :param copied: whether a copy of a prepared place is as good as one that is prepared itself.
    :param retried: whether it has to come to its end when it is done again.
    """

    prepare: Callable[[Place], None]
    change: Callable[[Place], None]
    before: str = "old"
    after: str = "new"
    lasting: str = "new"
    mode: PublishMode = "auto"
    packed: bool = True
    copied: bool = True
    retried: bool = False

    @property
    def whole(self) -> frozenset[str]:
        """The versions that may be seen."""
        return frozenset({self.before, self.after})


SCENARIOS = {
    "first publication": Scenario(nothing_yet, deliver_the_new, before=NOTHING),
    "adoption of a folder": Scenario(by_hand, deliver_the_new),
    "change of the link": Scenario(delivered, deliver_the_new),
    "a folder model": Scenario(delivered, deliver_the_new, packed=False),
    "step by step": Scenario(delivered, deliver_in_steps, retried=True),
    "step by step in place": Scenario(delivered, deliver_in_steps, mode="in_place", retried=True),
    "the same again": Scenario(the_same_again, deliver_what_is_here, after="old", lasting="old"),
    "the same folder again": Scenario(
        the_same_again, deliver_what_is_here, after="old", lasting="old", packed=False, copied=False
    ),
    "refused and put back": Scenario(delivered, deliver_what_is_refused, lasting="old"),
    "roll back": Scenario(delivered, roll_the_old_back, after="older", lasting="older", retried=True),
    "first publication in place": Scenario(nothing_yet, deliver_the_new, before=NOTHING, mode="in_place"),
    "adoption in place": Scenario(by_hand, deliver_the_new, mode="in_place"),
    "change in place": Scenario(delivered, deliver_the_new, mode="in_place"),
    "roll back in place": Scenario(
        delivered, roll_the_old_back, after="older", lasting="older", mode="in_place", retried=True
    ),
}


@dataclass
class Tally:
    """What came of one scenario.

    :param killed: processes that were killed.
    :param faults: what should not have been, with the number of the kill.
    """

    killed: int = 0
    faults: list[str] = field(default_factory=list)


def attack(name: str, *, step: int = 1, first: int = 1) -> Tally:
    """Kill a scenario at each point, or at each `step`th from the `first` on, and see what comes of it."""
    # in memory, where to sync a thousand times takes no time
    with tempfile.TemporaryDirectory(dir="/dev/shm") as cases:
        return _attack(SCENARIOS[name], Path(cases), step, first)


def _attack(scenario: Scenario, cases: Path, step: int, first: int) -> Tally:
    def prepare(number: int) -> Path:
        folder = cases / f"{number:04}"
        folder.mkdir()
        scenario.prepare(Place(folder, scenario.mode, scenario.packed))
        return folder

    make = copies(prepare(0), cases) if scenario.copied else prepare
    tally = Tally()
    for number in itertools.count(first, step):
        folder = make(number)
        place = Place(folder, scenario.mode, scenario.packed)
        with Watching(lambda place=place: _look(place)) as watching:  # type: ignore[misc]
            killed = killed_at(number, lambda place=place: scenario.change(place))  # type: ignore[misc]
        tally.killed += killed
        if scenario.mode == "auto" and not watching.seen <= scenario.whole:
            tally.faults.append(f"{number}: a reader saw {sorted(watching.seen)}")
        tally.faults += [f"{number}: {fault}" for fault in faults_left(scenario, place, scenario.whole)]
        shutil.rmtree(folder)
        if not killed:
            return tally
    raise AssertionError


def _look(place: Place) -> str:
    try:
        return read(str(place.host.folder / "model"))
    except OSError:
        return NOTHING


def faults_left(scenario: Scenario, place: Place, whole: Collection[str]) -> Iterator[str]:
    """See what an interrupted process left: first as it is, but in place where the next run mends, then after that run.

    :param whole: the versions of which one has to be live.
    """
    try:
        if scenario.mode == "in_place":
            with place.host.releases.publishing():
                pass
        if (found := place.live()) not in whole:
            yield f"{found} was live"
        if scenario.retried:
            scenario.change(place)
            if (found := place.live()) != scenario.lasting:
                yield f"{found} is live after it was done again"
        place.training.upload("next")
        place.deliver()
        if place.live() != "next":
            yield f"{place.live()} is live after the next run"
        for record in place.host.releases.history():
            version_in(place.host.releases.path(record))
        if len(place.host.releases.history()) > place.host.local.keep_releases:
            yield f"{len(place.host.releases.history())} releases are kept"
    except Exception as error:  # noqa: BLE001 - whatever the next run raises is what is looked for
        yield f"the next run raised {error!r}"
    if debris := place.debris():
        yield f"left behind: {debris}"
