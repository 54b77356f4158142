"""The bill of materials in CycloneDX's form, made from the lock alone, so that it is the same each time."""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from planrunner import __version__
from release.components import ROOT, RUNTIME, licence, locked

FILE = ROOT / "sbom.cdx.json"


def bill() -> str:
    """The whole bill as JSON, without a time and a number of its own."""
    packages = locked(RUNTIME)
    made = Bom()
    made.metadata.timestamp = None  # type: ignore[assignment]
    made.metadata.component = root = _component("planrunner", __version__, "Apache-2.0", ())
    parts = {p.name: _component(p.name, p.version, licence(p), p.hashes) for p in packages}
    for part in parts.values():
        made.components.add(part)
    made.register_dependency(root, [parts[name] for name in _needs("planrunner", parts)])
    for package in packages:
        made.register_dependency(parts[package.name], [parts[name] for name in _needs(package.name, parts)])
    told: dict[str, Any] = json.loads(JsonV1Dot6(made).output_as_string())
    # Both are new each time; a bill of the same lock is the same bill.
    told.pop("serialNumber", None)
    told["metadata"].pop("timestamp", None)
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def _component(name: str, version: str, expression: str, hashes: tuple[str, ...]) -> Component:
    place = PackageURL("pypi", None, name, version)
    files = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in hashes]
    # One of them is what is installed: each platform and version of Python has a file of its own.
    reference = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION, url=XsUri(place.to_string()), hashes=files
    )
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=place.to_string(),
        purl=place,
        licenses=[LicenseFactory().make_from_string(expression)],
        external_references=[reference] if files else [],
    )


def _needs(name: str, known: dict[str, Component]) -> list[str]:
    """The packages of the lock that one of them asks for, those that only some machines need too."""
    asked = metadata.requires(name) or []
    plain = [line for line in asked if "extra ==" not in line]
    named = {canonicalize_name(re.split(r"[^\w.-]", line)[0]) for line in plain}
    # psycopg's binary is asked for by an extra of psycopg, and is what libpq is in.
    named |= {"psycopg-binary"} if any(line.startswith("psycopg[binary]") for line in plain) else set()
    return sorted(named & known.keys())


if __name__ == "__main__":
    FILE.write_text(bill(), "utf-8")
