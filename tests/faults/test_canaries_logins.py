"""Logins that need no password of the plan's: a token of RDS, and a client's key whose own password is kept elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults import canary_cases as cases
from tests.faults.canary_place import Place, furnished, watched
from tests.faults.canary_search import SEARCHES
from tests.integration.tls.certificates import Authority
from tests.integration.tls.conftest import needs_debian

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

pytestmark = [pytest.mark.timeout(900), pytest.mark.soak]
VALUES = ("--var-file", "values.yaml")
SETTINGS = "ssl = on\nssl_cert_file = 'tls.crt'\nssl_key_file = 'tls.key'\nssl_ca_file = 'root.crt'\n"
# A token is no password of the server's own; it is asked for one where the login is not known to it.
ACCESS = "hostssl all tokened all trust\nhostssl all server all cert\n"
# Each token as it is made, for whoever has to know what to look for.
NOTE_TOKENS = """
from planrunner.aws import secrets
made = secrets.rds_iam_token
def noted(*given):
    token = made(*given)
    with open("tokens.txt", "a") as file:
        file.write(token.reveal() + "\\n")
    return token
secrets.rds_iam_token = noted
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    needs_debian()
    folder = tmp_path_factory.mktemp("authority")
    authority = Authority(folder, "own")

    def configure(server: PostgresServer) -> None:
        shown = authority.pair("shown")
        for name, file in (
            ("tls.crt", shown.certificate),
            ("tls.key", shown.key),
            ("root.crt", authority.root),
        ):
            _own(server, shutil.copyfile(file, server.data / name))
        with (server.data / "postgresql.auto.conf").open("a") as file:
            file.write(SETTINGS)
        access = server.data / "pg_hba.conf"
        access.write_text(ACCESS + access.read_text())

    with furnished(tmp_path_factory.mktemp("canaries"), configure) as made:
        made.write("root.crt", authority.root.read_text())
        _own(made.target, shutil.copyfile(authority.root, made.target.data / "root.crt"))
        _encrypt(made, authority)
        with made.session(made.source) as session:
            for role in ("tokened", "server", "unknown"):
                session.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'nobody knows'".encode())
        with watched(made):
            yield made


def _own(server: PostgresServer, path: Path) -> None:
    owner = server.data.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(0o600)


def _encrypt(place: Place, authority: Authority) -> None:
    """A client's certificate, its key under a password, and the services that name both, one with another password."""
    pair = authority.pair("client", usage="clientAuth")
    key = place.folder / "client.key"
    password = place.canaries.new("password of a client's key", "equals")
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-in", pair.key, "-out", key, "-passout", f"pass:{password}"],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    place.placed.add(key)
    place.write("client.crt", pair.certificate.read_text())
    given = (
        f"host=localhost\nhostaddr=127.0.0.1\nport={place.source.port}\nuser=server\ndbname=app\n"
        f"sslcert={place.folder}/client.crt\nsslkey={key}\nsslrootcert={place.folder}/root.crt\n"
    )
    wrong = place.canaries.new("another password of a client's key", "percent")
    place.write(
        "home/.pg_service.conf",
        f"[keyed]\n{given}sslpassword={password}\n[miskeyed]\n{given}sslpassword={wrong}\n",
    )
    place.passwords.update(("password of a client's key", "another password of a client's key"))


def like_it(
    place: Place, name: str, steps: tuple[str, ...] = ("check", "copy"), **source: object
) -> tuple[str, ...]:
    """The plan up to the copy, with another source, as the words of a command; only some of its steps are kept."""
    plan = place.plan()
    plan["metadata"]["name"] = name
    plan["connections"]["source"] = source
    seen = {"host": "localhost", "sslrootcert": str(place.target.data / "root.crt")}
    plan["connections"]["target"]["source_as_seen_from_target"] = seen
    plan["steps"] = [step for step in plan["steps"] if step["id"] in steps]
    place.write(f"{name}.yaml", plan)
    return (f"{name}.yaml", *VALUES)


def dsn(place: Place, user: str) -> str:
    return f"host=localhost hostaddr=127.0.0.1 port={place.source.port} user={user} dbname=app"


def note_tokens(place: Place) -> int:
    """How many tokens were made; from now on they are looked for."""
    file = place.folder / "tokens.txt"
    place.placed.add(file)
    tokens = file.read_text().splitlines()
    for number, token in enumerate(tokens):
        place.canaries.known[f"token {number}"] = token
        place.passwords.add(f"token {number}")
    return len(tokens)


def assert_clean(place: Place) -> None:
    place.note_made()
    assert {where: found for where, search in SEARCHES.items() if (found := search(place))} == {}
    assert list((place.folder / "tmp").iterdir()) == []


def test_a_token_that_opens_the_door_is_told_nobody(place: Place) -> None:
    words = like_it(place, "tokened", dsn=dsn(place, "tokened"), password={"rds_iam": True}, ca="./root.crt")
    for verb, more in (("validate", ()), ("preview", ()), ("run", cases.YES), ("cleanup", cases.YES)):
        place.run(f"{verb} by token", verb, *words, *more, script=NOTE_TOKENS)
    # What a cleanup leaves: the copy, which would stand in the next one's way.
    with place.session(place.target) as session:
        session.execute("DROP TABLE orders, parcels CASCADE")
    assert note_tokens(place) > 5
    assert_clean(place)


def test_a_token_that_is_refused_is_told_nobody(place: Place) -> None:
    words = like_it(place, "refused", dsn=dsn(place, "unknown"), password={"rds_iam": True}, ca="./root.crt")
    for verb, more in cases.CONNECTING.items():
        place.run(f"{verb} by a bad token", verb, *words, *more, code=None, script=NOTE_TOKENS)
    assert note_tokens(place) > 5
    assert_clean(place)


def test_the_password_of_a_clients_key_is_told_nobody(place: Place) -> None:
    # The target knows no such service, so its subscription can't dial: the check says so.
    words = like_it(place, "keyed", ("copy",), dsn="service=keyed")
    place.run("validate by key", "validate", *words, code=1)
    for verb, more in (("preview", ()), ("run", cases.YES), ("cleanup", cases.YES)):
        place.run(f"{verb} by key", verb, *words, *more)
    assert_clean(place)


def test_the_wrong_password_of_a_clients_key_is_told_nobody(place: Place) -> None:
    words = like_it(place, "miskeyed", dsn="service=miskeyed")
    for verb, more in cases.CONNECTING.items():
        place.run(f"{verb} by a locked key", verb, *words, *more, code=None)
    assert_clean(place)
