"""Every command of the README and the pages, run as it stands there; every plan in them linted.

A new command is one line in SCRIPT, where it belongs in the migration, or one in NOT_RUN with the reason.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import botocore.session
import psycopg
import pytest
import yaml
from botocore import xform_name
from typer.main import get_command

from planrunner.cli.main import app
from planrunner.fleet.load import examine_fleet
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.pages import ROOT, Block, blocks, commands, inline_commands, pages
from tests.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCE, TARGET = (
    "postgresql://migrator@old.example.com:5432/orders",
    "postgresql://migrator@new.example.com:5432/orders",
)
# What the pages write, and what it is here: words of a command are replaced, nothing else is.
PLACES = {
    "PLAN": "orders.yaml",
    "plan.yaml": "orders.yaml",
    "STEP": "cutover",
    SOURCE: "{source}",
    TARGET: "{target}",
    "jq": f"{sys.executable} -m json.tool",
    ".verification": "",
    "planrunner": f"{sys.executable} -m planrunner",
}


@dataclass(frozen=True)
class Run:
    """A command as the pages have it, how it ends, what it shows, and what is typed when it asks."""

    command: str
    code: int = 0
    shows: str = ""
    typed: str = ""
    first: Callable[[Stage], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Two servers and the folder in which everything is typed."""

    source: PostgresServer
    target: PostgresServer
    folder: Path

    def sql(self, server: PostgresServer, statement: str) -> None:
        with psycopg.connect(self.dsn(server), autocommit=True) as session:
            session.execute(statement.encode())

    def dsn(self, server: PostgresServer) -> str:
        return server.dsn("postgres", "orders", password=server.password)

    def url(self, server: PostgresServer) -> str:
        return f"postgresql://postgres@127.0.0.1:{server.port}/orders"

    def environment(self) -> dict[str, str]:
        secrets = {"SOURCE_PASSWORD": self.source.password, "TARGET_PASSWORD": self.target.password}
        return {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **secrets, "NO_COLOR": "1"}


def write_plan(stage: Stage) -> None:
    """The plan of the README, between the servers that are here."""
    plan = readme_plan()
    for side, server in (("source", stage.source), ("target", stage.target)):
        connection = plan["connections"][side]
        connection["dsn"] = f"{stage.url(server)}?sslmode=disable"
        connection.pop("rds", None)
    (stage.folder / "orders.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))


def readme_plan() -> dict[str, Any]:
    block = next(b for b in blocks(ROOT / "README.md")[0] if b.kind == "yaml")
    return dict(yaml.safe_load(block.text))


def differ(stage: Stage) -> None:
    stage.sql(stage.target, "UPDATE item SET name = 'otherwise' WHERE id = 17")


INIT = (
    f"planrunner init --source {SOURCE} --source-password env:SOURCE_PASSWORD --target {TARGET}"
    " --target-password file:target.password --reverse --approval manual --name orders --out orders.yaml"
)
# In this order, on one pair of servers: a whole migration, there and back.
SCRIPT = [
    Run(INIT, shows="both servers looked at: 1 tables"),
    Run("planrunner lint orders.yaml", first=write_plan),
    Run("planrunner lint plans/major-upgrade.yaml"),
    Run("planrunner explain snapshot", shows="jobs"),
    Run("planrunner doctor", shows="PASSED"),
    Run("planrunner validate orders.yaml", shows="PASSED"),
    Run("planrunner validate orders.yaml --section network", shows="Network from the Target"),
    Run("planrunner validate orders.yaml --code PR0203", shows="PASSED"),
    Run("planrunner validate orders.yaml --output json", shows='"passed": true'),
    Run("planrunner validate orders.yaml --fix", shows="nothing that is found has a fix"),
    Run("planrunner explain PR0203", shows="prove who they are"),
    Run("planrunner explain checks", shows="PR0203"),
    Run("planrunner render plans/orders.prod.yaml", shows="connections:"),
    Run("planrunner render plans/orders.prod.yaml --diff plans/orders.yaml", shows=r"\+.*prod"),
    Run(
        "planrunner render plans/orders.yaml --var jobs=8 --diff plans/orders.yaml --diff-var jobs=4",
        shows="jobs",
    ),
    Run("planrunner preview orders.yaml --offline", shows="copy"),
    Run("planrunner preview orders.yaml", shows="copy"),
    Run("planrunner preview orders.yaml --privileges", shows="GRANT|nothing"),
    Run("planrunner preview orders.yaml --format json", shows='"steps"'),
    Run("planrunner preview orders.yaml --format markdown", shows="<details>"),
    Run("planrunner preview orders.yaml --format markdown > preview.md"),
    Run("planrunner preview orders.yaml --out preview.json"),
    Run("planrunner run orders.yaml --expect preview.json", code=4),
    Run("planrunner run orders.yaml --until follow"),
    Run("planrunner state show orders.yaml", shows="follow"),
    Run("planrunner state history orders.yaml", shows="follow"),
    Run(
        'planrunner state mark orders.yaml grant --as done --because "the DBA granted it by hand"',
        code=2,
        shows="done already",
    ),
    Run("planrunner state rebuild orders.yaml", code=2, shows="nothing to make anew"),
    Run("planrunner status orders.yaml --watch", shows="follow"),
    Run("planrunner pause orders.yaml", shows="pause"),
    Run("planrunner throttle orders.yaml jobs=2 index_jobs=1", shows="jobs"),
    Run("planrunner throttle orders.yaml max_load=40", shows="max_load"),
    Run("planrunner throttle orders.yaml", shows="max_load"),
    Run("planrunner throttle orders.yaml jobs=plan max_load=plan"),
    Run("planrunner resume orders.yaml"),
    Run("planrunner status orders.yaml", shows="follow"),
    Run("planrunner verify orders.yaml"),
    Run("planrunner verify plan.yaml", code=7, shows="id='17': changed", first=differ),
    Run("planrunner verify plan.yaml --repair", typed="y"),
    Run("planrunner cutover orders.yaml --rehearse", shows="pause"),
    Run("planrunner run orders.yaml", code=4),
    Run("planrunner approve orders.yaml cutover"),
    Run('planrunner approve orders.yaml cutover --because "quiet hour"'),
    Run('planrunner approve orders.yaml cutover --because "quiet hour, team on call"'),
    Run("planrunner run orders.yaml"),
    Run("planrunner status PLAN", shows=r"cutover: pr_\w+: slot"),
    Run("planrunner report orders.yaml", shows="# "),
    Run("planrunner report orders.yaml --format html --out evidence.html"),
    Run("planrunner report orders.yaml --format json | jq .verification", shows="public.item"),
    Run("sha256sum orders.yaml.report.json", shows="orders.yaml.report.json"),
    Run("planrunner rollback PLAN --rehearse", shows="pause"),
    Run("planrunner rollback PLAN", typed="y", shows="Go back to the source"),
    Run("planrunner rollback orders.yaml"),
    Run("planrunner cleanup orders.yaml", typed="y", shows="removed"),
]
NOT_RUN = {
    "make demo": "tests/acceptance/test_demo.py runs `planrunner demo`, which is all that it does",
    "make demo DEMO_ARGS=--keep": "the same test runs `planrunner demo --keep`",
    "make test": "this test is a part of it",
    "make soak SOAK_ARGS='--hours 8'": "takes hours; tests/faults/test_campaign.py runs what it runs",
    "make soak SOAK_ARGS='--seeds 1 --seed 7 --pair 16:18 --faults 30'": "the same with one seed",
    "pip install planrunner": "needs a package index; tests/release/test_packages.py installs the wheel",
    "pip install 'planrunner[sandbox]'": "the same",
    "pipx install planrunner": "the same",
    "uv tool install planrunner": "the same",
    "pip install --require-hashes -r runtime.txt": "the same",
    "pip install --no-deps planrunner": "the same",
    "sudo install planrunner-0.1.0-linux-x86_64 /usr/local/bin/planrunner": (
        "changes the machine; tests/release/test_executable.py copies the file"
    ),
    "docker build --tag planrunner .": "needs an engine; tests/release/test_image.py reads the recipe",
    'docker run --rm -v "$PWD:/work" -e SOURCE_PASSWORD -e TARGET_PASSWORD planrunner run orders.yaml': "the same",
    "planrunner --install-completion": (
        "writes into the home of whoever runs it; tests/release/test_shells.py asks the shells"
    ),
    **dict.fromkeys(
        (
            "planrunner fleet lint fleet.yaml",
            "planrunner fleet run fleet.yaml",
            "planrunner fleet run fleet.yaml --until follow",
            "planrunner fleet preview fleet.yaml",
            "planrunner fleet preview fleet.yaml --format markdown --out preview.md",
            "planrunner fleet report fleet.yaml --format html --out fleet.html",
            'planrunner fleet approve fleet.yaml --step cutover --because "quiet hour, team on call"',
            "planrunner fleet approve fleet.yaml --step cutover shop-001 'shop-01*'",
            'planrunner fleet approve fleet.yaml america --because "Europe is well"',
            "planrunner fleet status fleet.yaml",
            "planrunner fleet status fleet.yaml --output json",
            "planrunner run shop.yaml --state fleet.fleet/shop-002.state.json --var source_host=… --var"
            " database=shop_002",
        ),
        "needs many databases: tests/faults/test_fleet.py and tests/integration/cli/test_fleet.py run a fleet",
    ),
    **dict.fromkeys(
        (
            "dask scheduler --protocol tls --port 8786 --no-dashboard --tls-ca-file pool/ca.pem --tls-cert pool/me.pem"
            " --tls-key pool/me.key",
            "dask worker tls://scheduler:8786 --nthreads 3 --no-dashboard --tls-ca-file pool/ca.pem --tls-cert"
            " pool/me.pem --tls-key pool/me.key",
        ),
        "tests/faults/test_pool.py starts both with these options",
    ),
    **dict.fromkeys(
        (
            "openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj /CN=pool-ca -keyout ca.key -out pool/ca.pem",
            "openssl req -newkey rsa:3072 -nodes -subj /CN=pool -keyout pool/me.key -out me.csr",
            "openssl x509 -req -in me.csr -CA pool/ca.pem -CAkey ca.key -CAcreateserial -days 30 -out pool/me.pem",
        ),
        "tests/faults/test_pool.py makes its certificates by them",
    ),
    "planrunner init": "asks: tests/integration/cli/test_wizard.py answers it on a terminal",
    "planrunner run orders.yaml --take-over": "tests/faults/test_frozen_runner.py takes over from a frozen one",
    "export SOURCE_PASSWORD=… TARGET_PASSWORD=…": "the passwords are in the environment here",
    "export SEREN_API_KEY=…": "the next lines would ask SerenAI's cloud; tests/faults/test_serendb.py has a stand-in",
    'planrunner state job plan.yaml copy --id JOB_ID --because "made at 14:02, as the console shows"': (
        "tests/faults/test_serendb.py names the job of a lost reply"
    ),
    'planrunner state job plan.yaml copy --none --because "the console shows no job of that time"': (
        "tests/faults/test_serendb.py says that there is none"
    ),
    "pg_dumpall --roles-only -h old.example.com -U postgres | psql -h new.example.com -U postgres": (
        "roles of superusers between two hosts; its programs' options are PostgreSQL's own"
    ),
}
# YAML that is no plan, by page: what else it is.
OTHER_YAML = {
    "docs/how-to/flow.md": "tests/unit/loading/test_flow.py lints each block of it",
    "docs/how-to/run-in-ci.md": "workflows of others: tests/contract/test_ci_files.py reads them",
}
# Options that AWS's command line has beside the API's own.
OF_THE_TOOL = {"authorize-security-group-ingress": ("protocol", "port", "cidr", "source-group")}
PLAN_KEYS = frozenset(
    {"apiVersion", "kind", "metadata", "vars", "connections", "steps", "notifications", "pool"}
)
CONNECTION_KEYS = frozenset({"dsn", "password", "rds", "ca", "ca_fingerprint", "allow_self_signed_certs"})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("docs")
    settings = {"wal_level": "logical"}
    with (
        PostgresServer(wheel_bin(16), settings=settings, max_life=900) as source,
        PostgresServer(wheel_bin(18), settings=settings, max_life=900) as target,
    ):
        for server in (source, target):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                session.execute("CREATE DATABASE orders")
        made = Stage(source=source, target=target, folder=folder)
        made.sql(source, "CREATE TABLE item (id int PRIMARY KEY, name text)")
        made.sql(source, "INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 500) n")
        (folder / "target.password").write_text(target.password)
        for name in ("plans", "schemas"):
            shutil.copytree(ROOT / name, folder / name)
        yield made


def here(command: str, stage: Stage) -> str:
    """The command with the words of PLACES replaced."""
    ends = {"{source}": stage.url(stage.source), "{target}": stage.url(stage.target)}
    words = [PLACES.get(word, word) for word in re.split(r"(\s+)", command)]
    return "".join(ends.get(word, word) for word in words)


def play(step: Run, stage: Stage) -> tuple[int, str]:
    command = here(step.command, stage)
    if step.typed:
        words = shlex.split(command)
        assert words[:3] == [sys.executable, "-m", "planrunner"]
        with terminal(words[3:], folder=stage.folder, environment=stage.environment()) as there:
            there.answer("[y/N]", step.typed)
            return there.wait(), there.shown
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=stage.folder,
        env=stage.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.server
def test_the_commands_of_the_pages_make_a_whole_migration(stage: Stage) -> None:
    for step in SCRIPT:
        if step.first is not None:
            step.first(stage)
        code, shown = play(step, stage)
        assert code == step.code, f"{step.command}: exit code {code}\n{shown}"
        assert re.search(step.shows, shown), f"{step.command} does not show {step.shows!r}:\n{shown}"


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_no_command_of_a_page_is_left_unrun(page: Path) -> None:
    known = {step.command for step in SCRIPT} | set(NOT_RUN)
    new = [c for c in commands(page) if c not in known and not c.startswith("aws ")]
    assert new == [], "add each to SCRIPT, or to NOT_RUN with the reason"


def test_nothing_is_run_that_no_page_shows() -> None:
    shown = {command for page in pages() for command in commands(page)}
    assert {step.command for step in SCRIPT} - shown == set()
    assert set(NOT_RUN) - shown == set()


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_verbs_and_options_in_sentences_are_there(page: Path) -> None:
    for command in [*inline_commands(page), *commands(page)]:
        if command.startswith("planrunner "):
            assert unknown_words(command) == [], command


def unknown_words(command: str) -> list[str]:
    """The verb or the options of a command that planrunner does not have."""
    words = command.replace("…", "").split("|")[0].split()[1:]
    place: Any = get_command(app)
    while words and hasattr(place, "commands") and not words[0].startswith("-"):
        if words[0] not in place.commands:
            return [words[0]]
        place = place.commands[words.pop(0)]
    options = {o for p in place.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    given = [w.rstrip(".,;:)").split("=")[0] for w in words if re.match(r"--?[a-z]", w)]
    return [option for option in given if option not in options]


def test_the_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        command.split()[1]
        for page in pages()
        for command in [*inline_commands(page), *commands(page)]
        if command.startswith("make ")
    }
    assert named - targets == set()


AWS = sorted({command for page in pages() for command in commands(page) if command.startswith("aws ")})


def test_pages_show_commands_of_aws() -> None:
    assert len(AWS) > 5


@pytest.mark.parametrize("command", AWS)
def test_a_command_of_aws_is_one_that_its_service_has(command: str) -> None:
    """It can't run without an account: operation and parameters are looked up in AWS's own model of the service."""
    assert unknown_to_aws(command) == []


def unknown_to_aws(command: str) -> list[str]:
    _, service, verb, *words = shlex.split(command)
    model = botocore.session.get_session().get_service_model(service)
    by_verb = {xform_name(name, "-"): name for name in model.operation_names}
    if verb not in by_verb:
        return [verb]
    shape = model.operation_model(by_verb[verb]).input_shape
    known = {"region", "profile", "output", "query", *OF_THE_TOOL.get(verb, ())}
    for name, member in (shape.members if shape else {}).items():
        known.add(xform_name(name, "-"))
        if member.type_name == "boolean":
            known.add(f"no-{xform_name(name, '-')}")
    required = {xform_name(name, "-") for name in (shape.required_members if shape else ())}
    given = {word[2:].split("=")[0] for word in words if word.startswith("--")}
    return [*sorted(given - known), *(f"lacks {name}" for name in sorted(required - given))]


def test_the_look_into_aws_finds_what_is_wrong() -> None:
    assert unknown_to_aws("aws rds reboot-db-instances") == ["reboot-db-instances"]
    assert unknown_to_aws("aws rds reboot-db-instance --instance x") == [
        "instance",
        "lacks db-instance-identifier",
    ]


YAML = [b for page in pages() for b in blocks(page)[0] if b.kind in {"yaml", "yml"}]


@pytest.mark.parametrize("block", YAML, ids=lambda b: f"{b.page}:{b.line}")
def test_a_plan_in_a_page_lints(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.page in OTHER_YAML:
        pytest.skip(OTHER_YAML[block.page])
    from planrunner.loading import load

    part = yaml.safe_load(block.text)
    if isinstance(part, dict) and "extends" in part:
        shutil.copytree(ROOT / "plans", tmp_path, dirs_exist_ok=True)
        (tmp_path / "orders.prod.yaml").write_text(block.text)
        load(tmp_path / "orders.prod.yaml")
        return
    if isinstance(part, dict) and part.get("kind") == "Fleet":
        shutil.copytree(ROOT / "plans/fleet", tmp_path, dirs_exist_ok=True)
        (tmp_path / "fleet.yaml").write_text(block.text)
        assert examine_fleet(tmp_path / "fleet.yaml", {}, lambda _: None).problems == ()
        return
    path = tmp_path / "orders.yaml"
    declared = part.get("vars", {}) if isinstance(part, dict) else {}
    path.write_text(whole_plan(part))
    without_value = [name for name in declared if set(declared[name]) in ({"pattern"}, {"type"})]
    load(path, variables=dict.fromkeys(without_value, "eu-west-1"))


def whole_plan(part: Any) -> str:
    """A plan that has the part in it: what a page leaves out is the README's."""
    plan = readme_plan()
    given = {"steps": part} if isinstance(part, list) else part
    given = {"connections": {"source": given}} if set(given) <= CONNECTION_KEYS else given
    assert set(given) <= PLAN_KEYS, "no part of a plan: say in OTHER_YAML what it is"
    plan["vars"] = {**plan["vars"], **given.pop("vars", {})}
    for side, connection in given.pop("connections", {}).items():
        plan["connections"][side] = {**plan["connections"].get(side, {}), **connection}
    return yaml.safe_dump({**plan, **given}, sort_keys=False, allow_unicode=True)


@pytest.mark.server
def test_sql_in_the_pages_is_understood_by_the_server(stage: Stage) -> None:
    found = [b for page in pages() for b in blocks(page)[0] if b.kind == "sql"]
    assert found
    for block in found:
        stage.sql(stage.source, block.text)
