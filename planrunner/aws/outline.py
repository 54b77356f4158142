"""An RDS instance of which nothing is asked: for what a plan alone tells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.aws.carrier import Carrier, Standing
from planrunner.aws.clusters import AURORA, DbCluster
from planrunner.aws.rds import DbInstance, Rds
from planrunner.clock import SystemClock

if TYPE_CHECKING:
    from planrunner.model import RdsInstance

_UNKNOWN = DbInstance(
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


def described_only(instance: RdsInstance) -> Carrier:
    """The calls on ``instance`` as words; a client, which would look for credentials, is made by none of them."""
    return Carrier(Rds(instance, SystemClock()))


def unknown(instance: RdsInstance, *, clustered: bool) -> Standing:
    """How it stands as far as a plan tells: its name, and whether the DSN leads to a cluster."""
    own = replace(_UNKNOWN, identifier=instance.instance)
    if not clustered:
        return Standing(instance=own)
    cluster = DbCluster(
        identifier="…",
        status="…",
        engine=AURORA,
        group="…",
        writer=instance.instance,
        applied={},
        window="",
        endpoint="…",
        copies=None,
    )
    return Standing(instance=replace(own, cluster="…", engine=AURORA), cluster=cluster)
