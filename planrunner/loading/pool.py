"""The plan's ``pool``: who does the bulk work, and how a scheduler is reached."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from planrunner.loading import codes
from planrunner.loading.document import shown
from planrunner.loading.places import at
from planrunner.model import DaskPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_ADDRESS = re.compile(
    r"(?P<scheme>tls|tcp)://(?P<host>\[[0-9a-fA-F:.]+\]|[^/@:\s\[\]]+):(?P<port>[0-9]{1,5})"
)
_KEYS: Keys = ("pool", "dask")
_FILES = ("ca", "cert", "key")


def pool(tree: Mapping[str, Any], folder: Path) -> DaskPool | None:
    """What a valid plan says; None for threads."""
    given = tree.get("pool", {}).get("dask")
    if given is None:
        return None
    if isinstance(given, str):
        return DaskPool(address=given)
    files = {name: str((folder / given[name]).absolute()) for name in _FILES if name in given}
    return DaskPool(address=given["address"], **files)


def refused_address(address: str) -> tuple[str, str] | None:
    """What is wrong with a scheduler's address, and what to do; None for one that can be dialled."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        return f"expected tls://HOST:PORT, got {shown(address)}", "For example: tls://scheduler:8786"
    if found["scheme"] == "tcp" and not _here(found["host"].strip("[]")):
        return (
            f"{shown(address)}: whoever listens on the way reads and changes what the workers run",
            "Give the scheduler a certificate and write tls://; tcp:// is for one on this machine.",
        )
    return None


def _here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def pool_faults(document: Document, tree: Json) -> Iterator[Problem]:
    """An address that can't or shouldn't be dialled, half a pair of certificate and key."""
    given = at(tree, _KEYS)
    address = at(tree, (*_KEYS, "address")) if isinstance(given, dict) else given
    if isinstance(address, str) and (refused := refused_address(address)) is not None:
        place = (*_KEYS, "address") if isinstance(given, dict) else _KEYS
        yield document.problem(place, *refused, codes.WRONG_FORM)
    half = {"cert", "key"} & cast("dict[str, Json]", given).keys() if isinstance(given, dict) else set[str]()
    if len(half) == 1:
        yield document.problem(
            (*_KEYS, *half), "expected cert and key together, got one of them", "Name both, or neither."
        )
