"""The plan that ``planrunner init`` writes."""

from pathlib import Path

import pytest

from planrunner.errors import UsageError
from planrunner.loading import load
from planrunner.loading.scaffold import draft, scaffold
from planrunner.loading.wishes import Wishes
from planrunner.model import Plan, RdsInstance, SecretKind, SecretRef


def loaded(text: str, folder: Path) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_draft_lints_and_holds_the_six_steps(tmp_path: Path) -> None:
    made = scaffold(source="postgresql://u@old/orders", target="postgresql://u@new/orders")

    plan = loaded(made, tmp_path)

    assert plan.name == "orders"
    assert [s.uses for s in plan.steps] == [
        "enable_logical",
        "grant",
        "validate",
        "snapshot",
        "sync",
        "cutover_verify",
    ]
    assert plan.source.password is None


def test_passwords_are_taken_out_and_referred_to(tmp_path: Path) -> None:
    made = draft(
        Wishes(
            source="postgresql://u:hunter2@old/app?sslmode=require",
            target="host=new dbname=app user=u password='hunter 3'",
            rds_instance="orders-prod",
            rds_region="eu-west-1",
            name="my-orders",
        )
    )

    plan = loaded(made.text, tmp_path)

    assert "hunter" not in made.text
    assert made.environment == ("SOURCE_PASSWORD", "TARGET_PASSWORD")
    assert plan.name == "my-orders"
    assert plan.source.dsn == "postgresql://u@old/app?sslmode=require"
    assert plan.target.dsn == "host=new dbname=app user=u"
    assert plan.source.password == SecretRef(kind=SecretKind.ENV, locator="SOURCE_PASSWORD")
    assert plan.source.rds == RdsInstance(instance="orders-prod", region="eu-west-1")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u@h/it's",
        "host=h dbname='a: b # c' user=\"q\"",
        "postgresql://u%20x@h/db?options=-c%20a%3Db",
        "host=h dbname=no",
        "postgresql://u@h/données",
    ],
)
def test_dsn_of_any_characters_arrives_whole(dsn: str, tmp_path: Path) -> None:
    assert loaded(scaffold(source=dsn, target="host=new dbname=app"), tmp_path).source.dsn == dsn


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mysql://u@h/db", None),
        ("postgresql://u@h/", None),
        ("postgresql://u@h/{{ x }}", None),
        ("host=h dbname='a\nb'", None),
        ("host=new dbname=app", None),
        ("host=h dbname=db", "two words"),
        ("host=h dbname=db", ""),
    ],
)
def test_what_no_plan_could_hold_is_a_usage_error(source: str, name: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        scaffold(source=source, target="host=new dbname=app", name=name)
    assert caught.value.remedy
