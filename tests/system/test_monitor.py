"""Side by side with the genuine `monitor.py`, and models that cross over from one to the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from airflow_serving_reload.demo.processes import Processes
from airflow_serving_reload.operators import UploadModelOperator

from .monitor import Monitor, Provider, SideBySide, Verdict, table
from .remotes import ARCHIVE, DONEFILE, Ftp, General, OfHdfs, Remote, packed, write_model
from .running import wait_until

pytestmark = pytest.mark.system

CONN_ID = "remote"

FIRST, NEXT, SAME_MINUTE = "the first upload", "the next upload", "one more within the same minute"
OLDER, NEWER = "an older upload put back, with its own times", "a newer upload again"
TRUNCATED, REPAIRED = "half an archive, with a donefile", "the whole archive"
REMOVED, PUT_AGAIN = "the donefile removed", "the donefile put again, with a model"
RESTARTED, IDLE = (
    "an upload after a restart of the server",
    "an upload after a pause that is longer than an FTP server waits",
)

FAULTS = {
    "general": {OLDER: Verdict.KEPT, TRUNCATED: Verdict.BROKEN},
    "ftp": {TRUNCATED: Verdict.BROKEN, RESTARTED: Verdict.ENDED, IDLE: Verdict.ENDED},
    "hdfs": {SAME_MINUTE: Verdict.KEPT, TRUNCATED: Verdict.BROKEN},
}
"""What `monitor.py` makes of some uploads: `wget -N` takes nothing older, its FTP connection is never opened again,
`hadoop fs -ls` tells minutes, and it takes what is left of a broken archive for the model."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give what everything is undone with that a test starts."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def own_processes(stack: ExitStack) -> Processes:
    """Own the processes of a test."""
    return stack.enter_context(Processes(unwind_on_signals=False))


@pytest.fixture(params=["general", "ftp", "hdfs"])
def remote(
    request: pytest.FixtureRequest,
    stack: ExitStack,
    own_processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Remote:
    """Start a remote of each kind, with nothing in it, and connect this provider to it."""
    remote: Remote
    folder = tmp_path / "remote"
    match request.param:
        case "general":
            remote = General(own_processes, folder)
        case "ftp":
            remote = Ftp(stack, folder)
        case _:
            nodes = request.getfixturevalue("processes")
            by_client = request.param == "hadoop_cli"
            remote = OfHdfs(nodes, request.getfixturevalue("hdfs"), folder, by_client=by_client)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(remote.connection))
    return remote


@pytest.fixture
def monitor(own_processes: Processes, launcher_python: Path, remote: Remote, tmp_path: Path) -> Monitor:
    """Start the genuine `monitor.py`."""
    return Monitor(own_processes, launcher_python, tmp_path / "monitor", remote)


@pytest.fixture
def provider(stack: ExitStack, remote: Remote, tmp_path: Path) -> Provider:
    """Watch with this provider."""
    provider = Provider(tmp_path / "provider", CONN_ID)
    stack.enter_context(provider.watching())
    return provider


def test_side_by_side(
    remote: Remote,
    monitor: Monitor,
    provider: Provider,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Of the same uploads we deliver each whole one and nothing else, while `monitor.py` shows all of its faults."""
    both = SideBySide(monitor, provider)
    midnight = time.time() // 86400 * 86400 - 86400

    def upload(version: str, clock: str, share: float = 1.0) -> Callable[[], None]:
        hours, minutes, seconds = map(int, clock.split(":"))
        return partial(remote.upload, version, midnight + 3600 * hours + 60 * minutes + seconds, share=share)

    def upload_after_restart() -> None:
        with remote.stopped():
            both.pause()
        upload("v7", "13:00:00")()

    def upload_after_pause() -> None:
        both.pause()
        upload("v8", "14:00:00")()

    rows = [
        both.after(FIRST, upload("v1", "08:00:00"), due="v1"),
        both.after(NEXT, upload("v2", "09:00:10"), due="v2"),
        both.after(SAME_MINUTE, upload("v3", "09:00:40"), due="v3"),
        both.after(OLDER, upload("v1", "08:00:00"), due="v1"),
        both.after(NEWER, upload("v4", "10:00:00"), due="v4"),
        both.after(TRUNCATED, upload("v5", "11:00:00", share=0.5), due=None),
        both.after(REPAIRED, upload("v5", "11:10:00"), due="v5"),
        both.after(REMOVED, lambda: remote.remove(DONEFILE), due=None),
        both.after(PUT_AGAIN, upload("v6", "12:00:00"), due="v6"),
        both.after(RESTARTED, upload_after_restart, due="v7"),
        both.after(IDLE, upload_after_pause, due="v8"),
    ]
    shown = table(remote.kind, rows)
    (tmp_path / "table.md").write_text(shown + "\n")
    record_property("table", shown)

    right = {row.event: Verdict.LIVE if row.due else Verdict.KEPT for row in rows}
    assert {row.event: row.provider.verdict for row in rows} == {**right, TRUNCATED: Verdict.REFUSED}
    assert provider.delivered == [row.due for row in rows if row.due]
    assert {row.event: row.monitor.verdict for row in rows} == {**right, **FAULTS[remote.kind]}


ALL_WAYS = pytest.mark.parametrize("remote", ["general", "ftp", "hdfs", "hadoop_cli"], indirect=True)


@ALL_WAYS
@pytest.mark.parametrize("donefile_format", ["json", "empty"])
def test_monitor_delivers_what_we_upload(
    remote: Remote, monitor: Monitor, tmp_path: Path, donefile_format: str
) -> None:
    """A model that our operator uploads is delivered by `monitor.py`, whatever is in the donefile."""
    UploadModelOperator(
        task_id="upload",
        conn_id=CONN_ID,
        local_model_path=str(write_model(tmp_path / "training", "v1")),
        remote_path="/",
        remote_model_name=ARCHIVE,
        donefile_format=donefile_format,
    ).execute({})
    wait_until(lambda: monitor.mark().deliveries or monitor.ended(), "monitor.py's delivery")
    assert monitor.live() == "v1"


@ALL_WAYS
def test_we_deliver_what_monitor_does(remote: Remote, monitor: Monitor, provider: Provider, tmp_path: Path) -> None:
    """A model that gets there in the plain way, and then an empty donefile, is delivered by both."""
    (tmp_path / ARCHIVE).write_bytes(packed("v1"))
    (tmp_path / DONEFILE).touch()
    remote.push(tmp_path / ARCHIVE)
    remote.push(tmp_path / DONEFILE)
    wait_until(lambda: monitor.mark().deliveries or monitor.ended(), "monitor.py's delivery")
    wait_until(lambda: provider.delivered, "our delivery")
    assert (monitor.live(), provider.delivered) == ("v1", ["v1"])
