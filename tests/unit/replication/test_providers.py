"""What of a dump belongs to RDS, and what only looks as if it did."""

from __future__ import annotations

import pytest

from planrunner.replication.providers import Provider, of_provider

ELSEWHERE = Provider(there=frozenset(), assumable=frozenset({"app"}))
ON_RDS = Provider(there=frozenset({"rdsadmin", "rds_superuser"}), assumable=frozenset({"app"}))


@pytest.mark.parametrize(
    ("about", "theirs"),
    [
        ("EXTENSION - rds_tools ", True),
        ("EXTENSION aws_s3 ", True),
        ("EXTENSION - hstore ", False),
        ("SCHEMA - rds_tools rdsadmin", True),
        ("SCHEMA rds_tools rdsadmin", True),
        ("ACL - SCHEMA aws_s3 rdsadmin", True),
        ("ACL aws_s3 FUNCTION query_export_to_s3(query text) rdsadmin", True),
        ("SCHEMA - aws_orders app", False),
        ("ACL aws_orders TABLE orders app", False),
        ("SCHEMA - topology rdsadmin", False),
        ("TABLE rds_tools_of_ours orders app", False),
    ],
)
def test_extensions_of_the_provider_stay_behind_with_their_schemas(about: str, theirs: bool) -> None:
    assert of_provider(about) is theirs


def test_an_owner_that_only_rds_has_is_left_out() -> None:
    text = "\nCREATE SCHEMA topology;\n\n\nALTER SCHEMA topology OWNER TO rdsadmin;\n\n"
    for provider in (ELSEWHERE, ON_RDS):
        assert provider.cleaned("SCHEMA", "rdsadmin", text).strip() == "CREATE SCHEMA topology;"


def test_the_text_of_another_roles_function_is_never_touched() -> None:
    text = "CREATE FUNCTION f() AS $$\nALTER TABLE t OWNER TO rdsadmin;\nGRANT SELECT ON t TO rds_superuser;\n$$;\n"
    assert ELSEWHERE.cleaned("FUNCTION", "app", text) == text


def test_grants_to_the_providers_roles_are_made_where_those_are() -> None:
    theirs = "GRANT SELECT ON TABLE public.orders TO rds_superuser;\n"
    lasting = "REVOKE ALL ON TABLE public.orders FROM rdsadmin;\n"
    ours = "GRANT SELECT ON TABLE public.orders TO reader WITH GRANT OPTION;\n"
    assert ELSEWHERE.cleaned("ACL", "app", lasting + theirs + ours) == ours
    assert ON_RDS.cleaned("ACL", "app", lasting + theirs + ours) == lasting + theirs + ours


def test_default_privileges_for_the_providers_roles_are_left_out_elsewhere() -> None:
    text = "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO rds_superuser;\n"
    assert ELSEWHERE.cleaned("DEFAULT ACL", "app", text) == ""
    assert ON_RDS.cleaned("DEFAULT ACL", "app", text) == text
