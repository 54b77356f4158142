"""Where the states of a fleet's members are, and how they are reached from here."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from planrunner.cli.homes import Sessions, home_of
from planrunner.fleet.errand import MEMBER
from planrunner.fleet.homes import beside, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from planrunner.fleet.folder import Folder
    from planrunner.fleet.homes import HomeOf
    from planrunner.fleet.model import Fleet, Member
    from planrunner.model import Plan
    from planrunner.ports import StateHome


def homes(fleet: Fleet, folder: Folder) -> HomeOf:
    """The members' homes; whoever opens one outside the folder is told what keeps him from it."""
    return beside(folder) if fleet.state is None else _Elsewhere(fleet, folder).home


class _Elsewhere:
    """Homes in databases or a bucket; each member's plan is read once."""

    def __init__(self, fleet: Fleet, folder: Folder) -> None:
        self._fleet = fleet
        self._folder = folder
        self._plans: dict[str, Plan] = {}

    def home(self, member: Member) -> AbstractContextManager[StateHome]:
        return self._opened(member)

    @contextmanager
    def _opened(self, member: Member) -> Iterator[StateHome]:
        environ = {**os.environ, MEMBER: member.name}
        where = place(self._fleet, self._folder, member.name)
        with ExitStack() as stack:
            sessions = Sessions(environ=environ, stack=stack)
            yield home_of(
                self._plan(member, environ), where, self._folder.state(member.name), sessions=sessions
            )

    def _plan(self, member: Member, environ: dict[str, str]) -> Plan:
        from planrunner.loading import load
        from planrunner.secrets import SecretResolver

        if member.name not in self._plans:
            self._plans[member.name] = load(
                member.plan,
                variables=member.variables,
                environ=environ,
                resolve=SecretResolver(environ).resolve_ref,
            )
        return self._plans[member.name]
