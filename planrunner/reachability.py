"""Tells of a source that was not reached what AWS knows of the cause, and of one that was, how it is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import dialling
from planrunner.errors import CloudError, ConnectionFailed, PlanrunnerError, ServerError
from planrunner.on_demand import on_demand
from planrunner.postgres import preflight_reach
from planrunner.postgres.failures import dsn_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.aws import ec2, reach
    from planrunner.aws.ec2 import Network
    from planrunner.dialling import Caller, Trouble
    from planrunner.model import Endpoint, Finding, Plan
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server
else:
    # Nothing of AWS is loaded before something fails.
    ec2 = on_demand("planrunner.aws.ec2")
    reach = on_demand("planrunner.aws.reach")

# A server that restarts is dialled again and again; its cause is not asked for each time.
_KEPT_SECONDS = 20.0
_PORT = 5432


class Explainer:
    """Adds to a failed connection what AWS shows to be in the way; asks AWS only then, and not at every attempt."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._told: tuple[float, Trouble, tuple[str, str]] | None = None

    def explained(
        self, failure: ConnectionFailed, trouble: Trouble, dialled: Mapping[str, str]
    ) -> ConnectionFailed:
        """The same failure with cause and command; where AWS can't be asked, with a line that says why not."""
        now = self._clock.monotonic()
        told = self._told
        if told is None or told[1] is not trouble or now - told[0] > _KEPT_SECONDS:
            told = self._told = (now, trouble, self._asked(trouble, dialled))
        cause, remedy = told[2]
        return ConnectionFailed(
            f"{failure.message}; {cause}" if cause else failure.message,
            remedy=remedy if cause else f"{failure.remedy or ''}\n{remedy}".strip(),
            sqlstate=failure.sqlstate,
        )

    def _asked(self, trouble: Trouble, dialled: Mapping[str, str]) -> tuple[str, str]:
        """The cause, empty where AWS could not be asked, and what to do."""
        own = self._endpoint
        assert own.rds is not None
        host, port = place(own, dialled)
        try:
            found = reach.likely_cause(
                ec2.Network(own.rds, hasty=True),
                trouble,
                host=host,
                port=port,
                caller=dialling.runner(host, port),
                named=own.ingress_ranges,
            )
        except PlanrunnerError as error:
            remedy = f" {error.remedy}" if error.remedy else ""
            return "", f"AWS could not be asked for the cause: {error.message}.{remedy}"
        remedies = list(found.remedies)
        if own.authorize_ingress and any("authorize-security-group-ingress" in line for line in remedies):
            remedies.append(
                "Or let `planrunner run` make it, as authorize_ingress says; where it could not, it has told why."
            )
        return f"the likely cause: {found.text}", "\n".join(remedies)


def place(endpoint: Endpoint, dialled: Mapping[str, str] | None = None) -> tuple[str, int]:
    """The one host and port by which an endpoint is dialled."""
    given = {**dsn_parameters(endpoint), **(dialled or {})}
    host = (given.get("hostaddr") or given.get("host") or "localhost").split(",")[0]
    port = (given.get("port") or str(_PORT)).split(",")[0]
    return host, int(port) if port.isdigit() else _PORT


def network_findings(plan: Plan, source: Server) -> tuple[Finding, ...]:
    """What a preflight tells of the source's network; where AWS can't be asked, that."""
    own = plan.source
    if own.rds is None:
        return ()
    network, pair = network_of(own), callers(own, plan.target)
    named = own.ingress_ranges
    addresses = [address for caller in pair for address in caller.addresses]
    try:
        now = network.placement()
        gate = reach.gate(network, now, now.port or place(own)[1], [*named, *addresses])
        found = preflight_reach.reach(network, now, gate, pair, named=named, answered=_answers(source))
        return tuple(found)
    except CloudError as error:
        return (preflight_reach.unasked(error),)


def _answers(source: Server) -> bool:
    try:
        source.identity()
    except ServerError:
        return False
    return True


def callers(source: Endpoint, target: Endpoint) -> tuple[Caller, Caller]:
    """This machine and the target, as the source sees them."""
    host, port = place(source)
    return dialling.runner(host, port), dialling.other(place(target)[0], host, port)


def network_of(source: Endpoint) -> Network:
    """The calls on the source's network; its plan names an instance."""
    assert source.rds is not None
    return ec2.Network(source.rds)
