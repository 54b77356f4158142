"""The secrets of the place where they come from, and the plan that is full of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import boto3
from psycopg import sql

from tests.faults.canaries import SHAPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.faults.canary_place import Place

ACCOUNT = "123456789012"
ONLOOKER = "on-looker"
SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, tenant text);
INSERT INTO orders SELECT n, 'tenant ' || n FROM generate_series(1, 200) n;
-- Large enough for a psql of its own.
CREATE TABLE parcels (id int PRIMARY KEY, filler text);
ALTER TABLE parcels ALTER filler SET STORAGE EXTERNAL;
INSERT INTO parcels SELECT n, repeat(md5(n::text), 300) FROM generate_series(1, 500) n;
CREATE EXTENSION pg_stat_statements;
"""
HOOK = """#!/bin/sh
printf '%s\\n' "$GIVEN" "$KEPT"
# Its end is shown: a secret must not be cut in two there.
printf '%s%0990d\\n' "$KEPT" 7
"""


def fill(place: Place, admin: str) -> None:
    """Put the secrets where they come from, and the plan beside them."""
    new, write = place.canaries.new, place.write
    source, target = new("source password", "single quote"), new("target password", "colon")
    _keep_with_aws(place, source)
    write("target.password", target)
    write("pooler.password", admin)
    write("home/.pgpass", f"*:*:*:nobody:{new('password file')}\n")
    write("home/.pg_service.conf", f"[other]\npassword={new('service file')}\n")
    write(
        "noisy.sh",
        f"#!/bin/sh\necho '{new('what a command says besides')}' >&2\ncat {place.folder}/command.txt\n",
    )
    write("hook.sh", HOOK)
    write("kept_short.txt", place.canaries.short("hook's secret short", 12))
    write("command.txt", new("variable command", "pipe"))
    values = {}
    for number, shape in enumerate(SHAPES):
        values[f"v{number}"] = new(f"variable {shape}", shape)
        write(f"kept{number}.txt", new(f"hook's secret {shape}", shape))
    # One is the beginning of another.
    place.canaries.known["variable prefix"] = values["v_prefix"] = values["v0"] + "-and-more"
    values["v_short"] = place.canaries.short("variable short", 6)
    write("values.yaml", values)
    write("plan.yaml", _plan(place, list(values)))
    _fleet(place)
    write("source.password", source)
    _mislead(place, values)
    place.passwords.update(name for name in place.canaries.known if "password" in name or "pooler" in name)
    for server, password in ((place.source, source), (place.target, target)):
        with place.session(server) as session:
            session.execute(
                sql.SQL("CREATE ROLE mover SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(password))
            )
            session.execute(sql.SQL("CREATE ROLE onlooker LOGIN PASSWORD {}").format(sql.Literal(ONLOOKER)))
            session.execute(SCHEMA if server is place.source else "CREATE EXTENSION pg_stat_statements")


def _fleet(place: Place) -> None:
    """A fleet of one, with the secrets that no word of it has to say."""
    plan = place.plan()
    kept = ("environ", "ssm", "command")
    plan["metadata"] = {"name": "school"}
    plan["vars"] = {name: plan["vars"][name] for name in kept}
    hooks = [hook for hook in plan["steps"][1]["after"] if any(f"vars.{name}" in str(hook) for name in kept)]
    statement = "SELECT '{{ vars.environ }}', '{{ vars.ssm }}'"
    step = {"id": "mark", "uses": "sql", "with": {"side": "source", "statements": [statement]}}
    plan["steps"] = [{**step, "after": hooks, "approval": "manual"}]
    place.write("school-plan.yaml", plan)
    head = {"apiVersion": "planrunner/v1", "kind": "Fleet", "metadata": {"name": "school"}}
    rows = {"rows": [{"name": "fish"}]}
    place.write("school.yaml", {**head, "plan": "school-plan.yaml", "inventory": rows})
    told = {"given": place.canaries.new("a fleet's value in the wrong place")}
    place.write("odd-fleet.yaml", {**head, "plan": "odd.yaml", "vars": told, "inventory": rows})


def _mislead(place: Place, values: Mapping[str, str]) -> None:
    """What is wrong on purpose, and the words for it."""
    new, write = place.canaries.new, place.write
    write("other.yaml", place.plan() | {"metadata": {"name": "other"}})
    given = new("given in the wrong place")
    pair = {
        "source": {"dsn": f"postgresql://a:{new('a DSN of a plan', 'at')}@h/d"},
        "target": {"dsn": f"host=h password={new('pairs of a plan')} sslpassword={new('a key of a plan')}"},
    }
    write("odd.yaml", {"connections": pair})
    write("broken.json", {"format_version": 1, "serial": new("somebody's file"), "steps": [new("a list")]})
    servers = {
        f"{name}": f"postgresql://mover@127.0.0.1:{server.port}/app?sslmode=disable"
        for name, server in (("source", place.source), ("target", place.target))
    }
    dsn = f"postgresql://a:{quote(given)}@127.0.0.1:1/x?sslmode=disable"
    environ = place.environ["PLANRUNNER_VAR_environ"]
    place.words.update({**values, **servers, "given": given, "dsn": dsn, "environ": environ})


def _keep_with_aws(place: Place, password: str) -> None:
    new = place.canaries.new
    members = {
        "username": new("other member, a name"),
        "password": password,
        "token": new("other member, a token", "json"),
    }
    given = {"endpoint_url": place.environ["AWS_ENDPOINT_URL"], "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("secretsmanager", **given, **keys).create_secret(
        Name="app/source", SecretString=json.dumps(members)
    )
    boto3.client("ssm", **given, **keys).put_parameter(
        Name="/app/ssm", Value=new("variable ssm", "comment"), Type="SecureString"
    )


def _plan(place: Place, names: list[str]) -> dict[str, object]:
    variables: dict[str, object] = {name: {"sensitive": True} for name in (*names, "environ")}
    variables["ssm"] = {"sensitive": True, "secret": {"aws_ssm": "/app/ssm"}}
    variables["command"] = {"sensitive": True, "secret": {"command": [str(place.folder / "noisy.sh")]}}
    role = {"arn": f"arn:aws:iam::{ACCOUNT}:role/migrator"}
    plain = "postgresql://mover@127.0.0.1:{}/app?sslmode=disable"
    return {
        "apiVersion": "planrunner/v1",
        "kind": "MigrationPlan",
        "metadata": {"name": "canaries"},
        "vars": variables,
        "connections": {
            "source": {
                "dsn": plain.format(place.source.port),
                "password": {
                    "secret": {"aws_secretsmanager": "app/source", "key": "password", "assume_role": role}
                },
            },
            "target": {
                "dsn": plain.format(place.target.port),
                "password": {"secret": {"file": "target.password"}},
            },
        },
        "notifications": [
            {
                "on": ["started", "failed"],
                "webhook": {
                    "url": {"secret": {"env": "HOOK_URL"}},
                    "header": {"name": "Authorization", "secret": {"env": "HOOK_HEADER"}},
                },
            }
        ],
        "steps": _steps(place, names),
    }


def _steps(place: Place, names: list[str]) -> list[dict[str, object]]:
    kept: list[tuple[str, dict[str, str]]] = [
        (name, {"file": f"kept{number}.txt"}) for number, name in enumerate(names[: len(SHAPES)])
    ]
    kept.append(("v_short", {"file": "kept_short.txt"}))
    others = [(name, {"env": "KEPT_ENV"}) for name in ("v_prefix", "environ", "ssm", "command")]
    before, after = (
        [
            {
                "command": ["./hook.sh"],
                "env": {"GIVEN": f"{{{{ vars.{name} }}}}", "KEPT": {"secret": where}},
            }
            for name, where in hooks
        ]
        for hooks in (kept, others)
    )
    pooler = {
        "admin": place.bouncer.admin,
        "password": {"secret": {"file": "pooler.password"}},
        "database": "app",
        "config": str(place.bouncer.config),
    }
    return [
        {"id": "check", "uses": "validate"},
        {
            "id": "mark",
            "uses": "sql",
            "with": {
                "side": "source",
                "statements": ["UPDATE orders SET tenant = '{{ vars.v0 }}' WHERE id = 1"],
            },
            "before": before,
            "after": after,
        },
        {"id": "copy", "uses": "snapshot", "with": {"owners": "login", "grants": "skip"}},
        {"id": "follow", "uses": "sync"},
        {
            "id": "over",
            "uses": "cutover_verify",
            "approval": "manual",
            "with": {"reverse": True, "write_pause_budget": "60s", "switch": [{"pgbouncer": pooler}]},
        },
    ]
