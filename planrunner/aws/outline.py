"""An RDS instance of which nothing is asked: for what a plan alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.aws.rds import DbInstance, Rds
from planrunner.clock import SystemClock

if TYPE_CHECKING:
    from planrunner.model import RdsInstance

UNKNOWN = DbInstance(
    identifier="…",
    status="…",
    engine="postgres",
    engine_version="…",
    family="…",
    group="…",
    apply_status="…",
    host=None,
    port=None,
)


def described_only(instance: RdsInstance) -> Rds:
    """The calls on ``instance`` as words; a client, which would look for credentials, is made by none of them."""
    return Rds(instance, SystemClock())
