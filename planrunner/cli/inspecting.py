"""Looks at the live servers for ``planrunner init``, over read-only sessions, when their passwords are there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError, SecretUnavailable, UsageError
from planrunner.loading import dsn
from planrunner.model import Endpoint, RdsInstance, Secret, Side

if TYPE_CHECKING:
    from planrunner.loading.wishes import Wishes
    from planrunner.postgres.connection import Server
    from planrunner.survey import Survey

_LOCAL = re.compile(r"localhost|127\..*|::1|/.*|")


@dataclass(frozen=True, kw_only=True)
class Look:
    """The wishes with what the servers offer, what was found (None: nothing was looked at), and what to tell."""

    wishes: Wishes
    found: Survey | None
    notes: tuple[str, ...] = ()


def look(wishes: Wishes, folder: Path, *, insist: bool) -> Look:
    """Look at the source, and at the target where that can be done.

    Without ``insist`` a server that can't be asked is a note. ``folder`` is the plan's, where files of passwords lie.
    """
    wishes.check()
    notes: list[str] = []
    servers: dict[str, Server] = {}
    try:
        for side in ("source", "target"):
            if side == "target" and "source" not in servers:
                break
            try:
                wishes, servers[side] = _open(wishes, side, folder, insist=insist)
            except PlanrunnerError as error:
                if insist and side == "source":
                    raise
                notes.append(_note(side, error))
        return Look(wishes=wishes, found=_survey(servers), notes=tuple(notes))
    except PlanrunnerError as error:
        if insist:
            raise
        return Look(wishes=wishes, found=None, notes=(*notes, _note("source", error)))
    finally:
        for server in servers.values():
            server.close()


def _note(side: str, error: PlanrunnerError) -> str:
    text = error.message.removeprefix(f"{side}: ")
    return f"{side} was not looked at: {text}"


def _survey(servers: dict[str, Server]) -> Survey | None:
    if "source" not in servers:
        return None
    from planrunner.replication.surveying import survey

    return survey(servers["source"], servers.get("target"))


def _open(wishes: Wishes, side: str, folder: Path, *, insist: bool) -> tuple[Wishes, Server]:
    secret = _secret(wishes, side, folder, insist=insist)
    wishes = _with_tls(wishes, side)
    from planrunner.clock import SystemClock
    from planrunner.postgres.connection import Server

    server = Server(
        _endpoint(wishes, side, folder),
        clock=SystemClock(),
        resolve=lambda _: secret,
        label="planrunner/init",
    )
    server.identity()
    return wishes, server


def _secret(wishes: Wishes, side: str, folder: Path, *, insist: bool) -> Secret | None:
    """The password: that of the DSN, else from where it is kept. SecretUnavailable when it is not there."""
    given = dsn.parse(wishes.dsn(side)).parameters.get("password")
    if given:
        return Secret(given)
    endpoint = _endpoint(wishes, side, folder)
    if endpoint.password is None and not endpoint.rds_iam:
        if insist or Path("~/.pgpass").expanduser().exists():
            return None
        raise SecretUnavailable(f"{side}: no password is at hand", remedy="Add it to the DSN, or --inspect.")
    from planrunner.secrets import SecretResolver

    return SecretResolver(os.environ).resolve(endpoint)


def _endpoint(wishes: Wishes, side: str, folder: Path) -> Endpoint:
    from planrunner.references import reference

    kept = wishes.keeping(side)
    instance, region = wishes.rds()
    named = kept is not None and not kept.is_token and not kept.is_pgpass
    return Endpoint(
        side=Side(side),
        dsn=wishes.written_dsn(side),
        password=reference({kept.kind: kept.locator}, folder) if kept is not None and named else None,
        rds_iam=kept is not None and kept.is_token,
        rds=RdsInstance(instance=instance, region=region) if instance and side == "source" else None,
    )


def _with_tls(wishes: Wishes, side: str) -> Wishes:
    """The wishes with the TLS mode that the server offers, where the DSN says nothing of it."""
    given = dsn.parse(wishes.dsn(side))
    if "sslmode" in given.parameters:
        return wishes
    from planrunner.postgres.tls_offer import strictest

    found = strictest(wishes.written_dsn(side))
    if found is None:
        return wishes
    if found["sslmode"] == "disable" and not _LOCAL.fullmatch(given.place[0]):
        raise UsageError(
            f"{side}: {given.place[0]} offers no TLS, and no password is sent without it",
            remedy="Where the line is trusted, say so in the DSN: sslmode=disable.",
        )
    return replace(wishes, source_tls=found) if side == "source" else replace(wishes, target_tls=found)
