"""A DNS record and a secret are led to the other side and back, against moto's server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from planrunner.clock import SystemClock
from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.model import Endpoint, Mark, RdsInstance, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.switching.cloud import Route53, SecretsManager
from planrunner.switching.hooks import Surroundings, Switching
from planrunner.switching.terms import Place, Places, Route53Terms, SecretsManagerTerms

if TYPE_CHECKING:
    from collections.abc import Mapping


def surroundings() -> Surroundings:
    clock = SystemClock()

    def server(side: Side, dsn: str) -> Server:
        # Never connected: only its address is asked for.
        return Server(Endpoint(side=side, dsn=dsn), clock=clock, resolve=lambda _: None, label="planrunner/x")

    return Surroundings(
        source=server(Side.SOURCE, "postgresql://m@old.example.com:5432/app"),
        target=server(Side.TARGET, "postgresql://m@new.example.com:6432/moved"),
        fence_trigger="t",
        fence_function="f",
        budget=5.0,
        clock=clock,
        resolve=lambda _: Secret(""),
        tell=lambda _text, _fields: None,
    )


def api(service: Any, url: str) -> Any:
    return boto3.client(service, endpoint_url=url, region_name="us-east-1")


@pytest.fixture
def zone(moto_url: str) -> str:
    made = api("route53", moto_url).create_hosted_zone(Name="example.com.", CallerReference=str(uuid4()))
    return str(made["HostedZone"]["Id"]).rsplit("/", 1)[-1]


def put(url: str, zone: str, kind: str, value: str, ttl: int = 30) -> None:
    record = {"Name": "db.example.com", "Type": kind, "TTL": ttl, "ResourceRecords": [{"Value": value}]}
    api("route53", url).change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )


def records(url: str, zone: str) -> dict[str, tuple[str, int]]:
    found = api("route53", url).list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    return {
        r["Type"]: (r["ResourceRecords"][0]["Value"], r["TTL"]) for r in found if r["Name"].startswith("db.")
    }


def dns(url: str, zone: str, **more: Any) -> Route53:
    given: dict[str, Any] = {
        "access": RdsInstance(instance=zone, region="us-east-1", endpoint_url=url),
        "zone_id": zone,
        "name": "db.example.com",
        "type": "CNAME",
        "ttl": None,
        "source_value": None,
        "target_value": None,
        "timeout": 10.0,
    }
    return Route53(Route53Terms(**{**given, **more}), surroundings())


def test_a_record_is_led_to_the_target_and_back_and_keeps_its_ttl(moto_url: str, zone: str) -> None:
    put(moto_url, zone, "CNAME", "old.example.com")
    switch = dns(moto_url, zone)
    assert [f.mark for f in switch.findings()] == [Mark.PASS]
    switch.prepare(Side.TARGET)
    assert records(moto_url, zone) == {"CNAME": ("old.example.com", 30)}
    for _ in range(2):
        switch.after_commit(Side.TARGET)
        assert records(moto_url, zone) == {"CNAME": ("new.example.com", 30)}
    switch.after_commit(Side.SOURCE)
    assert records(moto_url, zone) == {"CNAME": ("old.example.com", 30)}


def test_an_address_record_takes_addresses_only(moto_url: str, zone: str) -> None:
    put(moto_url, zone, "A", "10.0.0.1", ttl=300)
    with pytest.raises(StepFailed, match=r"new\.example\.com is nothing an A record can hold"):
        dns(moto_url, zone, type="A").prepare(Side.TARGET)
    good = dns(moto_url, zone, type="A", target_value="10.0.0.2", source_value="10.0.0.1", ttl=5)
    assert [f.mark for f in good.findings()] == [Mark.WARN], "resolvers keep it for 300 s"
    good.after_commit(Side.TARGET)
    assert records(moto_url, zone) == {"A": ("10.0.0.2", 5)}


def test_a_record_that_is_not_there_stops_the_switch_before_anything_happens(
    moto_url: str, zone: str
) -> None:
    switch = dns(moto_url, zone)
    with pytest.raises(StepFailed, match="no such record"):
        switch.prepare(Side.TARGET)
    assert [f.mark for f in switch.findings()] == [Mark.FAIL]
    nowhere = dns(moto_url, "ZNOWHERE")
    assert [f.mark for f in nowhere.findings()] == [Mark.FAIL]


def secret(url: str, members: Mapping[str, Any] | str) -> str:
    text = members if isinstance(members, str) else json.dumps(members)
    return str(api("secretsmanager", url).create_secret(Name=f"s-{uuid4()}", SecretString=text)["Name"])


def held(url: str, name: str) -> Any:
    return json.loads(api("secretsmanager", url).get_secret_value(SecretId=name)["SecretString"])


def keeper(url: str, name: str, **more: Any) -> SecretsManager:
    given: dict[str, Any] = {
        "access": RdsInstance(instance=name, region="us-east-1", endpoint_url=url),
        "secret_id": name,
        "keys": {"host": "host", "port": "port"},
        "places": Places(),
    }
    return SecretsManager(SecretsManagerTerms(**{**given, **more}), surroundings())


def versions(url: str, name: str) -> int:
    return len(api("secretsmanager", url).list_secret_version_ids(SecretId=name)["Versions"])


def test_a_secret_gets_the_new_address_once_and_keeps_the_rest(moto_url: str) -> None:
    name = secret(moto_url, {"host": "old.example.com", "port": 5432, "username": "u", "password": "hush"})
    switch = keeper(moto_url, name)
    switch.prepare(Side.TARGET)
    assert [f.mark for f in switch.findings()] == [Mark.PASS]
    for _ in range(2):
        switch.after_commit(Side.TARGET)
        assert versions(moto_url, name) == 2
    moved = {"host": "new.example.com", "port": 6432, "username": "u", "password": "hush"}
    assert held(moto_url, name) == moved
    switch.after_commit(Side.SOURCE)
    assert held(moto_url, name) == {**moved, "host": "old.example.com", "port": 5432}


def test_names_of_members_and_addresses_are_the_plans(moto_url: str) -> None:
    name = secret(moto_url, {"H": "", "P": "5432", "D": ""})
    places = Places(target=Place(host="10.0.0.9"))
    keeper(moto_url, name, keys={"host": "H", "port": "P", "dbname": "D"}, places=places).after_commit(
        Side.TARGET
    )
    assert held(moto_url, name) == {"H": "10.0.0.9", "P": "6432", "D": "moved"}


@pytest.mark.parametrize("members", [{"password": "hush"}, "hush"])
def test_a_secret_of_another_shape_stops_the_switch_and_is_not_shown(members: Any, moto_url: str) -> None:
    switch = keeper(moto_url, secret(moto_url, members))
    with pytest.raises(PlanrunnerError) as refused:
        switch.prepare(Side.TARGET)
    assert "hush" not in str(refused.value)
    assert [f.mark for f in switch.findings()] == [Mark.FAIL]


def test_a_failure_of_one_keeps_the_others_from_nothing(moto_url: str, zone: str) -> None:
    name = secret(moto_url, {"host": "old.example.com", "port": 5432})
    switching = Switching([dns(moto_url, zone), keeper(moto_url, name)], surroundings())
    with pytest.raises(StepFailed, match=r"route53 db\.example\.com CNAME could not be switched"):
        switching.after_commit(Side.TARGET)
    assert held(moto_url, name)["host"] == "new.example.com"
    told = " ".join(switching.described(Side.TARGET))
    assert "UPSERT db.example.com CNAME new.example.com" in told
    assert "host: new.example.com" in told
