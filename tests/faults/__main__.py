"""Runs every campaign whole, and prints what came of it; ends with an error if anything came that should not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from . import kill_campaign, power_campaign
from .kill_campaign import SCENARIOS, Tally

CAMPAIGNS: dict[str, Callable[[str], Tally]] = {
    "Killed by SIGKILL": kill_campaign.attack,
    "Power cut": power_campaign.attack,
}


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
    print("", *faults, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
