"""What no schema can say of how lines are encrypted: keys that contradict each other, files out of reach."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, cast

from planrunner.loading import dsn
from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_WORDS = frozenset({"rds", "system"})
_ACCESS = frozenset({"region", "profile", "endpoint_url", "assume_role"})
_WEAKER = {"rds": ("disable", "require"), "system": ("disable", "require", "verify-ca")}


def line_faults(
    document: Document, tree: Json, strings: Mapping[str, dsn.Dsn], folder: Path
) -> Iterator[Problem]:
    """Every such fault; ``strings`` are the connections' DSNs as far as they could be read."""
    for side, parsed in strings.items():
        given = at(tree, ("connections", side))
        if isinstance(given, dict) and not parsed.faults:
            keys: Keys = ("connections", side)
            yield from _authority_faults(
                document, keys, cast("dict[str, Json]", given), parsed.parameters, folder
            )
    for keys in _consoles(at(tree, ("steps",)), ("steps",)):
        text = at(tree, keys)
        faults = dsn.tls_faults(dsn.parse(text).parameters) if isinstance(text, str) else ()
        yield from (document.problem(keys, fault.message, fault.remedy) for fault in faults)


def _authority_faults(
    document: Document, keys: Keys, given: Mapping[str, Json], parameters: Mapping[str, str], folder: Path
) -> Iterator[Problem]:
    ca, mode = given.get("ca"), parameters.get("sslmode")
    yield from _access_faults(document, (*keys, "password", "secret"), at(given, ("password", "secret")))
    if "ca_fingerprint" in given and ca in {None, "system"}:
        text = "there is no file whose fingerprint it could be"
        yield document.problem(
            (*keys, "ca_fingerprint"), text, "Name the file beside it: ca: rds, or ca: FILE."
        )
    if not isinstance(ca, str):
        return
    place = (*keys, "ca")
    if "sslrootcert" in parameters:
        yield document.problem(
            place,
            "the DSN names other certificates as sslrootcert",
            "Keep one of the two: ca, or sslrootcert.",
        )
    if given.get("allow_self_signed_certs") is True:
        yield document.problem(
            place,
            "allow_self_signed_certs: true gives up what ca is for",
            "Keep one of the two; with ca the server proves who it is.",
        )
    if mode in _WEAKER.get(ca, _WEAKER["rds"]):
        yield document.problem(
            place,
            f"sslmode={mode} in the DSN does not look at it as it should",
            "Leave sslmode out of the DSN.",
        )
    if ca not in _WORDS and not PurePath(ca).is_absolute() and not _stays_inside(folder, ca):
        yield document.problem(
            place,
            "the file is not in the plan's folder",
            "Name a file beside the plan or below it, or give the whole path.",
        )


def _access_faults(document: Document, keys: Keys, secret: Json) -> Iterator[Problem]:
    names = secret.keys() if isinstance(secret, dict) else ()
    if not any(name.startswith("aws_") for name in names):
        for name in _ACCESS.intersection(names):
            text = f"{name} says how AWS is reached, and the secret is not kept there"
            yield document.problem((*keys, name), text, "Take it out, or use aws_secretsmanager or aws_ssm.")


def _stays_inside(folder: Path, name: str) -> bool:
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        # A loop of symbolic links, or a name that no file can have.
        return False


def _consoles(value: Json, keys: Keys) -> Iterator[Keys]:
    """Where the options of steps name the admin console of a pooler."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if keys[-1] == "pgbouncer" and name == "admin":
                yield (*keys, name)
            else:
                yield from _consoles(inner, (*keys, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _consoles(inner, (*keys, index))
