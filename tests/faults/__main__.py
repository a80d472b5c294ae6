"""Runs every campaign whole, and prints what came of it; ends with an error if anything came that should not."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable

from airflow_serving_reload.demo.processes import Processes

from . import kill_campaign, network_campaign, power_campaign
from .kill_campaign import SCENARIOS, Tally
from .soak import soak

CAMPAIGNS: dict[str, Callable[[str], Tally]] = {
    "Killed by SIGKILL": kill_campaign.attack,
    "Power cut": power_campaign.attack,
}

DELIVERIES = 500
"""Of the soak."""


def main() -> int:
    """Run them, and give the status to exit with."""
    logging.disable(logging.CRITICAL)
    power_campaign.require_loop_devices()
    faults: list[str] = []
    for campaign, attack in CAMPAIGNS.items():
        print(f"\n| {campaign} | points | faults |\n|---|---:|---:|", flush=True)
        for name in SCENARIOS:
            tally = attack(name)
            print(f"| {name} | {tally.killed} | {len(tally.faults)} |", flush=True)
            faults += [f"{campaign}, {name}, {fault}" for fault in tally.faults]
    faults += break_the_network()
    soaked = soak(DELIVERIES)
    print(f"\n{soaked.table()}", flush=True)
    if (soaked.served, soaked.failed, soaked.mixed) != (DELIVERIES, [], 0):
        faults.append(f"soak: {soaked}")
    print("", *faults, sep="\n")
    return bool(faults)


def break_the_network() -> list[str]:
    """Run the campaign against each server, and give the faults."""
    # keeps whatever Airflow writes out of the home of whoever runs this
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())
    print("\n| Network | cases | delivered | refused | damaged, uncaught | faults |\n|---|---:|---:|---:|---:|---:|")
    faults: list[str] = []
    for server in network_campaign.SERVERS.values():
        with Processes(unwind_on_signals=False) as processes, server(processes) as transport:
            for name in network_campaign.SCENARIOS:
                tally = network_campaign.attack(transport, name)
                counts = (tally.cases, tally.delivered, tally.refused, tally.unnoticed, len(tally.faults))
                print(f"| {transport.name}, {name} | {' | '.join(map(str, counts))} |", flush=True)
                faults += tally.faults
    return faults


if __name__ == "__main__":
    sys.exit(main())
