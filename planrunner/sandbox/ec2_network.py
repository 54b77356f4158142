"""The VPC around the stand-in's instance, in moto's EC2 of the same account and region."""

from __future__ import annotations

import io
import os
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

# Two hundred images of machines that nobody starts take a second to load.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.rds.models import DBSubnetGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_VPC = "10.20.0.0/16"


class Ec2Network:
    """One VPC with two subnets, an internet gateway, and a security group that lets ``admitted`` in.

    ``calls`` holds every request to EC2, ``denied`` the actions to refuse as IAM does, ``lost`` those that are
    carried out and whose reply never arrives, once each.
    """

    def __init__(self, region: str, port: int, *, admitted: Sequence[str] = ("127.0.0.1/32",)) -> None:
        self.region = region
        self.port = port
        self.calls: list[tuple[str, Mapping[str, str]]] = []
        self.denied: set[str] = set()
        self.instance: Any = None
        self.lost: set[str] = set()
        self.backend: Any = ec2_backends[DEFAULT_ACCOUNT_ID][region]
        vpc = self.backend.create_vpc(_VPC)
        self.vpc = str(vpc.id)
        self.subnets = [
            self.backend.create_subnet(vpc.id, f"10.20.{number}.0/24", availability_zone=f"{region}{zone}")
            for number, zone in enumerate("ab", 1)
        ]
        self.gateway = str(self.backend.create_internet_gateway().id)
        self.backend.attach_internet_gateway(self.gateway, vpc.id)
        self.open_route()
        self.group = str(
            self.backend.create_security_group("shop-db", "The shop's database", vpc_id=vpc.id).id
        )
        for cidr in admitted:
            self.admit(cidr)

    @property
    def table(self) -> str:
        """The VPC's main route table."""
        return next(
            str(table.id)
            for table in self.backend.route_tables.values()
            if table.vpc_id == self.vpc and table.main_association_id
        )

    def open_route(self) -> None:
        """Let the subnets reach the internet."""
        self.backend.create_route(self.table, "0.0.0.0/0", gateway_id=self.gateway)

    def close_route(self) -> None:
        """Take the way to the internet away."""
        self.backend.delete_route(self.table, "0.0.0.0/0")

    def admit(self, cidr: str) -> None:
        """Add a rule for the instance's port, as an operator would."""
        member = "CidrIpv6" if ":" in cidr else "CidrIp"
        self.backend.authorize_security_group_ingress(
            self.group, "tcp", str(self.port), str(self.port), [{member: cidr}], vpc_id=self.vpc
        )

    def shut(self) -> None:
        """Remove every inbound rule."""
        self.backend.get_security_group_from_id(self.group).ingress_rules = []

    def rules(self) -> list[Any]:
        """The inbound rules as moto holds them."""
        return list(self.backend.get_security_group_from_id(self.group).ingress_rules)

    def embed(self, instance: Any, rds_backend: Any) -> None:
        """Let the instance lie in this network."""
        self.instance = instance
        name = f"{instance.db_instance_identifier}-subnets"
        # moto's base class says that cloud formation is still to be added.
        make: Any = DBSubnetGroup
        rds_backend.subnet_groups[name] = make(rds_backend, name, "Of the shop", self.subnets, [])
        instance.db_subnet_group_name = name
        instance.vpc_security_group_ids = [self.group]
        instance.publicly_accessible = True
        instance.availability_zone = f"{self.region}a"

    def ranges(self) -> list[str]:
        """The ranges that rules let in at the instance's port."""
        return [
            rule.cidr_ipv4 or rule.cidr_ipv6
            for rule in self.rules()
            if (rule.cidr_ipv4 or rule.cidr_ipv6)
            and (rule.ip_protocol == "-1" or rule.from_port <= self.port <= rule.to_port)
        ]

    def move(self, port: int) -> None:
        """Let the instance listen on another port; the rules that were there before go with it."""
        admitted = self.ranges()
        self.shut()
        self.port = self.instance.port = port
        for cidr in admitted:
            self.admit(cidr)

    def close(self) -> None:
        """Forget the region's networks."""
        self.backend.reset()

    def answer(
        self,
        environ: dict[str, Any],
        start_response: Any,
        forward: Callable[[dict[str, Any], Any], Iterable[bytes]],
    ) -> Iterable[bytes]:
        """One request to EC2 (WSGI): refused as IAM refuses, lost on its way back, or moto's."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        params = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = params.pop("Action", "")
        self.calls.append((action, params))
        if action in self.denied:
            return _refused(start_response, action, self.region)
        answer = list(forward(environ, start_response if action not in self.lost else _unheard))
        if action in self.lost:
            self.lost.discard(action)
            start_response("503 Service Unavailable", [("Content-Type", "text/xml")])
            return [
                b"<Response><Errors><Error><Code>Unavailable</Code><Message>lost</Message></Error></Errors></Response>"
            ]
        return answer


def _unheard(_status: str, _headers: Any, *_rest: Any) -> Callable[[bytes], None]:
    return lambda _: None


def _refused(start_response: Any, action: str, region: str) -> Iterable[bytes]:
    words = (
        "You are not authorized to perform this operation. User:"
        f" arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/sandbox is not authorized to perform: ec2:{action} on resource:"
        f" arn:aws:ec2:{region}:{DEFAULT_ACCOUNT_ID}:* because no identity-based policy allows the ec2:{action} action"
    )
    text = (
        f"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>{escape(words)}</Message></Error></Errors>"
        f"<RequestID>{uuid.uuid4()}</RequestID></Response>"
    )
    start_response("403 Refused", [("Content-Type", "text/xml")])
    return [text.encode()]
