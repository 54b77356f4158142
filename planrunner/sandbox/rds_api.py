"""A stand-in for the RDS API on 127.0.0.1: moto's server under the rules that moto leaves out."""

from __future__ import annotations

import io
import socket
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.core.exceptions import ServiceException
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.rds.models import rds_backends
from werkzeug.serving import BaseWSGIServer, make_server

from planrunner.sandbox import cloudwatch_api, rds_events
from planrunner.sandbox.ec2_network import Ec2Network
from planrunner.sandbox.rds_certificates import CertificateAuthority, described
from planrunner.sandbox.rds_clones import Clones, tell_start, withhold_wal
from planrunner.sandbox.rds_restores import Restores
from planrunner.sandbox.rds_rules import Params, Rules
from planrunner.sandbox.rds_script import Fault, Script
from planrunner.sandbox.rds_world import StandInCluster, StandInInstance, World
from planrunner.sandbox.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from planrunner.sandbox.servers import PostgresServer

INSTANCE = "shop-prod"
REGION = "us-east-1"
# What boto3 needs to sign a request; the stand-in checks no signature.
CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "sandbox",
    "AWS_SECRET_ACCESS_KEY": "sandbox",
    "AWS_DEFAULT_REGION": REGION,
}
_XMLNS = 'xmlns="http://rds.amazonaws.com/doc/2014-10-31/"'


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to the stand-in, as boto3 sent it."""

    action: str
    params: Params

    @property
    def changes(self) -> bool:
        """True for an action that is not just a question."""
        return not self.action.startswith("Describe")


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  # werkzeug's name
        """Keep the terminal for planrunner."""


class RdsApi:
    """The API of one RDS instance whose reboot restarts ``server``; a context manager.

    ``calls`` holds every request, ``denied`` the actions to refuse as IAM does, ``authorities`` those
    that instances may use, ``script`` what is to go wrong, ``world`` how everything stands, ``events`` what happened
    to the instances; ``cloudwatch`` has their figures. moto keeps its
    instances per process and region: two stand-ins in one process need two regions.
    """

    def __init__(
        self, server: PostgresServer, *, instance: str = INSTANCE, region: str = REGION, phase: float = 0.3
    ) -> None:
        self.calls: list[Call] = []
        self.denied: set[str] = set()
        self.authorities: list[CertificateAuthority] = []
        self.instance = instance
        self.region = region
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._backend = rds_backends[DEFAULT_ACCOUNT_ID][region]
        self.script = Script()
        stand_in = _instance(self._backend, server, instance)
        self.network = Ec2Network(region, server.port)
        self.network.embed(stand_in, self._backend)
        self.events = rds_events.Events()
        self.cloudwatch = cloudwatch_api.CloudWatch(region, self.denied)
        self.world = World(self._backend, server, stand_in, phase=phase)
        self.world.note = self.events.note
        self.restores = Restores(world=self.world, make=lambda one, name: _instance(self._backend, one, name))
        self.clones = Clones(world=self.world, make=lambda one, name: _instance(self._backend, one, name))
        self._rules = Rules(self.world, self.restores, self.clones)
        self._http: BaseWSGIServer = make_server(HOST, 0, self, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._http.serve_forever, name="rds api", daemon=True)

    @property
    def endpoint_url(self) -> str:
        """Where boto3 finds the stand-in."""
        return f"http://{HOST}:{self._http.server_port}"

    @property
    def reboots(self) -> int:
        """How often the instance was rebooted."""
        return self.world.reboots

    @property
    def changes(self) -> list[str]:
        """The actions that changed something or tried to, in order."""
        return [call.action for call in self.calls if call.changes]

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()

    def add_instance(self, name: str, *, group: str | None = None) -> StandInInstance:
        """Another instance, of which only the API knows."""
        return _instance(self._backend, self.world.server, name, group)

    def add_cluster(
        self, name: str, *, engine: str = "aurora-postgresql", readers: Iterable[str] = ()
    ) -> StandInCluster:
        """Make the instance the writer of a cluster, Aurora's or (``engine="postgres"``) a Multi-AZ DB cluster."""
        if engine.startswith("aurora") and self.world.server.running:
            withhold_wal(self.world.server)
            tell_start(self.world.server, "pg_current_wal_lsn_of_postgresql()")
        return self._rules.add_cluster(name, engine, *(self.add_instance(reader) for reader in readers))

    def certify(self, identifier: str) -> None:
        """Let the instance use that authority."""
        self._backend.databases[self.instance].ca_certificate_identifier = identifier

    def close(self) -> None:
        """Stop answering, wait for a reboot under way, and forget the region's instances and groups."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join(30)
        self._http.server_close()
        self.restores.close()
        self.clones.close()
        self.world.close()
        self._backend.reset()
        self.network.close()
        self.cloudwatch.forget()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request (WSGI): under our rules when it is for RDS, else moto alone."""
        if "/rds/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return self._of_others(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        params = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = params.pop("Action", "")
        self.calls.append(Call(action=action, params=params))
        struck = self.script.strike(action)
        if struck is not None and struck.then is not None:
            struck.then()
        fault = struck.fault if struck else None
        if fault is Fault.CUT:
            raise _cut(environ)
        if fault is Fault.LOST:
            list(self._answered(action, params, environ, _unsent))
            raise _cut(environ)
        if fault is not None:
            return _error(start_response, 400, fault.value, f"{action} is refused: {fault.value}")
        return self._answered(action, params, environ, start_response)

    def _answered(
        self, action: str, params: Params, environ: dict[str, Any], start_response: Any
    ) -> Iterable[bytes]:
        if action in self.denied:
            return _error(start_response, 403, "AccessDenied", _denial(action, self.region))
        if action == "DescribeCertificates":
            wanted = params.get("CertificateIdentifier")
            found = [each for each in self.authorities if wanted in {None, each.identifier}]
            if found:
                return _answer(start_response, 200, described(found, _XMLNS))
            return _error(start_response, 404, "CertificateNotFound", f"Certificate not found: {wanted}")
        if action in {"DescribeEvents", "DescribeDBEngineVersions"}:
            events = action == "DescribeEvents"
            told = self.events.described(params, _XMLNS) if events else _engine_versions(params)
            return _answer(start_response, 200, told)
        return self._under_rules(action, params, environ, start_response)

    def _under_rules(
        self, action: str, params: Params, environ: dict[str, Any], start_response: Any
    ) -> Iterable[bytes]:
        try:
            self._rules.before(action, params)
            own = self._rules.answer(action, params)
        except ServiceException as refused:
            return _error(start_response, 400, refused.code, refused.message)
        if own is not None:
            return _answer(start_response, 200, _enveloped(action, own))
        told: list[str] = []

        def remember(status: str, headers: Any, *rest: Any) -> Any:
            told.append(status)
            return start_response(status, headers, *rest)

        answer = list(self._forward(environ, remember))
        if told and told[0].startswith("200"):
            self._rules.after(action, params)
        return answer

    def _of_others(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        signed = environ.get("HTTP_AUTHORIZATION", "")
        if cloudwatch_api.SERVICE in signed:
            return self.cloudwatch.answer(environ, start_response, self._forward)
        if "/ec2/" in signed:
            return self.network.answer(environ, start_response, self._forward)
        return self._forward(environ, start_response)

    def _forward(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


def _cut(environ: Mapping[str, Any]) -> ConnectionError:
    """Break the line to the client; raised, it tells the server that nobody is there any more."""
    line: socket.socket = environ["werkzeug.socket"]
    line.shutdown(socket.SHUT_RDWR)
    return ConnectionResetError("cut by the test's script")


def _unsent(*_: Any) -> None:
    """Where an answer goes that gets lost."""


def _instance(backend: Any, server: PostgresServer, name: str, group: str | None = None) -> StandInInstance:
    major, minor = server.version
    # moto's base class says it makes BaseModels and that cloud formation is still to be added.
    make: Any = StandInInstance
    instance: StandInInstance = make(
        backend,
        host=HOST,
        db_instance_identifier=name,
        db_instance_class="db.m6g.large",
        engine="postgres",
        engine_version=f"{major}.{minor}",
        port=server.port,
        db_parameter_group_name=group or f"default.postgres{major}",
        master_username="migrator",
        # Named, so that moto need not build a network first.
        vpc_security_group_ids=["sg-5a4db0c5"],
    )
    backend.databases[name] = instance
    return instance


def _engine_versions(params: Params) -> str:
    version = params.get("EngineVersion", "")
    engine = params.get("Engine", "postgres")
    family = f"{engine}{version.split('.')[0]}"
    listed = (
        f"<Engine>{escape(engine)}</Engine><EngineVersion>{escape(version)}</EngineVersion>"
        f"<DBParameterGroupFamily>{escape(family)}</DBParameterGroupFamily>"
    )
    versions = f"<DBEngineVersions><DBEngineVersion>{listed}</DBEngineVersion></DBEngineVersions>"
    return _enveloped("DescribeDBEngineVersions", versions)


def _enveloped(action: str, result: str) -> str:
    return f"<{action}Response {_XMLNS}><{action}Result>{result}</{action}Result></{action}Response>"


def _denial(action: str, region: str) -> str:
    return (
        f"User: arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/sandbox is not authorized to perform: rds:{action}"
        f" on resource: arn:aws:rds:{region}:{DEFAULT_ACCOUNT_ID}:* because no identity-based policy allows"
        f" the rds:{action} action"
    )


def _error(start_response: Any, status: int, code: str, message: str) -> Iterable[bytes]:
    error = (
        f"<Error><Type>Sender</Type><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    )
    text = f"<ErrorResponse {_XMLNS}>{error}<RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
    return _answer(start_response, status, text)


def _answer(start_response: Any, status: int, text: str) -> Iterable[bytes]:
    start_response(f"{status} {'OK' if status == 200 else 'Refused'}", [("Content-Type", "text/xml")])
    return [text.encode()]
