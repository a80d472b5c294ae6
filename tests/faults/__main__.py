"""Runs every campaign whole, and prints what came of it; ends with an error if anything came that should not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from . import kill_campaign, power_campaign
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
    soaked = soak(DELIVERIES)
    print(f"\n{soaked.table()}", flush=True)
    if (soaked.served, soaked.failed, soaked.mixed) != (DELIVERIES, [], 0):
        faults.append(f"soak: {soaked}")
    print("", *faults, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
