"""Switches at AWS: a DNS record of Route 53, and host and port in a secret of Secrets Manager."""

from __future__ import annotations

import ipaddress
from functools import cached_property
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Mark, Side
from planrunner.postgres.preflight_section import TRAFFIC, Check
from planrunner.switching.terms import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planrunner.aws.route53 import Record, Zone
    from planrunner.model import Finding
    from planrunner.switching.hooks import Destination, Surroundings
    from planrunner.switching.terms import Route53Terms, SecretsManagerTerms

RECORD = Check(
    code="PR1307",
    section=TRAFFIC,
    title="The DNS record can be led to the other side",
    why="A record that is not there, is an alias or can't be read is noticed at the cutover otherwise, with the writers"
    " stopped.",
    mend="Correct its name, type or value in the plan, or the IAM policy of whoever runs planrunner.",
    can=(Mark.FAIL,),
)
TTL = Check(
    code="PR1308",
    section=TRAFFIC,
    title="Resolvers keep the DNS record for a minute at most",
    why="For as long as its TTL clients go on to the former side, which refuses their writes.",
    mend="Lower the record's TTL a day before the cutover.",
)
SECRET = Check(
    code="PR1309",
    section=TRAFFIC,
    title="The applications' secret can be rewritten",
    why="A secret that can't be read, or lacks the members that the plan names, is noticed at the cutover otherwise.",
    mend="Correct keys in the plan, or the IAM policy of whoever runs planrunner.",
    can=(Mark.FAIL,),
)


class Route53:
    """Leads a record to the host of the side that traffic goes to."""

    def __init__(self, terms: Route53Terms, surroundings: Surroundings) -> None:
        self._terms = terms
        self._surroundings = surroundings

    @property
    def title(self) -> str:
        """The record."""
        return f"route53 {self._terms.name} {self._terms.type}"

    def prepare(self, to: Side) -> None:
        """See that the record is there and could be changed."""
        self._record()
        self._value(to)

    def before_fence(self, to: Side) -> None:
        """DNS holds nobody back."""

    def check(self) -> None:
        """Nothing is held back."""

    def after_commit(self, to: Side) -> None:
        """UPSERT and wait until every name server has it; nothing when the record says so already."""
        terms, record, value = self._terms, self._record(), self._value(to)
        ttl = record.ttl if terms.ttl is None else terms.ttl
        if record.values == (value,) and record.ttl == ttl:
            return
        change = self._zone.lead(terms.name, terms.type, value, ttl)
        failpoint("switch.route53")
        self._zone.wait_in_sync(change, terms.timeout)

    def on_rollback(self, to: Side) -> None:
        """Nothing was changed before the commit."""

    def findings(self) -> Sequence[Finding]:
        """Whether the record is there, and how long resolvers keep its former value."""
        return _tried(RECORD, self._told)

    def described(self, to: Side) -> Sequence[str]:
        """The call."""
        terms = self._terms
        ttl = "" if terms.ttl is None else f" TTL {terms.ttl}"
        return [
            f"after the commit: route53 ChangeResourceRecordSets {terms.zone_id}: UPSERT {terms.name}"
            f" {terms.type} {self._value(to)}{ttl}; wait for INSYNC"
        ]

    @cached_property
    def _zone(self) -> Zone:
        # Imported late: only plans that switch at AWS wait for boto3.
        from planrunner.aws.route53 import Zone  # noqa: PLC0415

        return Zone(self._terms.zone_id, self._terms.access, self._surroundings.clock)

    def _record(self) -> Record:
        found = self._zone.record(self._terms.name, self._terms.type)
        if found is None:
            raise StepFailed(
                f"{self.title}: zone {self._terms.zone_id} has no such record",
                remedy="Correct its name or type in the plan, or create it, leading to the source.",
            )
        if not found.plain:
            raise StepFailed(
                f"{self.title} is an alias or belongs to a routing policy; it is left as it is",
                remedy="Name a plain record, or switch it by a command of your own.",
            )
        return found

    def _value(self, to: Side) -> str:
        terms = self._terms
        given = terms.target_value if to is Side.TARGET else terms.source_value
        value = given or self._surroundings.destination(to, Place()).host
        if not value or (terms.type == "A" and not _is_address(value)):
            raise StepFailed(
                f"{self.title}: {value or 'the DSN without a host'} is nothing an {terms.type} record can hold",
                remedy=f"Write {to.value}_value, the value for the {to.value}.",
            )
        return value

    def _told(self) -> Sequence[Finding]:
        record = self._record()
        for side in (Side.TARGET, Side.SOURCE):
            self._value(side)
        ttl = record.ttl
        text = f"{self.title} is {', '.join(record.values)}, TTL {ttl} s"
        if ttl > 60:
            remedy = "Lower its TTL a day before: resolvers keep the former value for as long."
            return [TTL.warned(text, remedy)]
        return [RECORD.passed(text)]


class SecretsManager:
    """Puts host, port and database name of the side that traffic goes to into a JSON secret."""

    def __init__(self, terms: SecretsManagerTerms, surroundings: Surroundings) -> None:
        self._terms = terms
        self._surroundings = surroundings

    @property
    def title(self) -> str:
        """The secret's name."""
        return f"secretsmanager {self._terms.secret_id}"

    def prepare(self, to: Side) -> None:
        """See that the secret can be read and has the members."""
        self._changed(self._members(), to)

    def before_fence(self, to: Side) -> None:
        """A secret holds nobody back."""

    def check(self) -> None:
        """Nothing is held back."""

    def after_commit(self, to: Side) -> None:
        """A new version with the new address; nothing when it says so already."""
        from planrunner.aws.secrets import replace_members  # noqa: PLC0415  # as above

        members = self._members()
        changed = self._changed(members, to)
        if changed != members:
            replace_members(self._terms.secret_id, changed, self._terms.access)
        failpoint("switch.secretsmanager")

    def on_rollback(self, to: Side) -> None:
        """Nothing was changed before the commit."""

    def findings(self) -> Sequence[Finding]:
        """Whether the secret is as the plan says."""
        return _tried(SECRET, self._told)

    def described(self, to: Side) -> Sequence[str]:
        """The call; of the secret only what the plan itself says."""
        address = self._address(to)
        pairs = ", ".join(f"{key}: {address[name]}" for name, key in self._terms.keys.items())
        return [f"after the commit: secretsmanager PutSecretValue {self._terms.secret_id}: {{…, {pairs}}}"]

    def _members(self) -> dict[str, object]:
        from planrunner.aws.secrets import secretsmanager_members  # noqa: PLC0415  # as above

        return secretsmanager_members(self._terms.secret_id, self._terms.access)

    def _address(self, to: Side) -> Mapping[str, str]:
        found: Destination = self._surroundings.destination(to, self._terms.places.of(to))
        return {"host": found.host, "port": found.port, "dbname": found.database}

    def _changed(self, members: Mapping[str, object], to: Side) -> dict[str, object]:
        missing = [key for key in self._terms.keys.values() if key not in members]
        if missing:
            raise StepFailed(
                f"{self.title} has no member {', '.join(missing)}",
                remedy=f"It holds: {', '.join(sorted(members))}. Correct keys in the plan.",
            )
        address = self._address(to)
        # RDS writes the port as a number, others as a text: it stays what it was.
        new = {
            key: int(address[name]) if isinstance(members[key], int) else address[name]
            for name, key in self._terms.keys.items()
        }
        return {**members, **new}

    def _told(self) -> Sequence[Finding]:
        for side in (Side.TARGET, Side.SOURCE):
            self._changed(self._members(), side)
        keys = ", ".join(self._terms.keys.values())
        return [SECRET.passed(f"{self.title} can be read and has {keys}")]


def _tried(check: Check, told: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    try:
        return told()
    except PlanrunnerError as error:
        return [check.failed(error.message, error.remedy)]


def _is_address(value: str) -> bool:
    try:
        return ipaddress.ip_address(value).version == 4
    except ValueError:
        return False
