"""`make demo`: a model is trained, uploaded, noticed and served, through a real Airflow, and nobody has to wait."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_serving_reload.demo.airflow_client import AirflowClient, AirflowError
from airflow_serving_reload.demo.airflow_stack import AirflowStack
from airflow_serving_reload.demo.host import MODEL, Answer, Reader, ServingHost
from airflow_serving_reload.demo.processes import ProcessError

DAGS = Path(__file__).parents[2] / "dags"
TRAIN, RELOAD = "uci_housing_train", "uci_housing_reload"
VERSION = "demo-1"
RUN_SECONDS = 120.0


def main() -> int:
    """Run the demo; on a terminal, leave everything up until it is interrupted.

    :return: 0 only if the new model was served and no request failed.
    """
    options = _options()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="airflow-serving-reload-"))
    try:
        return _run(folder, stay=options.stay, began=began)
    except (ProcessError, AirflowError) as error:
        _say(f"The demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        _say("Interrupted; everything is stopped.")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, *, stay: bool, began: float) -> int:
    _say("Training an initial model and starting a store and a model server ...")
    with ServingHost(folder) as host:
        with Reader(host.probe_url) as reader:
            before = reader.wait_for_another(None, seconds=RUN_SECONDS)
        _say(f"The server answers: this house costs {before.price:.2f}." if before else "The server does not answer.")
        _say("Starting Airflow: API server, scheduler, dag-processor, triggerer ...")
        with AirflowStack(
            folder / "airflow",
            dags_folder=DAGS,
            environment={**host.environment(), "UCI_HOUSING_TRAINING_SCHEDULE": ""},
            parallelism=2,
        ) as airflow:
            airflow.client.wait_for_dags(TRAIN, RELOAD)
            _say(f"Airflow is up at {airflow.url} after {time.monotonic() - began:.0f} s. Training a new model ...")
            # Neither earlier nor longer: asking without a pause takes all of the processor that Airflow leaves.
            with Reader(host.probe_url) as reader:
                report = _deliver(airflow.client, host, reader, before)
            _say("\n" + _table(report))
            served = report["new model served"] == "yes"
            fine = served and reader.failed == 0 and not reader.mixed()
            if stay:
                _say(f"\nLook around at {airflow.url} (no login needed). Ctrl+C stops everything.")
                signal.pause()
            return 0 if fine else 1


def _deliver(client: AirflowClient, host: ServingHost, reader: Reader, before: Answer | None) -> dict[str, Any]:
    run_id = client.trigger(TRAIN, {"version": VERSION, "epochs": 30, "seed": 7})
    client.wait_for_run(TRAIN, run_id, seconds=RUN_SECONDS)
    uploaded = client.xcom(TRAIN, run_id, "upload_model")
    _say("The model is uploaded, its donefile is changed; the triggerer should notice ...")
    after = reader.wait_for_another(before, seconds=RUN_SECONDS)
    delivered: dict[str, Any] = {}
    if after:
        [reload] = client.runs(RELOAD)
        client.wait_for_run(RELOAD, reload.run_id, seconds=RUN_SECONDS)
        delivered = client.xcom(RELOAD, reload.run_id, "reload_model")
    changed = (host.store_folder / "models" / "uci_housing" / "donefile").stat().st_mtime
    proved = bool(after) and delivered.get("confirmed") and delivered.get("sha256") == uploaded["sha256"]
    return {
        "version before": f"the initial {MODEL}",
        "version after": delivered.get("donefile", {}).get("content", {}).get("version", "none"),
        "release": delivered.get("release", "none"),
        "price before": f"{before.price:.4f}" if before else "none",
        "price after": f"{after.price:.4f}" if after else "none",
        "seconds from donefile to served": f"{reader.first_seen[after] - changed:.2f}" if after else "none",
        "new model served": "yes" if proved else "no",
        "requests sent": reader.sent,
        "requests failed": reader.failed,
        "answers that mix two models": len(reader.mixed()),
    }


def _table(report: dict[str, Any]) -> str:
    names = max(len(name) for name in report)
    values = max(len(str(value)) for value in report.values())
    rule = f"+-{'-' * names}-+-{'-' * values}-+"
    rows = [f"| {name:<{names}} | {value!s:<{values}} |" for name, value in report.items()]
    return "\n".join([rule, *rows, rule])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m airflow_serving_reload.demo", description=__doc__)
    parser.add_argument(
        "--stay",
        action=argparse.BooleanOptionalAction,
        default=sys.stdout.isatty() and sys.stdin.isatty(),
        help="leave Airflow, the store and the server up at the end (default: on a terminal)",
    )
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what a demo says


if __name__ == "__main__":
    sys.exit(main())
