"""The autoscaler's configuration: read by Ray's own validators, and instances started by Ray's own AWS provider, in
moto.

The launch template has the arguments of modules/ray. What the autoscaler then decides is in test_cluster_boot.py.
"""

import base64
import copy
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from tests.infra.cloud import REGION, Cloud, render
from tests.infra.tools import TERRAFORM

TEMPLATE = TERRAFORM / "modules" / "ray" / "templates" / "cluster.yaml.tftpl"
TAGS = {
    "ray-node-type": "worker",
    "ray-node-status": "uninitialized",
    "ray-user-node-type": "gpu",
    "ray-launch-config": "x",
}


@pytest.fixture(scope="module")
def aws(aws: Cloud) -> Iterator[Cloud]:
    """And Ray's own provider, which runs in this process, finds it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment.items():
            patch.setenv(name, value)
        yield aws


@pytest.fixture(scope="module")
def network(aws: Cloud) -> dict[str, Any]:
    """Two private subnets, a security group, an instance profile and an image."""
    ec2, iam = aws.client("ec2"), aws.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    zones = [f"{REGION}a", f"{REGION}b"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.20.{i}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for i, zone in enumerate(zones)
    ]
    group = ec2.create_security_group(GroupName="demo-nodes", Description="nodes", VpcId=vpc)["GroupId"]
    profile = iam.create_instance_profile(InstanceProfileName="demo-worker")["InstanceProfile"]["Arn"]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    return {"zones": zones, "subnets": subnets, "group": group, "profile": profile, "image": image}


def launch_template(aws: Cloud, network: dict[str, Any], name: str, **changed: Any) -> str:
    data = {
        "ImageId": network["image"],
        "InstanceType": "g6.xlarge",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": {"Arn": network["profile"]},
        "SecurityGroupIds": [network["group"]],
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "UserData": base64.b64encode(b"#!/bin/bash\n").decode(),
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "VolumeSize": 200, "Encrypted": True}}
        ],
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": [{"Key": "trunkline", "Value": "demo"}]} for kind in ("instance", "volume")
        ],
        **changed,
    }
    made = aws.client("ec2").create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def config(network: dict[str, Any], template: str, **changed: Any) -> dict[str, Any]:
    """The configuration as Terraform renders it."""
    zones, subnets = (", ".join(f'"{item}"' for item in network[key]) for key in ("zones", "subnets"))
    variables = {
        "name": '"demo"',
        "region": f'"{REGION}"',
        "availability_zones": f"[{zones}]",
        "subnet_ids": f"[{subnets}]",
        "launch_template_id": f'"{template}"',
        "launch_template_version": '"1"',
        "instance_type": '"g6.xlarge"',
        "worker_cpus": "4",
        "worker_gpus": "1",
        "accelerator": '"L4"',
        "min_workers": "0",
        "max_workers": "4",
        "idle_timeout_minutes": "10",
        "spot": "false",
        "efa": "false",
        "tags": '{ trunkline = "demo", owner = "you" }',
        **changed,
    }
    text = render(TEMPLATE, "{ " + ", ".join(f"{key} = {value}" for key, value in variables.items()) + " }")
    return dict(yaml.safe_load(text))


NOWHERE = {"zones": [f"{REGION}a"], "subnets": ["subnet-1"]}


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    return config(NOWHERE, "lt-1")


def test_ray_takes_it_as_it_stands(rendered: dict[str, Any]) -> None:
    # `ray start --autoscaling-config` reads the file without the defaults that `ray up` would add: it must be whole
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(rendered)
    prepared = prepare_config(copy.deepcopy(rendered))
    inert: dict[str, Any] = {
        "docker": {},
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    assert prepared == rendered | inert


def test_it_says_what_was_asked(rendered: dict[str, Any]) -> None:
    # whole, since Ray accepts any key here: a typo would be a setting that silently is not made
    assert rendered["provider"] == {
        "type": "aws",
        "region": REGION,
        "availability_zone": f"{REGION}a",
        "use_internal_ips": True,
        "cache_stopped_nodes": False,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    gpu = rendered["available_node_types"]["gpu"]
    assert gpu["resources"] == {"CPU": 4, "GPU": 1, "accelerator_type:L4": 1}
    assert (gpu["min_workers"], gpu["max_workers"], rendered["max_workers"]) == (0, 4, 4)
    assert rendered["idle_timeout_minutes"] == 10
    assert not rendered["auth"]
    assert not any(rendered[key] for key in rendered if key.endswith("_commands"))


@pytest.mark.parametrize(
    ("path", "typo"),
    [
        ("max_workers", "max_wrokers"),
        ("idle_timeout_minutes", "idle_timeout_minuts"),
        ("upscaling_speed", "upscale_speed"),
        ("provider", "providers"),
        ("head_node_type", "head_type"),
        ("available_node_types", "node_types"),
        ("available_node_types.gpu.max_workers", "max_worker"),
        ("available_node_types.gpu.resources", "resource"),
        ("available_node_types.gpu.node_config", "nodeconfig"),
        ("provider.disable_node_updaters", "disable_node_updater"),
    ],
)
def test_a_typo_is_refused(rendered: dict[str, Any], path: str, typo: str) -> None:
    from ray.autoscaler._private.util import validate_config

    config = copy.deepcopy(rendered)
    *above, key = path.split(".")
    place = config
    for part in above:
        place = place[part]
    place[typo] = place.pop(key)
    if above == ["provider"]:
        with pytest.raises(AssertionError):  # Ray takes any key there, and this file's test does not
            test_it_says_what_was_asked(config)
    else:
        with pytest.raises(Exception, match=f"{typo}|{key}"):
            validate_config(config)


def provider(config: dict[str, Any]) -> Any:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return AWSNodeProvider(config["provider"], config["cluster_name"])


def start(config: dict[str, Any], count: int = 1) -> dict[str, list[str]]:
    """Have Ray's provider start workers. Returns: the parameters of its request to EC2."""
    asked: list[dict[str, Any]] = []
    nodes = provider(config)
    events = nodes.ec2_fail_fast.meta.client.meta.events
    name = "before-call.ec2.RunInstances"

    def note(params: dict[str, Any], **rest: Any) -> None:
        asked.append(params["body"])

    events.register(name, note)
    try:
        nodes.create_node(copy.deepcopy(config["available_node_types"]["gpu"]["node_config"]), dict(TAGS), count)
    finally:
        events.unregister(name, note)
    (body,) = asked
    return dict(body) if isinstance(body, dict) else parse_qs(body)


def test_a_worker_is_what_the_template_says(aws: Cloud, network: dict[str, Any]) -> None:
    template = launch_template(aws, network, "plain")
    made = config(network, template)
    asked = start(made)
    # what the request does not name, the template decides: role, metadata version 2, encryption, spot. moto does not
    # carry these over to an instance; test_ray_reads_the_launch_template sees them
    assert {key.split(".")[0] for key in asked} <= {
        *("Action", "Version", "ClientToken", "MinCount", "MaxCount"),
        *("LaunchTemplate", "InstanceType", "SubnetId", "TagSpecification"),
    }
    assert (asked["LaunchTemplate.LaunchTemplateId"], asked["LaunchTemplate.Version"]) == (template, "1")
    (worker,) = aws.workers()
    assert worker["InstanceType"] == "g6.xlarge"
    assert worker["ImageId"] == network["image"]
    assert worker["SubnetId"] in network["subnets"]
    assert "PublicIpAddress" not in worker
    assert [group["GroupId"] for group in worker["SecurityGroups"]] == [network["group"]]
    tags = {tag["Key"]: tag["Value"] for tag in worker["Tags"]}
    expected = {"ray-cluster-name": "demo", "ray-node-type": "worker", "trunkline": "demo", "owner": "you"}
    assert expected.items() <= tags.items()
    nodes = provider(made)
    assert nodes.non_terminated_nodes({}) == [worker["InstanceId"]]
    nodes.terminate_nodes([worker["InstanceId"]])
    assert aws.workers() == []
    assert aws.workers("stopped", "stopping") == []


def test_a_misspelt_key_of_a_node_starts_nothing(aws: Cloud, network: dict[str, Any]) -> None:
    made = config(network, launch_template(aws, network, "misspelt"))
    for key, typo in [
        ("LaunchTemplate", "LaunchTemplates"),
        ("InstanceType", "Instancetype"),
        ("TagSpecifications", "Tags"),
    ]:
        broken = copy.deepcopy(made)
        node = broken["available_node_types"]["gpu"]["node_config"]
        node[typo] = node.pop(key)
        with pytest.raises(Exception, match=f'Unknown parameter in input: "{typo}"'):
            start_unseen(broken)
    assert aws.workers() == []


def start_unseen(config: dict[str, Any]) -> None:
    provider(config).create_node(copy.deepcopy(config["available_node_types"]["gpu"]["node_config"]), dict(TAGS), 1)


def test_with_efa_the_request_leaves_the_network_to_the_template(aws: Cloud, network: dict[str, Any]) -> None:
    # EC2 refuses a request that names a subnet or a group beside the interfaces of a template; moto does not
    interfaces = [
        {
            "DeviceIndex": min(card, 1),
            "NetworkCardIndex": card,
            "InterfaceType": "efa",
            "SubnetId": network["subnets"][0],
            "Groups": [network["group"]],
        }
        for card in range(4)
    ]
    template = launch_template(aws, network, "efa", NetworkInterfaces=interfaces, SecurityGroupIds=[])
    asked = start(config(network, template, efa="true"))
    assert not [key for key in asked if key.startswith(("SubnetId", "SecurityGroup", "NetworkInterface"))]
    assert asked["LaunchTemplate.LaunchTemplateId"] == template
    plain = start(config(network, launch_template(aws, network, "beside")))
    assert plain["SubnetId"] in network["subnets"]
    for worker in aws.workers():
        aws.client("ec2").terminate_instances(InstanceIds=[worker["InstanceId"]])


def test_a_full_zone_is_passed_over(aws: Cloud, network: dict[str, Any]) -> None:
    made = config(network, launch_template(aws, network, "zones"))
    node = made["available_node_types"]["gpu"]["node_config"]
    node["SubnetIds"] = ["subnet-00000000", network["subnets"][1]]  # the first is refused
    start_unseen(made)
    (worker,) = aws.workers()
    assert worker["SubnetId"] == network["subnets"][1]
    aws.client("ec2").terminate_instances(InstanceIds=[worker["InstanceId"]])


def test_ray_reads_the_launch_template(aws: Cloud, network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # what `ray up` does first: it takes over the template's keys and checks subnets, groups and zones against EC2
    from ray.autoscaler._private.aws.config import bootstrap_aws

    spot = {"MarketType": "spot"}
    made = config(network, launch_template(aws, network, "spot", InstanceMarketOptions=spot))
    node = made["available_node_types"]["gpu"]["node_config"]
    made["available_node_types"]["head"]["node_config"] = copy.deepcopy(node)
    made["auth"] = {"ssh_private_key": "none"}
    read = bootstrap_aws(made)["available_node_types"]["gpu"]["node_config"]
    assert read["IamInstanceProfile"] == {"Arn": network["profile"]}
    assert read["SecurityGroupIds"] == [network["group"]]
    assert read["MetadataOptions"]["HttpTokens"] == "required"
    assert read["InstanceMarketOptions"] == spot
    assert read["LaunchTemplate"] == node["LaunchTemplate"]
    assert "NetworkInterfaces" not in read
    made["available_node_types"]["gpu"]["node_config"]["LaunchTemplate"]["LaunchTemplateId"] = "lt-0123456789abcdef0"
    with pytest.raises(Exception, match="lt-0123456789abcdef0"):
        bootstrap_aws(made)
