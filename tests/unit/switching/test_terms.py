"""A plan's `switch` list: what is accepted, what is said of what is not, and the values it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.errors import PlanInvalid
from planrunner.loading import load
from planrunner.model import SecretKind
from planrunner.switching.terms import (
    CommandTerms,
    PgBouncerTerms,
    Place,
    Route53Terms,
    SecretsManagerTerms,
    entries,
)

if TYPE_CHECKING:
    from pathlib import Path

    from planrunner.switching.terms import Entry

PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: orders}
vars: {pool: {default: app}}
connections:
  source: {dsn: "postgresql://m@old/app"}
  target: {dsn: "postgresql://m@new/app"}
steps:
  - id: cutover
    uses: cutover_verify
    with:
      switch:
"""


def loaded(folder: Path, *lines: str) -> tuple[Entry, ...]:
    path = folder / "plan.yaml"
    path.write_text(PLAN + "".join(f"        {line}\n" for line in lines))
    return entries(load(path).steps[0].options["switch"], folder)


def refused(folder: Path, *lines: str) -> str:
    with pytest.raises(PlanInvalid) as invalid:
        loaded(folder, *lines)
    return str(invalid.value)


def test_every_kind_becomes_its_terms_in_the_plans_order(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "- command: {after_commit: [systemctl, restart, app], timeout: 2m}",
        "- pgbouncer: {admin: 'postgresql://a@pool/pgbouncer', database: '{{ vars.pool }}', config: ./pool.ini,",
        "    password: {secret: {file: ./pool.password}}, target: {host: 10.0.0.7, port: 6}, timeout: 500ms}",
        "- pgbouncer: {admin: 'host=b', database: app, config: {command: [ssh, pooler, lead]}}",
        "- route53: {zone_id: Z1, name: db.example.com, region: eu-west-1, target_value: t.example.com}",
        "- secretsmanager: {secret_id: prod/app, keys: {host: HOST}}",
    )
    command, file, remote, record, secret = found
    assert isinstance(command, CommandTerms)
    assert (command.before_fence, command.after_commit) == ((), ("systemctl", "restart", "app"))
    assert command.timeout == 120
    assert isinstance(file, PgBouncerTerms)
    assert (file.database, file.config, file.timeout) == ("app", tmp_path / "pool.ini", 0.5)
    assert file.places.target == Place(host="10.0.0.7", port=6)
    assert file.places.source == Place()
    assert file.password is not None
    assert (file.password.kind, file.password.locator) == (SecretKind.FILE, str(tmp_path / "pool.password"))
    assert isinstance(remote, PgBouncerTerms)
    assert (remote.config, remote.command, remote.password) == (None, ("ssh", "pooler", "lead"), None)
    assert isinstance(record, Route53Terms)
    assert (record.type, record.ttl, record.access.region) == ("CNAME", None, "eu-west-1")
    assert isinstance(secret, SecretsManagerTerms)
    assert secret.keys == {"host": "HOST"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("- pgbuncer: {}", 'Did you mean "pgbouncer"'),
        ("- {command: {after_commit: [a]}, route53: {zone_id: Z, name: n}}", "got several"),
        ("- {}", "this is empty"),
        ("- pgbouncer: {admin: a, database: d, config: f, databse: x}", 'unknown key "databse"'),
        ("- pgbouncer: {admin: a, config: f}", 'the key "database" is missing'),
        (
            "- pgbouncer: {admin: a, database: d, config: f, password: hush}",
            "Refer to where the password is kept",
        ),
        (
            "- pgbouncer: {admin: a, database: d, config: f, password: {secret: {env: A, file: b}}}",
            "exactly one of",
        ),
        (
            "- pgbouncer: {admin: a, database: d, config: f, password: {secret: {file: /etc/x}}}",
            "plan's folder",
        ),
        ("- command: {after_commit: systemctl restart app}", "expected list"),
        ("- command: {timeout: 3 s}", "a duration such as"),
        ("- route53: {zone_id: Z, name: n, type: MX}", "unknown value"),
    ],
)
def test_a_wrong_entry_is_told_as_what_is_wrong_with_it(line: str, message: str, tmp_path: Path) -> None:
    said = refused(tmp_path, line)
    assert message in said
    assert "hush" not in said.replace(line, "")
