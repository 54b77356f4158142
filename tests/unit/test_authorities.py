"""Where the certificates of a plan's ``ca`` come from; downloads by a real HTTPS server."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planrunner import authorities
from planrunner.authorities import Authorities
from planrunner.clock import SystemClock
from planrunner.errors import AuthorityUnavailable
from planrunner.model import Endpoint, RdsInstance, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

DSN = "postgresql://m@orders.abc.us-east-1.rds.amazonaws.com/app"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("https")
    made, key = folder / "site.crt", folder / "site.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
    subprocess.run([*words, "-keyout", key, "-out", made], check=True, capture_output=True)
    return made, key


@dataclass
class Site:
    """A truststore of our own; ``answer`` is what it gives for /bundle."""

    url: str
    answer: bytes
    asked: list[str] = field(default_factory=list)
    leads_to: str | None = None


@pytest.fixture
def site(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append(self.path)
            self.send_response(302 if told.leads_to else 200)
            if told.leads_to:
                self.send_header("Location", told.leads_to)
            self.send_header("Content-Length", str(len(told.answer)))
            self.end_headers()
            self.wfile.write(told.answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    told = Site(url=f"https://localhost:{server.server_port}/bundle", answer=certificate[0].read_bytes())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Python's own way to name the authorities of this machine.
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setenv("NO_PROXY", "localhost")
    yield told
    server.shutdown()
    server.server_close()


def _endpoint(ca: str | None = "rds", fingerprint: str | None = None, dsn: str = DSN) -> Endpoint:
    return Endpoint(side=Side.SOURCE, dsn=dsn, ca=ca, ca_fingerprint=fingerprint)


def _finder(folder: Path, site: Site | None = None, **environ: str) -> Authorities:
    url = {"PLANRUNNER_RDS_CA_URL": site.url} if site else {}
    return Authorities({"XDG_CACHE_HOME": str(folder), **url, **environ}, SystemClock())


def _sum(path: Path) -> str:
    return subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]


def test_the_bundle_is_downloaded_once_into_a_private_file(site: Site, tmp_path: Path) -> None:
    found = Path(str(_finder(tmp_path, site).file(_endpoint())))
    again = _finder(tmp_path, site).file(_endpoint())

    assert again == str(found)
    assert site.asked == ["/bundle"]
    assert found.read_bytes() == site.answer
    assert found.stat().st_mode & 0o777 == 0o600
    assert found.parent.stat().st_mode & 0o777 == 0o700
    assert found.is_relative_to(tmp_path / "planrunner")


_KILLED = """
import sys
from planrunner.authorities import Authorities
from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Side
found = Authorities({"XDG_CACHE_HOME": sys.argv[1], "PLANRUNNER_RDS_CA_URL": sys.argv[2]}, SystemClock())
found.file(Endpoint(side=Side.SOURCE, dsn=sys.argv[3], ca="rds"))
"""


def test_a_download_that_is_killed_before_it_is_kept_leaves_nothing_and_is_made_again(
    site: Site, tmp_path: Path
) -> None:
    environment = {**os.environ, "PLANRUNNER_FAILPOINTS": "authorities.keep:kill"}
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), site.url, DSN], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    found = Path(str(_finder(tmp_path, site).file(_endpoint())))
    assert found.read_bytes() == site.answer
    assert site.asked == ["/bundle"] * 2


def test_an_old_download_is_renewed_and_kept_where_that_fails(site: Site, tmp_path: Path) -> None:
    found = Path(str(_finder(tmp_path, site).file(_endpoint())))
    os.utime(found, (0, 0))
    newer = site.answer + b"# newer\n"
    site.answer = newer
    _finder(tmp_path, site).file(_endpoint())
    assert found.read_bytes() == newer

    os.utime(found, (0, 0))
    site.answer = b"no certificates"
    assert _finder(tmp_path, site).file(_endpoint()) == str(found)
    assert found.read_bytes() == newer
    assert len(site.asked) == 3


def test_a_named_bundle_is_used_and_nothing_downloaded(
    site: Site, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    own = str(certificate[0])
    assert _finder(tmp_path, site, PLANRUNNER_RDS_CA_BUNDLE=own).file(_endpoint()) == own
    assert _finder(tmp_path, site).file(_endpoint(ca=own)) == own
    assert site.asked == []


def test_a_pinned_bundle_is_refused_when_it_is_another(
    site: Site, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    right = _sum(certificate[0])
    colons = ":".join(right[i : i + 2] for i in range(0, 64, 2)).upper()
    for pin in (right, colons):
        assert _finder(tmp_path, site).file(_endpoint(fingerprint=pin))
    for ca in ("rds", str(certificate[0])):
        with pytest.raises(AuthorityUnavailable, match="ca_fingerprint pins") as caught:
            _finder(tmp_path, site).file(_endpoint(ca=ca, fingerprint="0" * 64))
        assert right in caught.value.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"<html>captive portal</html>", "holds no certificates"), (b"x" * (5 << 20), "far too large")],
)
def test_an_answer_that_is_no_bundle_is_not_kept(
    site: Site, tmp_path: Path, answer: bytes, message: str
) -> None:
    site.answer = answer
    with pytest.raises(AuthorityUnavailable, match=message):
        _finder(tmp_path, site).file(_endpoint())
    assert list(tmp_path.rglob("*.pem")) == []


def test_a_site_that_does_not_prove_itself_gives_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(AuthorityUnavailable, match="could not be downloaded") as caught:
        _finder(tmp_path, site).file(_endpoint())
    assert "PLANRUNNER_RDS_CA_BUNDLE=FILE" in str(caught.value.remedy)
    assert site.asked == []


def test_only_https_is_followed(site: Site, tmp_path: Path) -> None:
    site.leads_to = "http://localhost:1/bundle"
    with pytest.raises(AuthorityUnavailable, match="not https"):
        _finder(tmp_path, site).file(_endpoint())
    with pytest.raises(AuthorityUnavailable, match="not https"):
        _finder(tmp_path, PLANRUNNER_RDS_CA_URL="http://localhost/bundle").file(_endpoint())


def test_a_cache_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "planrunner").write_text("a file where the folder should be")
    with pytest.raises(AuthorityUnavailable, match="can't be kept") as caught:
        _finder(tmp_path, site).file(_endpoint())
    assert "XDG_CACHE_HOME" in str(caught.value.remedy)


def test_a_file_that_is_not_there_or_no_certificate_is_told(tmp_path: Path) -> None:
    with pytest.raises(AuthorityUnavailable, match="can't be read"):
        _finder(tmp_path).file(_endpoint(ca=str(tmp_path / "absent.pem")))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(AuthorityUnavailable, match="holds no certificates"):
        _finder(tmp_path).file(_endpoint(ca=str(tmp_path / "notes.txt")))


@pytest.mark.parametrize("endpoint", [_endpoint("system"), _endpoint(None, dsn=f"{DSN}?sslrootcert=system")])
def test_system_is_the_file_of_this_machine(
    endpoint: Endpoint, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert _finder(tmp_path).file(endpoint) == str(certificate[0])


def test_a_plan_without_ca_leaves_it_to_its_dsn(tmp_path: Path) -> None:
    assert _finder(tmp_path).file(_endpoint(None)) is None


@pytest.mark.parametrize(
    ("host", "region", "expected"),
    [
        ("orders.abc.us-east-1.rds.amazonaws.com", None, "https://truststore.pki.rds.amazonaws.com/"),
        ("cn-orders.abc.eu-west-1.rds.amazonaws.com", None, "https://truststore.pki.rds.amazonaws.com/"),
        ("db.internal", "us-gov-east-1", "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/"),
        (
            "o.abc.cn-north-1.rds.amazonaws.com.cn",
            None,
            "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/",
        ),
    ],
)
def test_each_partition_has_its_own_truststore(host: str, region: str | None, expected: str) -> None:
    rds = RdsInstance(instance="orders", region=region) if region else None
    endpoint = Endpoint(side=Side.SOURCE, dsn=f"postgresql://m@{host}/app", ca="rds", rds=rds)
    assert authorities.bundle_url(endpoint).startswith(expected)


def test_the_fingerprint_is_what_sha256sum_tells(certificate: tuple[Path, Path]) -> None:
    assert authorities.fingerprint(certificate[0].read_bytes()) == _sum(certificate[0])
    assert _sum(certificate[0]) == hashlib.sha256(certificate[0].read_bytes()).hexdigest()
