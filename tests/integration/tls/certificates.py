"""Certificate authorities and good and bad server certificates, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/root.crt
private_key = {folder}/root.key
default_md = sha256
default_days = 10
default_crl_days = 10
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self.root = self._folder / "root.crt"
        self.revoked = self._folder / "revoked.crl"
        self._config = self._folder / "ca.cnf"
        self._config.write_text(_CONFIG.format(folder=self._folder))
        (self._folder / "index.txt").touch()
        (self._folder / "serial").write_text("01")
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}"),
            *("-keyout", self._folder / "root.key", "-out", self.root),
        )
        self._list()

    def pair(
        self,
        name: str,
        *,
        san: str = "DNS:localhost",
        usage: str = "serverAuth",
        dates: tuple[str, str] | None = None,
    ) -> Pair:
        """A signed certificate; ``dates`` are its first and last moment (YYYYMMDDHHMMSSZ)."""
        made = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        _openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", made.key),
            *("-addext", f"subjectAltName={san}", "-addext", f"extendedKeyUsage={usage}", "-out", request),
        )
        when = ("-startdate", dates[0], "-enddate", dates[1]) if dates else ()
        signing = ("ca", "-batch", "-notext", "-config", self._config)
        _openssl(*signing, "-in", request, "-out", made.certificate, *when)
        return made

    def revoke(self, pair: Pair) -> None:
        """Put the certificate onto the list of the revoked."""
        _openssl("ca", "-config", self._config, "-revoke", pair.certificate)
        self._list()

    def _list(self) -> None:
        _openssl("ca", "-config", self._config, "-gencrl", "-out", self.revoked)


def self_signed(folder: Path) -> Pair:
    """A certificate that only vouches for itself."""
    made = Pair(folder / "self.crt", folder / "self.key")
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", made.key, "-out", made.certificate),
    )
    return made


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
