"""Posting a notification to real servers on this machine: what is sent, and what is never said."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from planrunner.errors import ToolFailed
from planrunner.webhook import place_of, post, refused_url


class Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307 if self.path == "/moved" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    made.seen = []
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_body_is_posted_once(server: Any) -> None:
    post(f"http://127.0.0.1:{server.server_port}/T0K3N", {"a": 1}, {}, 5)
    assert server.seen == ["/T0K3N"]


def test_a_redirect_is_not_followed(server: Any) -> None:
    with pytest.raises(ToolFailed, match="status 307"):
        post(f"http://127.0.0.1:{server.server_port}/moved", {}, {}, 5)
    assert server.seen == ["/moved"]


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Any, tmp_path: Path) -> None:
    assert shutil.which("openssl") is not None, "openssl is missing: apt-get install openssl"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(ToolFailed, match="certificate is not trusted") as refused:
        post(f"https://127.0.0.1:{server.server_port}/T0K3N", {}, {}, 5)
    assert "T0K3N" not in str(refused.value)
    assert server.seen == []


def test_a_port_where_nobody_listens_is_told_without_the_url(server: Any) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ToolFailed, match="not delivered") as refused:
        post(f"http://127.0.0.1:{server.server_port}/T0K3N", {}, {}, 5)
    assert "T0K3N" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://hooks.example.com/T0K3N", None),
        ("http://127.0.0.1:8080/x", None),
        ("http://hooks.example.com/T0K3N", "not encrypted"),
        ("ftp://hooks.example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https://", "https://"),
        ("hooks", "https://"),
        ("https://a:b:c/", "not a URL"),
        ("https://host/a b", "space"),
        ("https://[::1", "not a URL"),
    ],
)
def test_only_encrypted_urls_are_posted_to(url: str, reason: str | None) -> None:
    found = refused_url(url)
    assert (found is None) is (reason is None)
    assert reason is None or reason in str(found)
    assert "T0K3N" not in str(found)


def test_a_place_is_shown_without_its_path() -> None:
    assert place_of("https://user:pw@hooks.example.com:8443/T0K3N?x=1") == "https://hooks.example.com"
