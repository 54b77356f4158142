"""``write`` until a line comes in, or ``judge`` a database by the ledger; JSON on stdout. DSNs are in the environment."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.faults.referee.client import Client
from tests.faults.referee.judge import judge


def main() -> None:
    given = argparse.ArgumentParser(prog="referee")
    given.add_argument("verb", choices=("write", "judge"))
    given.add_argument("ledger", type=Path)
    given.add_argument("--rate", type=float, default=360)
    given.add_argument("--workers", type=int, default=8)
    given.add_argument("--seed", type=int, default=0)
    options = given.parse_args()
    source, target = os.environ.get("REFEREE_SOURCE", ""), os.environ.get("REFEREE_TARGET", "")
    if options.verb == "judge":
        _say(asdict(judge(target, options.ledger, former=source or None)))
        return
    client = Client(
        (source, target), options.ledger, rate=options.rate, workers=options.workers, seed=options.seed
    )
    client.start()
    sys.stdin.readline()
    _say(client.stop())


def _say(told: object) -> None:
    sys.stdout.write(json.dumps(told) + "\n")


main()
