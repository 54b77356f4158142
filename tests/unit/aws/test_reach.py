"""Why an instance is not reached, told from moto's RDS and EC2 by the real boto3."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from planrunner.aws.admission import Entry
from planrunner.aws.ec2 import Network
from planrunner.aws.reach import Cause, gate, likely_cause
from planrunner.dialling import Caller, Trouble
from planrunner.errors import CloudError
from planrunner.model import RdsInstance

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
US = Caller(who="this machine", addresses=("203.0.113.7",))
BEHIND_NAT = Caller(who="this machine", addresses=(), hidden="a router between gives it another address")
# Addresses stand for names: no resolver is needed.
PUBLIC, PRIVATE = "8.8.8.8", "10.20.1.5"


@dataclass
class Scene:
    """One instance in a VPC of its own, with boto3's clients to arrange it."""

    ec2: Any
    rds: Any
    vpc: str
    subnet: str
    group: str
    gateway: str
    name: str
    network: Network

    def admit(self, **permission: Any) -> None:
        rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, **permission}
        self.ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=[rule])

    def admit_range(self, cidr: str) -> None:
        self.admit(IpRanges=[{"CidrIp": cidr}])

    def modify(self, **facts: Any) -> None:
        self.rds.modify_db_instance(DBInstanceIdentifier=self.name, **facts)

    def lead_out(self) -> None:
        tables = self.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])
        self.ec2.create_route(
            RouteTableId=tables["RouteTables"][0]["RouteTableId"],
            DestinationCidrBlock="0.0.0.0/0",
            GatewayId=self.gateway,
        )

    def cause(
        self,
        trouble: Trouble = Trouble.TIMED_OUT,
        *,
        host: str = PUBLIC,
        port: int = 5432,
        caller: Caller = US,
        named: tuple[str, ...] = (),
    ) -> Cause:
        return likely_cause(self.network, trouble, host=host, port=port, caller=caller, named=named)


@pytest.fixture
def scene(moto_url: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    ec2 = boto3.client("ec2", region_name="us-east-1", endpoint_url=moto_url)
    rds = boto3.client("rds", region_name="us-east-1", endpoint_url=moto_url)
    name = f"db-{abs(hash(request.node.name))}"
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.1.0/24", AvailabilityZone="us-east-1a")["Subnet"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    group = ec2.create_security_group(GroupName="orders-db", Description="orders", VpcId=vpc)["GroupId"]
    rds.create_db_subnet_group(
        DBSubnetGroupName=name, DBSubnetGroupDescription="orders", SubnetIds=[subnet["SubnetId"]]
    )
    rds.create_db_instance(
        DBInstanceIdentifier=name,
        DBInstanceClass="db.m6g.large",
        Engine="postgres",
        AvailabilityZone="us-east-1a",
        DBSubnetGroupName=name,
        VpcSecurityGroupIds=[group],
        PubliclyAccessible=True,
        Port=5432,
    )
    access = RdsInstance(instance=name, region="us-east-1", endpoint_url=moto_url)
    yield Scene(ec2, rds, vpc, subnet["SubnetId"], group, gateway, name, Network(access))
    rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)


def executed(scene: Scene, remedy: str) -> None:
    """Carry a printed command out by boto3, its words read as the AWS command line reads them."""
    words = shlex.split(remedy[remedy.index("aws ") :])
    service, verb, rest = words[1], words[2], words[3:]
    given: dict[str, Any] = {}
    while rest:
        name = "".join(part.capitalize() for part in rest.pop(0).lstrip("-").split("-"))
        given[name] = rest.pop(0) if rest and not rest[0].startswith("--") else True
    given.pop("Region")
    if verb == "authorize-security-group-ingress":
        port = int(given.pop("Port"))
        given |= {
            "IpProtocol": given.pop("Protocol"),
            "CidrIp": given.pop("Cidr"),
            "FromPort": port,
            "ToPort": port,
        }
    if "DbInstanceIdentifier" in given:
        given["DBInstanceIdentifier"] = given.pop("DbInstanceIdentifier")
    client = scene.ec2 if service == "ec2" else scene.rds
    getattr(client, verb.replace("-", "_"))(**given)


def test_a_security_group_without_a_rule_for_us_is_the_cause_and_the_command_opens_it(scene: Scene) -> None:
    scene.lead_out()
    scene.admit_range("198.51.100.0/24")
    found = scene.cause()
    assert f"security group {scene.group} (orders-db)" in found.text
    assert "lets nothing from 203.0.113.7 in on port 5432 (it is open to: 198.51.100.0/24)" in found.text
    (remedy,) = found.remedies
    assert remedy == (
        f"Let it in: aws ec2 authorize-security-group-ingress --group-id {scene.group} --protocol tcp --port 5432"
        " --cidr 203.0.113.7/32 --region us-east-1"
    )
    executed(scene, remedy)
    assert "security group" not in scene.cause().text.split("is in the way")[0]


def test_an_ipv6_address_gets_the_command_that_takes_one(scene: Scene) -> None:
    found = scene.cause(caller=Caller(who="this machine", addresses=("2001:db8::7",)))
    wanted = "IpProtocol=tcp,FromPort=5432,ToPort=5432,Ipv6Ranges=[{CidrIpv6=2001:db8::7/128}]"
    assert f"--ip-permissions '{wanted}'" in found.remedies[0]


def test_behind_a_router_the_command_asks_for_the_address_itself(scene: Scene) -> None:
    scene.admit_range("198.51.100.0/24")
    found = scene.cause(caller=BEHIND_NAT)
    assert "by which address this machine is seen there is not known here" in found.text
    assert '--cidr "$(curl -s https://checkip.amazonaws.com)/32"' in found.remedies[0]


def test_the_addresses_that_the_plan_names_count_where_ours_is_not_known(scene: Scene) -> None:
    scene.lead_out()
    scene.admit_range("192.0.2.0/24")
    assert (
        "lets nothing from 203.0.113.0/28" in scene.cause(caller=BEHIND_NAT, named=("203.0.113.0/28",)).text
    )
    assert "in the way" in scene.cause(caller=BEHIND_NAT, named=("192.0.2.8/32",)).text


def test_a_group_that_is_open_to_the_world_is_no_cause(scene: Scene) -> None:
    scene.lead_out()
    scene.admit_range("0.0.0.0/0")
    assert "nothing of AWS's that can be told is in the way" in scene.cause(caller=BEHIND_NAT).text


def test_a_prefix_list_is_looked_into(scene: Scene) -> None:
    made = scene.ec2.create_managed_prefix_list(
        PrefixListName="office",
        AddressFamily="IPv4",
        MaxEntries=2,
        Entries=[{"Cidr": "203.0.113.0/24", "Description": "office"}],
    )["PrefixList"]["PrefixListId"]
    scene.admit(PrefixListIds=[{"PrefixListId": made}])
    there = gate(scene.network, scene.network.placement(), 5432, ("203.0.113.7", "198.51.100.1"))
    assert there.verdict(["203.0.113.7"]).entry is Entry.OPEN
    assert there.verdict(["198.51.100.1"]).entry is Entry.SHUT


def test_a_referenced_group_admits_the_machine_that_is_in_it(scene: Scene) -> None:
    app = scene.ec2.create_security_group(GroupName="app", Description="app", VpcId=scene.vpc)["GroupId"]
    scene.ec2.create_network_interface(SubnetId=scene.subnet, PrivateIpAddress="10.20.1.77", Groups=[app])
    scene.admit(UserIdGroupPairs=[{"GroupId": app}])
    there = gate(scene.network, scene.network.placement(), 5432, ("10.20.1.77", "10.20.1.78"))
    assert there.verdict(["10.20.1.77"]).entry is Entry.OPEN
    assert there.verdict(["10.20.1.78"]).entry is Entry.SHUT


def test_a_private_instance_is_told_once_the_group_lets_us_in(scene: Scene) -> None:
    scene.admit_range("203.0.113.7/32")
    scene.modify(PubliclyAccessible=False)
    found = scene.cause(host=PRIVATE)
    assert f"is not publicly accessible, its address {PRIVATE} is private to VPC {scene.vpc}" in found.text
    assert (
        f"aws rds modify-db-instance --db-instance-identifier {scene.name} --publicly-accessible --apply-immediately"
        in found.remedies[0]
    )
    executed(scene, found.remedies[0])
    assert scene.network.placement().public


def test_a_public_instance_whose_subnets_lead_nowhere_is_told_with_the_route(scene: Scene) -> None:
    scene.admit_range("203.0.113.7/32")
    found = scene.cause()
    assert "its subnets have no route to an internet gateway" in found.text
    assert f"--gateway-id {scene.gateway}" in found.remedies[-1]
    executed(scene, found.remedies[-1])
    assert "in the way" in scene.cause().text


def test_the_instance_listens_elsewhere(scene: Scene) -> None:
    found = scene.cause(Trouble.REFUSED, port=5433)
    assert "listens on port 5432, the plan dials port 5433" in found.text


def test_an_unknown_host_is_told_the_name_that_aws_gives(scene: Scene) -> None:
    found = scene.cause(Trouble.UNKNOWN_HOST, host="orders.exmaple.com")
    assert f"{scene.name}." in found.text
    assert "the plan dials orders.exmaple.com" in found.text
    host = scene.network.placement().host
    assert host is not None
    assert "this machine's DNS does not know it" in scene.cause(Trouble.UNKNOWN_HOST, host=host).text


def test_a_stopped_instance_is_the_cause_whatever_its_groups_say(scene: Scene) -> None:
    scene.rds.stop_db_instance(DBInstanceIdentifier=scene.name)
    found = scene.cause(Trouble.REFUSED)
    assert found.text == f"{scene.name} is stopped"
    executed(scene, found.remedies[0])
    assert scene.network.placement().status == "available"


def test_a_refusal_is_no_security_groups_doing(scene: Scene) -> None:
    scene.lead_out()
    scene.admit_range("203.0.113.7/32")
    assert "what refuses is no security group" in scene.cause(Trouble.REFUSED).text


def test_an_instance_that_is_not_there_is_clouds_error(scene: Scene) -> None:
    nobody = Network(
        RdsInstance(instance="nobody", region="us-east-1", endpoint_url=scene.network.instance.endpoint_url)
    )
    with pytest.raises(CloudError, match="nobody"):
        likely_cause(nobody, Trouble.TIMED_OUT, host=PUBLIC, port=5432, caller=US, named=())


def test_a_rule_is_made_once_with_its_tag_and_removed_once(scene: Scene) -> None:
    tag = ("planrunner:plan", "orders/1a2b3c4d")
    for cidr in ("203.0.113.7/32", "2001:db8::7/128"):
        for _ in range(2):
            scene.network.authorize(
                scene.group, cidr, 5432, description="planrunner/orders/1a2b3c4d", tag=tag
            )
    made = scene.network.tagged(*tag)
    assert [rule.cidr for rule in made] == ["203.0.113.7/32", "2001:db8::7/128"]
    assert {rule.description for rule in made} == {"planrunner/orders/1a2b3c4d"}
    for rule in (*made, *made):
        scene.network.revoke(rule)
    assert scene.network.rules([scene.group]) == ()


def test_only_the_rules_of_that_very_mark_are_found(scene: Scene) -> None:
    scene.admit_range("198.51.100.0/24")
    for mark in ("orders/1a2b3c4d", "orders/99999999"):
        cidr = f"203.0.113.{len(scene.network.rules([scene.group]))}/32"
        scene.network.authorize(scene.group, cidr, 5432, description="x", tag=("planrunner:plan", mark))
    assert [rule.cidr for rule in scene.network.tagged("planrunner:plan", "orders/99999999")] == [
        "203.0.113.2/32"
    ]
