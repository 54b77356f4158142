"""Who performs the runs of a fleet's members: children of this process, or tasks of a pool."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.fleet.crew import Errand, Hand, Runners
    from planrunner.fleet.errand import MemberTask
    from planrunner.fleet.folder import Folder
    from planrunner.fleet.model import Fleet, Member


def with_pool(fleet: Fleet, address: str) -> Fleet:
    """The same with the workers of another scheduler; UsageError for an address, or a fleet, that can't have one."""
    from planrunner.errors import UsageError
    from planrunner.fleet.portable import NEEDS_STATE
    from planrunner.loading.pool import refused_address
    from planrunner.model import DaskPool

    refused = refused_address(address) or (NEEDS_STATE if fleet.state is None else None)
    if refused is not None:
        raise UsageError(f"--pool: {refused[0]}", remedy=refused[1])
    return replace(fleet, pool=replace(fleet.pool or DaskPool(address=address), address=address))


@contextmanager
def crew(
    fleet: Fleet, folder: Folder, words: tuple[str, ...], tell: Callable[[str], None]
) -> Iterator[Callable[[Member], Hand | Errand]]:
    """What begins a member's run, with ``words`` as more options; PoolLost or PoolUnfit when nobody can."""
    from planrunner.clock import SystemClock
    from planrunner.fleet.crew import Errand, Hand

    if fleet.state is None:
        yield lambda member: Hand(fleet, member, folder, words, os.environ)
        return
    runners, clock = _runners(fleet), SystemClock()
    try:
        told = runners.open()
        if told is not None:
            tell(told)
        yield lambda member: Errand(
            member, task_of(fleet, member, folder, words, runners.code), runners, folder, clock
        )
    finally:
        runners.close()


def _runners(fleet: Fleet) -> Runners:
    from planrunner.fleet.errand import perform
    from planrunner.fleet.here import Here

    if fleet.pool is None:
        return Here()
    from planrunner.pools.cluster import Cluster

    return Cluster(fleet.pool, perform)


def task_of(fleet: Fleet, member: Member, folder: Folder, words: tuple[str, ...], code: str) -> MemberTask:
    """One attempt at a member, with its files as they are now."""
    from planrunner.fleet.errand import MemberTask
    from planrunner.fleet.homes import place
    from planrunner.fleet.portable import packed

    return MemberTask(
        key=f"{fleet.name}/{member.name}/{uuid.uuid4().hex}",
        code=code,
        member=member.name,
        plan=member.plan.name,
        state=place(fleet, folder, member.name),
        variables=tuple(member.variables.items()),
        words=words,
        files=packed(member.plan, member.files),
    )
