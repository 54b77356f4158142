"""What AWS tells of an instance's certificates, in the preflight."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from planrunner.aws.rds import Rds
from planrunner.clock import SystemClock
from planrunner.model import DialAddress, Mark, RdsInstance, Side
from planrunner.postgres.preflight_authority import authority
from planrunner.postgres.preflight_line import Line, dialled, same_level
from planrunner.replication.subscriptions import dial_parameters
from planrunner.sandbox.rds_api import CREDENTIALS, INSTANCE, RdsApi
from planrunner.sandbox.rds_certificates import CertificateAuthority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding
    from tests.integration.tls.conftest import Scene

pytestmark = pytest.mark.server

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAME = "rds-ca-rsa2048-g1"


@pytest.fixture
def api(tls_server: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[RdsApi]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    tls_server.show("good")
    with RdsApi(tls_server.server, region="eu-north-1") as api:
        api.certify(NAME)
        yield api


def _thumbprint(scene: Scene) -> str:
    return hashlib.sha1(ssl.PEM_cert_to_DER_cert(scene.root.read_text())).hexdigest()


def _offer(api: RdsApi, thumbprint: str, until: datetime) -> None:
    api.authorities = [
        CertificateAuthority(
            identifier=name, thumbprint=print_, since=until - timedelta(days=3650), until=until
        )
        for name, print_ in (("rds-ca-other", "00" * 20), (NAME, thumbprint))
    ]


def _findings(api: RdsApi, scene: Scene, roots: str | None = None) -> list[Finding]:
    rds = RdsInstance(instance=INSTANCE, region=api.region, endpoint_url=api.endpoint_url)
    server = scene.connect({"sslrootcert": roots or str(scene.root)}, rds=rds)
    return list(authority(server, Rds(rds, SystemClock()).authority(), NOW))


@pytest.mark.parametrize(
    ("days", "mark", "words"),
    [
        (3000, Mark.PASS, "is good until 2034-08-18"),
        (91, Mark.PASS, "is good until"),
        (90, Mark.WARN, "expires in 90 days (2026-08-30)"),
        (1, Mark.WARN, "expires in 1 days"),
        (0, Mark.FAIL, "has expired (2026-06-01)"),
        (-400, Mark.FAIL, "has expired"),
    ],
)
def test_an_authority_is_told_by_what_is_left_of_it(
    api: RdsApi, tls_server: Scene, days: int, mark: Mark, words: str
) -> None:
    _offer(api, _thumbprint(tls_server), NOW + timedelta(days=days))

    dates, holds = _findings(api, tls_server)

    assert (dates.mark, words in dates.text, NAME in dates.text) == (mark, True, True)
    assert mark is Mark.PASS or "--ca-certificate-identifier" in str(dates.remedy)
    assert holds.mark is Mark.PASS
    assert f"{tls_server.root} holds {NAME}" in holds.text


def test_a_bundle_without_the_instances_authority_fails_where_nothing_connects(
    api: RdsApi, tls_server: Scene
) -> None:
    _offer(api, "ab" * 20, NOW + timedelta(days=3000))
    strange = tls_server.pairs["self-signed"].certificate

    (_, holds) = _findings(api, tls_server, str(strange))
    assert (holds.mark, "does not hold" in holds.text) == (Mark.FAIL, True)

    # An authority that is vouched for by another one works, whatever its thumbprint.
    (_, holds) = _findings(api, tls_server)
    assert holds.mark is Mark.WARN


def test_an_instance_without_a_known_authority_is_no_bad_news(api: RdsApi, tls_server: Scene) -> None:
    api.certify("")
    assert _findings(api, tls_server) == []


def _level(scene: Scene, **endpoint: object) -> list[Finding]:
    source = scene.connect({}, **endpoint)
    # A target that is not on this machine.
    target = scene.connect({}, dsn="host=target.example.com dbname=app", side=Side.TARGET)
    return list(same_level(source, Line(subscriber=target, dial=dial_parameters(source))))


def test_a_subscription_does_not_inherit_a_file_of_this_machine(tls_server: Scene) -> None:
    (finding,) = _level(tls_server, ca=str(tls_server.root))
    assert finding.mark is Mark.WARN
    assert "lies on this machine, not on the target's host" in finding.text
    assert "source_as_seen_from_target.sslrootcert" in str(finding.remedy)

    named = DialAddress(sslrootcert="/etc/ssl/rds-ca.pem")
    assert _level(tls_server, ca=str(tls_server.root), seen_from_other=named) == []
    source = tls_server.connect({}, ca=str(tls_server.root), seen_from_other=named)
    dial = dial_parameters(source)
    assert (dial["sslmode"], dial["sslrootcert"]) == ("verify-full", "/etc/ssl/rds-ca.pem")


def test_a_subscription_that_asks_less_than_we_do_is_told(tls_server: Scene) -> None:
    (finding,) = _level(tls_server, seen_from_other=DialAddress(sslmode="require"))
    assert finding.mark is Mark.WARN
    assert "sslmode=require, ours is verify-full" in finding.text


def test_allowing_self_signed_certificates_holds_for_the_subscription_too(tls_server: Scene) -> None:
    assert _level(tls_server, self_signed=True) == []
    dial = dial_parameters(tls_server.connect({}, self_signed=True))
    assert dial["sslmode"] == "require"


def test_a_line_that_the_other_hosts_files_refuse_says_which_file_to_put_there(tls_server: Scene) -> None:
    tls_server.show("good")
    strange = str(tls_server.pairs["self-signed"].certificate)
    source = tls_server.connect({}, seen_from_other=DialAddress(sslrootcert=strange))
    target = tls_server.connect({"sslrootcert": str(tls_server.root)}, side=Side.TARGET)

    finding = dialled(Line(subscriber=target, dial=dial_parameters(source)), target.identity())

    assert finding.mark is Mark.FAIL
    assert strange in str(finding.remedy)
    assert "connections.target.source_as_seen_from_target.sslrootcert" in str(finding.remedy)
    good = tls_server.connect({}, seen_from_other=DialAddress(sslrootcert=str(tls_server.root)))
    assert dialled(Line(subscriber=target, dial=dial_parameters(good)), target.identity()).mark is Mark.PASS
