"""Run campaigns whole, and print what came of each; ends with an error if anything came that should not."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from airflow_serving_reload.demo.processes import Processes

from . import archive_campaign, crowd_campaign, host_campaign, kill_campaign, network_campaign, power_campaign
from .archives import CORPUS
from .kill_campaign import SCENARIOS
from .soak import soak

DELIVERIES = 500
"""Of the soak."""

MUTATIONS = 500
"""How often each valid archive is mutated."""

ROUNDS = 25
"""How often eight processes meet."""


def _unpack_hostile_archives() -> list[str]:
    attacks: dict[str, Callable[[], archive_campaign.Tally]] = {
        **{kind: partial(archive_campaign.attack, kind) for kind in CORPUS},
        **{
            f"{name}, mutated": partial(archive_campaign.fuzz, name, MUTATIONS, anew=True)
            for name in archive_campaign.VALID
        },
    }
    print("\n| Hostile archives | archives | refused | harmless | escaped |\n|---|---:|---:|---:|---:|", flush=True)
    faults = []
    for name, attack in attacks.items():
        tally = attack()
        print(f"| {name} | {tally.archives} | {tally.refused} | {tally.harmless} | {tally.escaped} |", flush=True)
        faults += [f"{name}, {fault}" for fault in tally.faults]
    return faults


def _deliver_to_faulty_hosts() -> list[str]:
    print("\n| Fault of the host | runs | refused | faults |\n|---|---:|---:|---:|", flush=True)
    faults = []
    for name in host_campaign.FAULTS:
        tally = host_campaign.attack(name)
        print(f"| {name} | {tally.runs} | {tally.refused} | {len(tally.faults)} |", flush=True)
        faults += [f"{name}, {fault}" for fault in tally.faults]
    return faults


def _deliver_at_once() -> list[str]:
    print("\n| Eight at once | runs | waited | whole | mixed | errors |\n|---|---:|---:|---:|---:|---:|", flush=True)
    faults = []
    for name in crowd_campaign.CROWDS:
        tally = crowd_campaign.attack(name, rounds=ROUNDS)
        figures = (tally.runs, tally.waited, f"{tally.whole} of {ROUNDS}", len(tally.mixed), len(tally.errors))
        print(f"| {name} | {' | '.join(map(str, figures))} |", flush=True)
        faults += [f"{name}, {fault}" for fault in (*tally.mixed, *tally.errors)]
    return faults


def _interrupt(campaign: str, attack: Callable[[str], kill_campaign.Tally]) -> list[str]:
    print(f"\n| {campaign} | points | faults |\n|---|---:|---:|", flush=True)
    faults = []
    for name in SCENARIOS:
        tally = attack(name)
        print(f"| {name} | {tally.killed} | {len(tally.faults)} |", flush=True)
        faults += [f"{campaign}, {name}, {fault}" for fault in tally.faults]
    return faults


def _break_the_network() -> list[str]:
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


def _soak() -> list[str]:
    soaked = soak(DELIVERIES)
    print(f"\n{soaked.table()}", flush=True)
    fine = (soaked.served, soaked.failed, soaked.mixed) == (DELIVERIES, [], 0)
    return [] if fine else [f"soak: {soaked}"]


CAMPAIGNS: dict[str, Callable[[], list[str]]] = {
    "archives": _unpack_hostile_archives,
    "hosts": _deliver_to_faulty_hosts,
    "crowds": _deliver_at_once,
    "kills": partial(_interrupt, "Killed by SIGKILL", kill_campaign.attack),
    "power": partial(_interrupt, "Power cut", power_campaign.attack),
    "network": _break_the_network,
    "soak": _soak,
}


def main() -> int:
    """Run what the command line names, and give the status to exit with."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("campaign", nargs="*", help=f"{', '.join(CAMPAIGNS)} (default: all)")
    names = parser.parse_args().campaign or list(CAMPAIGNS)
    if unknown := set(names) - set(CAMPAIGNS):
        parser.error(f"there is no campaign {', '.join(sorted(unknown))}")
    logging.disable(logging.CRITICAL)
    if {"hosts", "power"} & set(names):
        power_campaign.require_loop_devices()
    with tempfile.TemporaryDirectory() as home:
        # keeps whatever Airflow writes out of the home of whoever runs this
        os.environ["AIRFLOW_HOME"] = home
        faults = [fault for name in names for fault in CAMPAIGNS[name]()]
    print("", *faults, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
