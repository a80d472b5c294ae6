"""How each store fails: by which error, after how long, and that nothing moved on the serving side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from tests.bench.archives import write_model
from tests.bench.measuring import MODEL, TaskStuckError, Workplace, returned
from tests.contract.bench import Address
from tests.contract.proxy import nobody, silence
from tests.stores import Way

COLUMNS = ("store", "fault", "error", "Airflow retries", "s", "message")
PATIENCE_SECONDS = 2.0
STUCK_SECONDS = 90.0
WORDS = 100
SMALL_BYTES, LARGE_BYTES = 1 << 16, 24 << 20


@contextmanager
def _elsewhere(way: Way, place: AbstractContextManager[Address]) -> Iterator[Way]:
    with place as address:
        yield way.at(address)


def faults_of(way: Way) -> Mapping[str, AbstractContextManager[Way] | None]:
    """Give what can go wrong on a way, and the way on which it does; None if it cannot."""
    wrong, address = way.wrong_login, way.address
    return {
        "wrong credentials": nullcontext(way.with_fields(**wrong)) if wrong else None,
        "unknown host": nullcontext(way.at(Address("store.invalid", address.port))) if address else None,
        "connection refused": _elsewhere(way, nobody()) if address else None,
        "no answer": _elsewhere(way, silence()) if address else None,
        "broken off": way.breaking_off(LARGE_BYTES // 2) if address else None,
        "no such folder": nullcontext(replace(way, remote_path=f"{way.remote_path}/missing")),
        "no permission": way.closed(MODEL),
    }


def measure(name: str, way: Way, folder: Path) -> list[list[str]]:
    """Let everything go wrong that can, and give the rows of the table."""
    place = Workplace(folder)
    way = way.with_patience(PATIENCE_SECONDS)
    returned(place.upload(way, write_model(folder / "model.tar", SMALL_BYTES)))
    returned(place.reload(way))
    returned(place.upload(way, write_model(folder / "model.tar", LARGE_BYTES)))
    rows = []
    for fault, opened in faults_of(way).items():
        cells = ["-"] * 4
        if opened is not None:
            with opened as faulty:
                cells = _deliver(place, faulty)
        rows.append([name, fault, *cells])
    assert returned(place.reload(way))["changed"], "the way would not have led to a new model without the faults"
    return rows


def _deliver(place: Workplace, way: Way) -> list[str]:
    before = _live(place)
    try:
        told = place.reload(way, seconds=STUCK_SECONDS)
    except TaskStuckError as error:
        return ["none", "-", f"> {STUCK_SECONDS:.0f}", str(error)]
    assert _live(place) == before, "something moved on the serving side"
    fault = told["fault"]
    retried = "yes" if fault["is_retried"] else "no"
    return [fault["kind"], retried, f"{told['seconds']:.1f}", fault["words"][:WORDS]]


def _live(place: Workplace) -> tuple[str, int, int]:
    """Give where the live model is, and when and for which file the server would reload."""
    link = place.serving / "model"
    timestamp = (link / "fluid_time_file").stat()
    return str(link.readlink()), timestamp.st_mtime_ns, timestamp.st_ino
