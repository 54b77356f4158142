"""How a line is secured: what libpq is told of TLS, by the plan alone and never by the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import pq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import DialAddress

# libpq verifies in mode `require`, too, where it finds a file of certificates, if only in the home directory
# (``~/.postgresql/root.crt``). A file that is surely not there gives the proof of identity up.
NO_AUTHORITY = "/nonexistent/allow_self_signed_certs"
FALLING_BACK = frozenset({"allow", "prefer"})
VERIFYING = frozenset({"verify-ca", "verify-full"})
# Who we are may come from the shell, as for every tool of PostgreSQL; where a line leads and how it is secured
# is what the plan says.
_OF_THE_LOGIN = frozenset(
    {"user", "password", "passfile", "sslcert", "sslkey", "sslpassword", "require_auth"}
)
_VARIABLES_OF_THE_LOGIN = frozenset(
    {
        "PGUSER",
        "PGPASSWORD",
        "PGPASSFILE",
        "PGREQUIREAUTH",
        "PGSSLCERT",
        "PGSSLKEY",
        "PGSERVICEFILE",
        "PGSYSCONFDIR",
        "PGLOCALEDIR",
    }
)
# Where libpq has no default and does not take an empty text for none.
_NEUTRAL = {"sslcertmode": "allow", "min_protocol_version": "3.0", "max_protocol_version": "3.0"}
# A libpq before 17 refuses it, and its absence costs a round trip and nothing else.
_DISPENSABLE = frozenset({"sslnegotiation"})


def is_socket(parameters: Mapping[str, str]) -> bool:
    """True when every address is a Unix socket, so that nothing leaves the machine and there is no TLS."""
    if parameters.get("hostaddr") or parameters.get("service"):
        return False
    return all(host == "" or host[0] in "/@" for host in parameters.get("host", "").split(","))


def encrypted(parameters: Mapping[str, str]) -> bool:
    """True when a line with these parameters is encrypted by TLS, or is not made."""
    return not is_socket(parameters) and parameters.get("sslmode") != "disable"


def secured(given: Mapping[str, str], *, self_signed: bool, authority: str | None) -> dict[str, str]:
    """``given`` with what it leaves to libpq said outright: TLS with proof of identity, no GSSAPI instead.

    ``authority`` is a file of certificates, or ``system``. With ``self_signed`` the encryption stays compulsory
    and only the proof of identity is given up. A socket is left alone.
    """
    parameters = dict(given)
    if is_socket(parameters):
        return parameters
    # An encryption by GSSAPI would be preferred to TLS, whatever sslmode says.
    parameters.setdefault("gssencmode", "disable")
    parameters.setdefault("sslmode", "verify-full")
    if "system" in {authority, parameters.get("sslrootcert")}:
        # Those authorities vouch for everybody: only the name tells one from another.
        parameters["sslmode"] = "verify-full"
    if authority is not None:
        parameters["sslrootcert"] = authority
    if self_signed:
        parameters.update({"sslmode": "require", "sslrootcert": NO_AUTHORITY})
    elif parameters["sslmode"] in FALLING_BACK:
        # The loader refuses them; nothing that came another way falls back to plain text either.
        parameters["sslmode"] = "require"
    return parameters


def seen_from_elsewhere(
    given: Mapping[str, str], seen: DialAddress | None, *, self_signed: bool, ca: str | None
) -> dict[str, str]:
    """The parameters as another host uses them: as strict as ours, and with none of the files of ``ca``.

    Where ``ca`` names a file of this machine and ``seen`` none of the other's, libpq looks there in the home
    directory of the server's account, and refuses to connect where it finds nothing.
    """
    parameters = for_another_libpq(given)
    if seen is not None:
        parameters.pop("hostaddr", None)
        parameters.update({"host": seen.host} if seen.host else {})
        parameters.update({"port": str(seen.port)} if seen.port else {})
    parameters = secured(parameters, self_signed=self_signed, authority="system" if ca == "system" else None)
    if seen is not None and seen.sslmode is not None:
        # Our CA file lies on this machine, not on the other side's.
        parameters.pop("sslrootcert", None)
        parameters["sslmode"] = seen.sslmode
    if seen is not None and seen.sslrootcert:
        parameters["sslrootcert"] = seen.sslrootcert
    return parameters


def for_another_libpq(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters without those that another libpq may be too old for and can do without."""
    return {name: value for name, value in parameters.items() if name not in _DISPENSABLE}


def shielded(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters, and a value for each that libpq would else take from PGSSLMODE, PGOPTIONS and their like."""
    pinned: dict[str, str] = {}
    for option in pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        if name in parameters or name in _OF_THE_LOGIN or name == "service" or option.val == option.compiled:
            continue
        pinned[name] = _NEUTRAL.get(name, "") if option.compiled is None else option.compiled.decode()
    return {**pinned, **parameters}


def of_the_login(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables by which the shell would tell libpq where and how to connect."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("PG") or name in _VARIABLES_OF_THE_LOGIN
    }
