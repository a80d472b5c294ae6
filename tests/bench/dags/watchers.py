"""Dags of many donefiles each, as the file WATCHERS_BENCH describes them; they watch, and never run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher

from airflow_serving_reload.sensors import DonefileSensor
from airflow_serving_reload.triggers import DonefileTrigger

DAG_SIZE = 100
"""Assets of one Dag; what parses them needs far more memory for many in one Dag."""

START, FILE_SIZE = int(Path(__file__).stem.rpartition("_")[2]), int(os.environ["WATCHERS_BENCH_FILE_SIZE"])
"""Which of the donefiles this file is about; sensors are all in the first one."""

# a Dag runs when all of its assets have changed
NEVER = Asset("never changed")

for group in json.loads(Path(os.environ["WATCHERS_BENCH"]).read_text()):
    name, watch = group["name"], {"conn_id": group["conn_id"], "poke_interval": group["poke_interval"]}
    places = [{"remote_path": path, "remote_donefile_name": donefile} for path, donefile in group["donefiles"]]
    if group["deferred"] and START:
        continue
    if group["deferred"]:
        with DAG(f"{name}_sensors", schedule=None, max_active_tasks=len(places)):
            DonefileSensor.partial(task_id="wait", deferrable=True, timeout=86400, **watch).expand_kwargs(places)
        continue
    watch["last_seen"] = group["last_seen"]
    for start in range(START, min(START + FILE_SIZE, len(places)), DAG_SIZE):
        assets = []
        for number, place in enumerate(places[start : start + DAG_SIZE], start):
            trigger = DonefileTrigger(asset_name=f"{name} {number}", **watch, **place)
            assets.append(Asset(trigger.asset_name, watchers=[AssetWatcher(name="watcher", trigger=trigger)]))
        with DAG(f"{name}_{start // DAG_SIZE}", schedule=[*assets, NEVER]):
            EmptyOperator(task_id="never")
