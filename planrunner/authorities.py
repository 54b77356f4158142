"""Finds the file of certificates that a plan's ``ca`` speaks of: named, this machine's own, or AWS's bundle."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import AuthorityUnavailable
from planrunner.failpoints import failpoint
from planrunner.loading.dsn import parse
from planrunner.reading import bounded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.client import HTTPMessage
    from typing import IO

    from planrunner.model import Endpoint
    from planrunner.ports import Clock

BUNDLE_VARIABLE = "PLANRUNNER_RDS_CA_BUNDLE"
URL_VARIABLE = "PLANRUNNER_RDS_CA_URL"
# https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html; each partition has its own.
_BUNDLES = {
    "us-gov-": "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/global/global-bundle.pem",
    "cn-": "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/global/global-bundle.pem",
    "": "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem",
}
_REGION = re.compile(r"\.(?P<region>[a-z0-9-]+)\.rds\.amazonaws\.com")
# AWS's bundle has some 160 kB.
_LARGEST = 4 << 20
_SECONDS = 15.0
# AWS adds authorities some months before it uses them.
_STALE_SECONDS = 30 * 86_400.0
_SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


class Authorities:
    """Looks the files up; ``environ`` may name AWS's bundle, its URL, and where a user's caches lie.

    What was found once is kept for the life of the object.
    """

    def __init__(self, environ: Mapping[str, str], clock: Clock) -> None:
        self._clock = clock
        self._bundle = environ.get(BUNDLE_VARIABLE)
        self._url = environ.get(URL_VARIABLE)
        self._cache = _cache_folder(environ)
        self._found: dict[Endpoint, str | None] = {}
        self._lock = threading.Lock()

    def file(self, endpoint: Endpoint) -> str | None:
        """The endpoint's file, None when its plan leaves that to the DSN; AuthorityUnavailable with the remedy."""
        with self._lock:
            if endpoint not in self._found:
                self._found[endpoint] = self._look(endpoint)
            return self._found[endpoint]

    def _look(self, endpoint: Endpoint) -> str | None:
        match endpoint.ca:
            case None:
                # psycopg's own OpenSSL knows no authorities of this machine, and older programs not the word.
                of_system = parse(endpoint.dsn).parameters.get("sslrootcert") == "system"
                return _system() if of_system else None
            case "system":
                return _system()
            case "rds":
                path = Path(self._bundle) if self._bundle else self._downloaded(endpoint)
            case named:
                path = Path(named)
        _refuse_other(path, endpoint)
        return str(path)

    def _downloaded(self, endpoint: Endpoint) -> Path:
        url = self._url or bundle_url(endpoint)
        path = self._cache / f"rds-{hashlib.sha256(url.encode()).hexdigest()[:12]}.pem"
        age = self._age(path)
        if age is not None and age < _STALE_SECONDS:
            return path
        try:
            _keep(path, _fetched(url, self._clock))
        except AuthorityUnavailable:
            # Certificates go on being good; what a young instance uses may be missing, and is told if so.
            if age is None:
                raise
        return path

    def _age(self, path: Path) -> float | None:
        try:
            return self._clock.now().timestamp() - path.stat().st_mtime
        except OSError:
            return None


def fingerprint(data: bytes) -> str:
    """The SHA-256 of a file's content, as sha256sum tells it."""
    return hashlib.sha256(data).hexdigest()


def _refuse_other(path: Path, endpoint: Endpoint) -> None:
    place = f"connections.{endpoint.side.value}"
    try:
        data = bounded(path, _LARGEST)
    except OSError as error:
        raise AuthorityUnavailable(
            f"{endpoint.side.value}: the certificates in {path} can't be read: {error.strerror}",
            remedy=f"Put the file there, or name another one as {place}.ca or in {BUNDLE_VARIABLE}.",
        ) from error
    if len(data) > _LARGEST:
        raise AuthorityUnavailable(
            f"{path} is far too large for certificates", remedy=f"Name another file as {place}.ca."
        )
    found = fingerprint(data)
    wanted = (endpoint.ca_fingerprint or found).replace(":", "").lower()
    if not hmac.compare_digest(wanted, found):
        raise AuthorityUnavailable(
            f"{endpoint.side.value}: the certificates in {path} are not those that {place}.ca_fingerprint pins:"
            f" expected {wanted}, found {found}",
            remedy="AWS adds to its bundle now and then: look at what is new, then write the new fingerprint; or name"
            f" the former file as {place}.ca. If nobody changed it, trust neither.",
        )
    _refuse_nonsense(path, data)


def _refuse_nonsense(source: Path | str, data: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise AuthorityUnavailable(
            f"{source} holds no certificates", remedy="It must be PEM: -----BEGIN CERTIFICATE-----."
        ) from error


def _system() -> str:
    found = ssl.get_default_verify_paths().cafile
    for path in (found, *_SYSTEM):
        if path is not None and Path(path).is_file():
            return path
    raise AuthorityUnavailable(
        "this machine has no file of certificate authorities",
        remedy="Install them: apt-get install ca-certificates; or name a file as ca.",
    )


def bundle_url(endpoint: Endpoint) -> str:
    """Where AWS keeps the bundle for the endpoint's part of the world."""
    host = _REGION.search(parse(endpoint.dsn).parameters.get("host", ""))
    region = (endpoint.rds.region if endpoint.rds else None) or (host["region"] if host else "")
    return next(url for start, url in _BUNDLES.items() if region.startswith(start))


def _cache_folder(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME") or ""
    home = Path(environ.get("HOME") or Path.home())
    return (Path(base) if base.startswith("/") else home / ".cache") / "planrunner"


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow a redirection, but never to a line that anybody may have a say in."""
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it leads on to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetched(url: str, clock: Clock) -> bytes:
    if not url.startswith("https://"):
        raise AuthorityUnavailable(f"{url} is not https", remedy=f"Correct {URL_VARIABLE}.")
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _OnlyHttps())
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            data = _bounded(answer, clock)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise AuthorityUnavailable(
            f"AWS's certificate bundle could not be downloaded from {url}: {reason}",
            remedy=f"From a machine that may: curl -O {url}; then name the file here: export"
            f" {BUNDLE_VARIABLE}=FILE, or as ca in the plan.",
        ) from error
    if len(data) > _LARGEST:
        raise AuthorityUnavailable(
            f"{url} is far too large for certificates", remedy=f"Check {URL_VARIABLE}."
        )
    _refuse_nonsense(url, data)
    return data


def _bounded(answer: IO[bytes], clock: Clock) -> bytes:
    end = clock.monotonic() + _SECONDS * 4
    data = b""
    while len(data) <= _LARGEST and (block := answer.read(65_536)):
        data += block
        if clock.monotonic() > end:
            raise TimeoutError("it takes too long")
    return data


def _keep(path: Path, data: bytes) -> None:
    failpoint("authorities.keep")
    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes it with mode 0600.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
        raise AuthorityUnavailable(
            f"AWS's certificate bundle can't be kept in {path.parent}: {error.strerror}",
            remedy=f"Set XDG_CACHE_HOME to a folder of yours, or {BUNDLE_VARIABLE} to the bundle's file.",
        ) from error
