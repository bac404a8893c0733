"""The modules `network` and `ray` applied for real: a real AWS provider, as old as it is, calls moto's server on this
machine.

What mocked tests cannot see shows here: that AWS's calls take the arguments together, that a second plan finds nothing
to change, that the instance that results has what the template promised, and that nothing is left after `destroy`. Left
out: EFA, which this provider does not know, and the placement group, which moto makes and never shows.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.infra import real_provider
from tests.infra.cloud import REGION, Cloud
from tests.infra.tools import TERRAFORM, missing, need
from tests.waits import PATIENCE_SECONDS

NAME = "trunk"
ROOT = """
terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "3.39.0"
    }
  }
}

variable "endpoint" {
  type = string
}

variable "protect" {
  type    = bool
  default = true
}

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true

  endpoints {
    ec2            = var.endpoint
    iam            = var.endpoint
    kms            = var.endpoint
    secretsmanager = var.endpoint
    sts            = var.endpoint
  }
}

resource "aws_kms_key" "this" {}

module "network" {
  source             = "./modules/network"
  name               = "trunk"
  region             = "us-east-1"
  availability_zones = ["us-east-1a", "us-east-1b"]
}

module "ray" {
  source                    = "./modules/ray"
  name                      = "trunk"
  region                    = "us-east-1"
  vpc_id                    = module.network.vpc_id
  head_subnet_id            = module.network.private_subnet_ids[0]
  head_private_ip           = module.network.head_private_ip
  worker_subnet_ids         = [module.network.private_subnet_ids[0]]
  worker_availability_zones = ["us-east-1a"]
  buckets                   = { data = "trunk-1-data", checkpoints = "trunk-1-checkpoints", mlflow = "trunk-1-mlflow" }
  kms_key_arn               = aws_kms_key.this.arn
  ami_id                    = "ami-12c6146b" # one of those that moto knows
  worker_instance_type      = "p4d.24xlarge"
  max_workers               = 2
  spot                      = true
  protect                   = var.protect
}

output "ray" {
  value = module.ray
}
"""


class Applied:
    """A folder of Terraform files, and the cloud that they are applied to."""

    def __init__(self, folder: Path, aws: Cloud, configuration: Path):
        self.folder = folder
        self.aws = aws
        self.environment = os.environ | {
            "TF_CLI_CONFIG_FILE": str(configuration),
            "TF_IN_AUTOMATION": "1",
            "TF_VAR_endpoint": aws.url,
        }

    def terraform(self, *arguments: str, ends: int = 0) -> str:
        """Runs Terraform and returns what it printed."""
        done = subprocess.run(
            ["terraform", *arguments, "-no-color"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == ends, (
            f"terraform {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
        )
        return done.stdout

    def changes(self) -> set[tuple[str, str]]:
        """What a plan would change: (resource, argument)."""
        self.terraform("plan", "-input=false", "-out=plan")
        plan = json.loads(self.terraform("show", "-json", "plan"))
        found = set()
        for resource in plan["resource_changes"]:
            before, after = resource["change"]["before"] or {}, resource["change"]["after"] or {}
            found |= {
                (resource["address"], key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)
            }
        return found

    def output(self) -> Any:
        return json.loads(self.terraform("output", "-json", "ray"))


# (file, pattern, replacement): what 3.39 does not know or spells otherwise, then what moto answers wrongly
ADAPTATIONS = [
    ("network/versions.tf", ">= 5.0", ">= 3.39"),
    ("network/main.tf", r'domain = "vpc"', "vpc = true"),
    ("ray/versions.tf", ">= 4.0", ">= 3.39"),
    ("ray/main.tf", r'  dynamic "network_interfaces" \{\n.*?\n  \}\n\n', ""),  # EFA
    # moto shows an instance's groups on its interface alone, and gives one that asks for no public address one
    ("ray/main.tf", r"ignore_changes = \[ami\]", "ignore_changes = [ami, vpc_security_group_ids]"),
    ("ray/main.tf", r"  associate_public_ip_address = false\n", ""),
    # moto lists the template's own tags among those of what it starts
    ("ray/main.tf", r"\n  tags = local.tags\n\}\n\Z", "\n}\n"),
]


def adapt(modules: Path) -> None:
    for name, pattern, replacement in ADAPTATIONS:
        path = modules / name
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.S)
        assert count == 1, f"{name} has {count} places that match {pattern}: the adaptation is out of date"
        path.write_text(text)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory, aws: Cloud) -> Applied:
    need("terraform")
    folder = tmp_path_factory.mktemp("apply")
    try:
        configuration = real_provider.install(folder)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        missing(f"the AWS provider 3.39.0 (python -m tests.infra.real_provider): {error}")
        raise
    for name in ("network", "ray"):
        shutil.copytree(
            TERRAFORM / "modules" / name, folder / "modules" / name, ignore=shutil.ignore_patterns(".terraform*")
        )
    adapt(folder / "modules")
    (folder / "main.tf").write_text(ROOT)
    work = Applied(folder, aws, configuration)
    work.terraform("init", "-input=false")
    work.terraform("apply", "-input=false", "-auto-approve")
    # moto's RunInstances forgets this argument, so the provider sets it by itself in a second turn; nothing else may
    # change
    assert work.changes() == {("module.ray.aws_instance.head", "disable_api_termination")}
    work.terraform("apply", "-input=false", "-auto-approve")
    return work


def tags(found: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found["Tags"]}


def test_second_plan_changes_nothing(applied: Applied) -> None:
    assert applied.changes() == set()
    assert "No changes" in applied.terraform("plan", "-input=false", "-detailed-exitcode")


def test_head_is_private_protected_and_known_to_ray(applied: Applied) -> None:
    ec2 = applied.aws.client("ec2")
    (reservation,) = ec2.describe_instances(Filters=[{"Name": "tag:ray-cluster-name", "Values": [NAME]}])[
        "Reservations"
    ]
    (head,) = reservation["Instances"]
    assert head["InstanceId"] == applied.output()["head_instance_id"]
    (interface,) = head["NetworkInterfaces"]
    assert [group["GroupName"] for group in interface["Groups"]] == ["trunk-nodes"]
    assert head["PrivateIpAddress"] == "10.20.0.10"
    assert "PublicIpAddress" not in head
    assert not head.get("KeyName")
    assert tags(head)["ray-node-type"] == "head"
    protected = ec2.describe_instance_attribute(InstanceId=head["InstanceId"], Attribute="disableApiTermination")
    assert protected["DisableApiTermination"]["Value"] is True
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [head["InstanceId"]]}])[
        "Volumes"
    ]
    assert (volume["Encrypted"], volume["VolumeType"], volume["Size"]) == (True, "gp3", 100)


def test_nodes_are_reached_by_themselves_only(applied: Applied) -> None:
    group_id = applied.output()["security_group_id"]
    (group,) = applied.aws.client("ec2").describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    (way_in,) = group["IpPermissions"]
    assert [pair["GroupId"] for pair in way_in["UserIdGroupPairs"]] == [group_id]
    assert (way_in["IpRanges"], way_in["Ipv6Ranges"]) == ([], [])
    to_outside = [(rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissionsEgress"] if rule["IpRanges"]]
    assert to_outside == [(443, 443)]


def test_template_starts_a_worker_as_promised(applied: Applied) -> None:
    """The autoscaler's own call: the template by id, a subnet, and tags."""
    ec2 = applied.aws.client("ec2")
    output = applied.output()
    (version,) = ec2.describe_launch_template_versions(
        LaunchTemplateId=output["launch_template_id"], Versions=["$Default"]
    )["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert [(device["Ebs"]["Encrypted"], device["Ebs"]["VolumeType"]) for device in data["BlockDeviceMappings"]] == [
        (True, "gp3")
    ]
    assert data["InstanceMarketOptions"]["MarketType"] == "spot"
    assert data["SecurityGroupIds"] == [output["security_group_id"]]
    subnets = ec2.describe_subnets(Filters=[{"Name": "tag:trunkline", "Values": [NAME]}])["Subnets"]
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets)


def test_head_may_start_workers_only(applied: Applied) -> None:
    iam = applied.aws.client("iam")
    policy = iam.get_role_policy(RoleName="trunk-head", PolicyName="autoscaler")["PolicyDocument"]
    on_everything = {
        action for statement in policy["Statement"] if statement["Resource"] == ["*"] for action in statement["Action"]
    }
    assert on_everything == {"ec2:DescribeInstances"}
    passed = [statement["Resource"] for statement in policy["Statement"] if statement["Action"] == ["iam:PassRole"]]
    assert passed == [[iam.get_role(RoleName="trunk-worker")["Role"]["Arn"]]]


def test_private_subnets_leave_through_nat_and_s3_endpoint(applied: Applied) -> None:
    ec2 = applied.aws.client("ec2")
    private = ec2.describe_route_tables(Filters=[{"Name": "tag:Name", "Values": ["trunk-private"]}])["RouteTables"]
    (out,) = [route for route in private[0]["Routes"] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
    assert "NatGatewayId" in out
    (endpoint,) = ec2.describe_vpc_endpoints(
        Filters=[{"Name": "service-name", "Values": [f"com.amazonaws.{REGION}.s3"]}]
    )["VpcEndpoints"]
    assert endpoint["RouteTableIds"] == [private[0]["RouteTableId"]]


def test_destroy_leaves_nothing(applied: Applied) -> None:
    """In the order that the READMEs give: lift the protection, end the autoscaler's workers, destroy. Last, since it
    ends the rest.
    """
    ec2 = applied.aws.client("ec2")
    template = applied.output()["launch_template_id"]
    started = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": template},
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": "ray-cluster-name", "Value": NAME}, {"Key": "ray-node-type", "Value": "worker"}],
            }
        ],
    )
    applied.terraform("apply", "-input=false", "-auto-approve", "-var=protect=false")
    ec2.terminate_instances(InstanceIds=[started["Instances"][0]["InstanceId"]])
    applied.terraform("destroy", "-input=false", "-auto-approve", "-var=protect=false")

    left = {
        "instances": [
            instance["InstanceId"]
            for reservation in ec2.describe_instances()["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ],
        "networks": [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]],
        "gateways": [
            gateway["NatGatewayId"]
            for gateway in ec2.describe_nat_gateways()["NatGateways"]
            if gateway["State"] != "deleted"
        ],
        "addresses": ec2.describe_addresses()["Addresses"],
        # moto goes on listing deleted ones, as AWS does for a while
        "endpoints": [
            endpoint["VpcEndpointId"]
            for endpoint in ec2.describe_vpc_endpoints()["VpcEndpoints"]
            if endpoint["State"] != "deleted"
        ],
        "templates": ec2.describe_launch_templates()["LaunchTemplates"],
        "secrets": applied.aws.client("secretsmanager").list_secrets()["SecretList"],
        "roles": [
            role["RoleName"]
            for role in applied.aws.client("iam").list_roles()["Roles"]
            if role["RoleName"].startswith(NAME)
        ],
    }
    assert left == {kind: [] for kind in left}
