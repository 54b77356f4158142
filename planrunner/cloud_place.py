"""Where copy and stream of a target at SerenDB are made: in SerenAI's cloud, or here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.model import RunOn, SecretKind, SecretRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Plan, Seren

KEY_VARIABLE = "SEREN_API_KEY"
_FROM_ENVIRONMENT = SecretRef(kind=SecretKind.ENV, locator=KEY_VARIABLE)


def settled(plan: Plan, environ: Mapping[str, str], *, local: bool) -> Plan:
    """The plan, with the place decided where its target is at SerenDB; ``local`` is --local."""
    seren = plan.target.seren
    if seren is None:
        return plan
    return replace(plan, target=replace(plan.target, seren=_decided(seren, environ, local=local)))


def _decided(seren: Seren, environ: Mapping[str, str], *, local: bool) -> Seren:
    found = bool(environ.get(KEY_VARIABLE))
    key = seren.api_key or _FROM_ENVIRONMENT
    if local:
        return replace(seren, api_key=key, place=RunOn.LOCAL, why="--local was given")
    if seren.run_on is RunOn.LOCAL:
        return replace(seren, api_key=key, place=RunOn.LOCAL, why="the plan says run_on: local")
    if seren.run_on is RunOn.CLOUD:
        return replace(seren, api_key=key, place=RunOn.CLOUD, why="the plan says run_on: cloud")
    if seren.api_key is not None:
        return replace(seren, api_key=key, place=RunOn.CLOUD, why="the plan names an API key")
    if found:
        return replace(seren, api_key=key, place=RunOn.CLOUD, why=f"{KEY_VARIABLE} is set")
    return replace(
        seren, api_key=key, place=RunOn.LOCAL, why=f"there is no API key ({KEY_VARIABLE} is not set)"
    )
