"""Where copy and stream are made, and how the cloud is told of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.cloud_place import settled
from planrunner.cloud_requests import unnameable, url
from planrunner.loading import load
from planrunner.loading.hosts import at_serendb, recognized
from planrunner.model import RunOn, Secret

if TYPE_CHECKING:
    from pathlib import Path

    from planrunner.model import Seren

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: orders}}
connections:
  source: {{dsn: "postgresql://m@old.example.com/app"}}
  target:
    dsn: postgresql://m@{host}/app
    {seren}
steps:
  - {{id: check, uses: validate}}
"""
WITH_KEY = {"SEREN_API_KEY": "k"}


def place(
    tmp_path: Path,
    environ: dict[str, str],
    *,
    local: bool = False,
    seren: str = "",
    host: str = "o.serendb.com",
) -> Seren | None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.format(host=host, seren=seren))
    return settled(load(plan), environ, local=local).target.seren


@pytest.mark.parametrize(
    ("seren", "environ", "local", "where", "why"),
    [
        ("", {}, False, RunOn.LOCAL, "there is no API key"),
        ("", {"SEREN_API_KEY": ""}, False, RunOn.LOCAL, "there is no API key"),
        ("", WITH_KEY, False, RunOn.CLOUD, "SEREN_API_KEY is set"),
        ("", WITH_KEY, True, RunOn.LOCAL, "--local was given"),
        ("seren: {run_on: local}", WITH_KEY, False, RunOn.LOCAL, "the plan says run_on: local"),
        ("seren: {run_on: cloud}", {}, False, RunOn.CLOUD, "the plan says run_on: cloud"),
        ("seren: {run_on: cloud}", WITH_KEY, True, RunOn.LOCAL, "--local was given"),
        ("seren: {api_key: {secret: {env: OTHER}}}", {}, False, RunOn.CLOUD, "the plan names an API key"),
    ],
)
def test_the_key_the_plan_and_the_command_decide(  # each is a part of the case
    tmp_path: Path, seren: str, environ: dict[str, str], local: bool, where: RunOn, why: str
) -> None:
    found = place(tmp_path, environ, local=local, seren=seren)
    assert found is not None
    assert found.place is where
    assert found.why.startswith(why)


def test_another_target_has_no_cloud(tmp_path: Path) -> None:
    assert place(tmp_path, WITH_KEY, host="o.example.com") is None


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("orders.serendb.com", True),
        ("ORDERS.SerenDB.com.", True),
        ("a.b.serendb.com", True),
        ("serendb.com", False),
        ("serendb.com.example.com", False),
        ("notserendb.com", False),
    ],
)
def test_a_host_of_serendb_is_recognised(host: str, known: bool) -> None:
    assert at_serendb(host) is known
    assert recognized(host).serendb is known
    assert recognized(host, "6432").advice is not None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"host": "h", "user": "u", "dbname": "d"}, "postgresql://u@h:5432/d?sslmode=require"),
        (
            {"host": "h", "port": "6", "user": "a@b:c", "dbname": "d/e?", "sslmode": "verify-full"},
            "postgresql://a%40b%3Ac@h:6/d%2Fe%3F?sslmode=require",
        ),
        (
            {"host": "::1", "user": "u", "dbname": "d", "sslmode": "disable", "hostaddr": "::1"},
            "postgresql://u@[::1]:5432/d?sslmode=disable",
        ),
    ],
)
def test_an_address_is_written_as_the_cloud_dials_it(given: dict[str, str], expected: str) -> None:
    assert url(given, None) == expected


def test_a_password_of_any_characters_fits_into_an_address() -> None:
    made = url({"host": "h", "user": "u", "dbname": "d"}, Secret("p@s/s:?#%"))
    assert made == "postgresql://u:p%40s%2Fs%3A%3F%23%25@h:5432/d?sslmode=require"


def test_names_that_a_dotted_form_cannot_tell_apart_are_found() -> None:
    assert unnameable(["public.t", 'a."b.c"', '"a.b".c']) == ('a."b.c"', '"a.b".c')
