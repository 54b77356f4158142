"""The report as JSON, and the digest by which a saved page is matched with it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planrunner.engine.report_model import Report


def to_json(report: Report) -> str:
    """The report as indented JSON; the same report gives the same bytes."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False, default=_plain) + "\n"


def digest(report: Report) -> str:
    """The SHA-256 of the JSON file, as ``sha256sum`` prints it."""
    return hashlib.sha256(to_json(report).encode()).hexdigest()


def _plain(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case Enum():
            return str(value.value)
        case _:
            raise TypeError(f"a report holds no {type(value).__name__}")
