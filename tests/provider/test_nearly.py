"""The operators over nginx, where a model is nearly the same as before or came half: what of it comes again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery.errors import StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Store
from airflow_serving_reload.operators import DownloadModelOperator, ReloadModelOperator
from tests.contract.nginx import Nginx
from tests.contract.proxy import CuttingProxy
from tests.delivery.models import AN_HOUR_NS, SECOND_NS, contents, digest_of_folder, set_time
from tests.stores import CONN_ID, Servers, Way, dying_proxy

LARGE = 3 << 20
SMALL = 50_000


@dataclass
class Place:
    """A folder model behind nginx, which writes down what it sends, and the folder of a server.

    :param log: what nginx sent.
    :param model: the model in the store.
    :param serving: the server's folder.
    """

    log: Path
    model: Path
    serving: Path
    written: int = 0

    def write(self, name: str, size: int = SMALL) -> None:
        """Write a file of the model anew, an hour ago, and minutes behind the one before."""
        file = self.model / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(size))
        self.written += 1
        set_time(file, ahead_ns=self.written * 120 * SECOND_NS - AN_HOUR_NS)

    def announce(self) -> None:
        """Put a donefile there that promises the model's digest."""
        donefile = self.model.with_name("donefile")
        donefile.write_text(json.dumps({"sha256": digest_of_folder(self.model)}))
        set_time(donefile, ahead_ns=-AN_HOUR_NS)

    def reload(self, **arguments: Any) -> dict[str, Any]:
        """Deliver the model."""
        local = {"local_path": str(self.serving), "local_model_name": "model"}
        return ReloadModelOperator(task_id="reload", **self.remote, **local, **arguments).execute({})

    def download(self, name: str) -> Path:
        """Download a folder or a file."""
        remote = {**self.remote, "remote_model_name": name}
        return Path(DownloadModelOperator(task_id="download", **remote, local_path=str(self.serving)).execute({}))

    @property
    def remote(self) -> dict[str, Any]:
        """The arguments that say where the model is in the store."""
        return {"conn_id": CONN_ID, "remote_path": "/models", "remote_model_name": "m"}

    def sent(self) -> list[str]:
        """Tell which files nginx has sent, as far as its log says already."""
        return re.findall(r'"GET /counted/models/m/(\S*[^/ ]) HTTP/1.1" 200', self.log.read_text())


@pytest.fixture
def nginx(servers: Servers) -> Nginx:
    """Give an nginx."""
    return servers.nginx


@pytest.fixture
def place(nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give a model of three files in the store, and a server's folder without one."""
    _connect(monkeypatch, *nginx.address)
    place = Place(nginx.files.parent / "counted.log", nginx.files / "counted" / "models" / "m", tmp_path / "serving")
    place.serving.mkdir()
    place.log.write_text("")
    for file in [file for file in place.model.rglob("*") if file.is_file()]:
        file.unlink()
    for name, size in (("a", SMALL), ("below/large", LARGE), ("z", SMALL)):
        place.write(name, size)
    place.announce()
    return place


def _connect(monkeypatch: pytest.MonkeyPatch, host: str, port: int) -> None:
    way = Way(fields={"conn_type": "http", "host": f"http://{host}:{port}/counted"})
    for name, value in way.variables.items():
        monkeypatch.setenv(name, value)


def test_a_folder_that_is_nearly_the_same(place):
    """Of a folder only what changed is asked for again, and the digest is that of a model that came whole."""
    first = place.reload()
    assert sorted(place.sent()) == ["a", "below/large", "z"]
    place.log.write_text("")
    place.write("a")
    place.announce()
    second = place.reload()
    assert place.sent() == ["a"]
    assert "HEAD /counted/models/m/z" not in place.log.read_text(), "the listing was not enough"
    live = place.serving / "model"
    assert {name: kind for name, kind in contents(live).items() if name != "fluid_time_file"} == contents(place.model)
    assert live.joinpath("z").samefile(place.serving / ".model.releases" / first["release"] / "z")
    assert place.reload(force=True)["sha256"] == second["sha256"] != first["sha256"]
    assert sorted(place.sent()[1:]) == ["a", "below/large", "z"]


@contextmanager
def _dying(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    """Stand before nginx, and be gone once a connection has brought two thirds of the large file."""
    monkeypatch.setattr(Store, "resume_pauses", (0.0,))
    with dying_proxy(nginx.address, LARGE * 2 // 3) as proxy:
        _connect(monkeypatch, *proxy.address)
        yield proxy


@pytest.mark.parametrize(
    "bring",
    [Place.reload, lambda place: place.download("m"), lambda place: place.download("m/below/large")],
    ids=["reload", "download a folder", "download a file"],
)
def test_a_retry(bring: Callable[[Place], Any], place, nginx, monkeypatch):
    """The next try of a task that broke off goes on behind the last byte that came."""
    with _dying(nginx, monkeypatch) as proxy:
        with pytest.raises(StoreUnreachable):
            bring(place)
        came = sum(proxy.answered)
        proxy.cuts, proxy.gone_after = (), None
        bring(place)
        again = sum(proxy.answered) - came
    total = LARGE + 2 * SMALL
    assert came >= LARGE * 2 // 3
    assert again < total - came + SMALL
    arrived = place.serving.rglob("large")
    assert {path.read_bytes() for path in arrived} == {(place.model / "below" / "large").read_bytes()}
    assert not list(place.serving.rglob("*arriving*"))


def test_a_retry_where_the_model_is_another(place, nginx, monkeypatch):
    """What came of a file that was replaced since is thrown away."""
    with _dying(nginx, monkeypatch) as proxy:
        with pytest.raises(StoreUnreachable):
            place.reload()
        proxy.cuts, proxy.gone_after = (), None
        place.write("below/large", LARGE)
        place.announce()
        place.reload()
    assert (place.serving / "model" / "below" / "large").read_bytes() == (place.model / "below/large").read_bytes()
