"""Many deliveries, one behind the other, by one process, to a server that a client asks without a pause."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from airflow_serving_reload.demo.host import MODEL, Reader, ServingHost
from airflow_serving_reload.operators import PaddleServer, ReloadModelOperator, UploadModelOperator

MODELS = 4
RELOAD_INTERVAL = 0.2

TRAINING = """
import sys
from pathlib import Path
from airflow_serving_reload.demo import housing
for seed in range(int(sys.argv[2])):
    housing.train(Path(sys.argv[1], str(seed), sys.argv[3]), seed=seed, epochs=2 + seed)
"""


@dataclass(frozen=True)
class Level:
    """What a process, and the host's folder, hold at one time."""

    memory_kib: int
    open_files: int
    disk_kib: int

    @classmethod
    def of(cls, pid: int, folder: Path) -> Level:
        """Measure a process of this host."""
        gc.collect()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        # the server's own log grows with every reload
        command = ["du", "--summarize", "-k", "--exclude=log", str(folder)]
        used = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return cls(
            memory_kib=int(status["VmRSS"].split()[0]),
            open_files=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names alone
            disk_kib=int(used.stdout.split()[0]),
        )


@dataclass
class Soaked:
    """What came of it.

    :param served: deliveries that the server was proved to serve.
    :param warm: level after the first tenth of the deliveries.
    :param end: level after the last one.
    """

    deliveries: int
    served: int = 0
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: int = 0
    models_seen: int = 0
    warm: Level | None = None
    end: Level | None = None

    def table(self) -> str:
        """Write it as a table."""
        assert self.warm is not None
        assert self.end is not None
        rows = {
            "deliveries": self.deliveries,
            "proved to be served": self.served,
            "requests sent": self.sent,
            "requests failed": len(self.failed),
            "answers that mix two models": self.mixed,
            "memory of the delivering process, KiB": f"{self.warm.memory_kib} → {self.end.memory_kib}",
            "its open files": f"{self.warm.open_files} → {self.end.open_files}",
            "disk of the serving folder without the server's log, KiB": f"{self.warm.disk_kib} → {self.end.disk_kib}",
        }
        return "\n".join(["| Soak | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _ask(url: str, results: Connection) -> None:
    with Reader(url) as reader:
        results.send("asking")
        results.recv()
    results.send((reader.sent, reader.failures, len(reader.mixed()), len(reader.first_seen)))


@contextmanager
def asking(url: str, soaked: Soaked) -> Iterator[None]:
    """Ask a server without a pause, in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_ask, args=(url, there))
    process.start()
    # so that its end is seen here
    there.close()
    try:
        here.recv()
        yield
    finally:
        here.send("enough")
        soaked.sent, soaked.failed, soaked.mixed, soaked.models_seen = here.recv()
        process.join()


def soak(deliveries: int) -> Soaked:
    """Deliver one of a few models after the other, each with a proof, and every tenth by an empty donefile."""
    soaked = Soaked(deliveries)
    with (
        tempfile.TemporaryDirectory() as temporary,
        ServingHost(Path(temporary), reload_interval=RELOAD_INTERVAL) as host,
    ):
        subprocess.run([sys.executable, "-c", TRAINING, str(host.training_path), str(MODELS), MODEL], check=True)
        os.environ["AIRFLOW_CONN_MODEL_STORE"] = json.dumps({"conn_type": "http", "host": host.store_url})
        remote = {"conn_id": "model_store", "remote_path": "/models", "remote_model_name": "model.tar.gz"}
        reload = ReloadModelOperator(
            task_id="reload",
            **remote,
            local_path=str(host.serving_path),
            local_model_name=MODEL,
            unpacked_filename=MODEL,
            server=PaddleServer(log_path=str(host.log_path), probe_url=host.probe_url, reload_interval=RELOAD_INTERVAL),
        )
        with asking(host.probe_url, soaked):
            for number in range(deliveries):
                trained = host.training_path / str(number % MODELS) / MODEL
                donefile_format = "json" if number % 10 else "empty"
                UploadModelOperator(
                    task_id="upload",
                    **remote,
                    local_model_path=str(trained),
                    donefile_format=donefile_format,
                    version=str(number),
                ).execute({})
                soaked.served += reload.execute({})["confirmed"]
                if number == max(deliveries // 10, 1) - 1:
                    soaked.warm = Level.of(os.getpid(), host.serving_path)
        soaked.end = Level.of(os.getpid(), host.serving_path)
    return soaked


if __name__ == "__main__":
    print(soak(int(sys.argv[1])).table())  # noqa: T201
