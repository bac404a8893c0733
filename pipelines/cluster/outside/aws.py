"""Questions to AWS that create and cost nothing: who am I, what may I start, are the buckets ours and closed, what is a
secret's value.

Enters: credentials, region and endpoint from the environment, as for every AWS tool. Leaves: a `Finding` for each
question, with the way out where something is wrong; a question that could not be asked is no ✓. Storage itself is
`pipelines/store/s3.py`'s.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.cluster.outside.instances import Instance, quota_of
from pipelines.errors import ConfigError

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_WRONG = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "AuthFailure",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "Forbidden", "403"}
_LOGIN = (
    "`aws sso login`, `aws configure`, or AWS_PROFILE / AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and "
    "AWS_SESSION_TOKEN)"
)


@dataclass(frozen=True)
class Finding:
    """The answer to one question."""

    mark: Literal["✓", "✗", "⚠"]  # as it should be; in the way; not known, or to be looked at
    name: str
    answer: str
    todo: str = ""


def explain(error: Exception) -> tuple[str, str]:
    """What an error of AWS means, and what to do about it."""
    from botocore import exceptions

    code = error.response["Error"]["Code"] if isinstance(error, exceptions.ClientError) else type(error).__name__
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return "no AWS credentials", f"log in: {_LOGIN}"
    if isinstance(error, exceptions.ProfileNotFound):
        return str(error), "set AWS_PROFILE to one of `aws configure list-profiles`"
    if code in _EXPIRED or "SSOToken" in code or code == "TokenRetrievalError":
        return f"the AWS credentials have expired ({code})", f"log in again: {_LOGIN}"
    if code in _WRONG:
        return f"AWS does not know these credentials ({code})", f"log in: {_LOGIN}"
    if code in _DENIED:
        return f"these credentials may not ask this ({code})", "ask whoever keeps the account for the permission"
    if isinstance(error, exceptions.NoRegionError):
        return "no region", "export AWS_REGION=us-east-1, or whichever the cluster is in"
    if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        return f"AWS does not answer ({error})", "check the network, and AWS_ENDPOINT_URL where it is set"
    return f"{code}: {str(error).splitlines()[0][:200]}", "see what AWS says of this error"


def client(service: str, region: str | None = None) -> Any:
    """A client that gives up within half a minute."""
    import boto3
    from botocore.config import Config

    region = region or os.environ.get("AWS_REGION")  # which botocore, alone among AWS's tools, does not read
    patience = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 2})
    return boto3.session.Session().client(service, region_name=region, config=patience)


def ask(name: str, question: Callable[[], Finding | list[Finding]], unknown: Literal["✗", "⚠"] = "⚠") -> list[Finding]:
    """What `question()` finds; an error of AWS is a finding too, marked `unknown`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        findings = question()
        return findings if isinstance(findings, list) else [findings]
    except (BotoCoreError, ClientError) as error:
        return [Finding(unknown, name, *explain(error))]


def secret_value(secret: str) -> str | None:
    """The value of a secret, or None where there is none of that name. Raises: ConfigError when it may not be read."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return str(client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise ConfigError(f"the AWS secret {secret} cannot be read: {': '.join(explain(error))}") from error


def credentials() -> Finding:
    """Who the credentials are, and until when."""
    import boto3

    who = client("sts", boto3.session.Session().region_name or "us-east-1").get_caller_identity()
    until = getattr(boto3.session.Session().get_credentials(), "_expiry_time", None)
    if until is None:
        return Finding("✓", "AWS credentials", f"{who['Arn']}, account {who['Account']}")
    left = (until - datetime.datetime.now(datetime.UTC)).total_seconds() / 3600
    return Finding("✓", "AWS credentials", f"{who['Arn']}, account {who['Account']}, for {left:.1f} more hours")


def describe_instance(instance_type: str, region: str | None = None) -> Instance:
    """What AWS says of a type. Raises: ConfigError for a type that there is not, or when AWS cannot be asked."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client("ec2", region).describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"][0]
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "InvalidInstanceType":
            raise ConfigError(
                f"instance_type={instance_type} is no type of EC2 in {region or 'this region'}: look at "
                "infra/terraform/README.md"
            ) from error
        meaning, todo = explain(error)
        raise ConfigError(
            f"instance_type={instance_type} is not among those known here, and {meaning}: {todo}, or leave it null"
        ) from error
    gpus = answer.get("GpuInfo", {}).get("Gpus", [])
    return Instance(
        instance_type,
        answer["VCpuInfo"]["DefaultVCpus"],
        sum(gpu["Count"] for gpu in gpus),
        gpus[0]["Name"] if gpus else None,
        gpus[0]["MemoryInfo"]["SizeInMiB"] / 1024 if gpus else 0,
    )


def offered(instance_type: str, region: str) -> Finding:
    """In which zones of the region a type can be had."""
    pages = (
        client("ec2", region)
        .get_paginator("describe_instance_type_offerings")
        .paginate(LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [instance_type]}])
    )
    zones = sorted(offer["Location"] for page in pages for offer in page["InstanceTypeOfferings"])
    if zones:
        return Finding("✓", "machines", f"{instance_type} is offered in {', '.join(zones)}")
    return Finding(
        "✗",
        "machines",
        f"{instance_type} is not offered in {region}",
        "choose another type or region in terraform.tfvars",
    )


def quota(instance: Instance, nodes: int, spot: bool, region: str) -> Finding:
    """Whether the account may run so many machines at a time."""
    from botocore.exceptions import ClientError

    counted = quota_of(instance.type, spot)
    if counted is None:
        return Finding(
            "⚠", "quota", f"which quota counts {instance.type} is not known here", "look under Service Quotas, EC2"
        )
    code, title = counted
    quotas, need = client("service-quotas", region), nodes * instance.cpus
    try:
        value = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    except ClientError as error:  # an account that never asked for more has AWS's default
        if error.response["Error"]["Code"] != "NoSuchResourceException":
            raise
        value = quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    compared = f"{title}: {value:g} vCPUs; {nodes} × {instance.type} take {need}"
    if value >= need:
        return Finding("✓", "quota", compared)
    more = (
        f"aws service-quotas request-service-quota-increase --region {region} --service-code ec2 --quota-code "
        f"{code} --desired-value {need}"
    )
    return Finding("✗", "quota", compared, f"ask for more, which takes AWS hours to days: {more}")


def bucket(name: str, prefix: str, region: str) -> list[Finding]:
    """Whether a bucket is there, ours, in this region, encrypted, closed to the public, and may be written to."""
    from botocore.exceptions import ClientError

    s3, title = client("s3", region), f"bucket {name}"
    try:
        head = s3.head_bucket(Bucket=name)
        account = client("sts", region).get_caller_identity()["Account"]
        s3.head_bucket(Bucket=name, ExpectedBucketOwner=account)
    except ClientError as error:
        return [_no_bucket(title, name, region, error)]
    there = head.get("BucketRegion") or region
    if there != region:
        return [
            Finding(
                "✗", title, f"is in {there}, the cluster in {region}: traffic would cost", f"take a bucket in {region}"
            )
        ]
    return [
        Finding("✓", title, f"ours, in {region}"),
        *ask("  encrypted", lambda: _encrypted(s3, name)),
        *ask("  closed to the public", lambda: _closed(s3, name)),
        *ask("  may be written", lambda: _writable(s3, name, prefix)),
    ]


def _no_bucket(title: str, name: str, region: str, error: Any) -> Finding:
    code = error.response["Error"]["Code"]
    if code in ("404", "NoSuchBucket"):
        return Finding(
            "✗", title, "does not exist", "`terraform apply` makes it; `terraform output -raw store_uri` names it"
        )
    if code in ("301", "PermanentRedirect"):
        there = error.response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "another region")
        return Finding("✗", title, f"is in {there}, not in {region}", "take a bucket in the cluster's region")
    if code in _DENIED:
        return Finding(
            "✗",
            title,
            "exists, and is closed to these credentials: most likely it belongs to another account",
            "names of buckets are shared by everybody: take yours from `terraform output -raw store_uri`, or allow "
            f"s3:ListBucket on {name}",
        )
    return Finding("✗", title, *explain(error))


def _encrypted(s3: Any, name: str) -> Finding:
    from botocore.exceptions import ClientError

    try:
        rules = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        rules = []
    algorithms = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    if "aws:kms" in algorithms or "aws:kms:dsse" in algorithms:
        return Finding("✓", "  encrypted", "with a key of KMS")
    return Finding(
        "⚠",
        "  encrypted",
        f"with {algorithms[0] if algorithms else 'no key of its own'}",
        "infra/terraform/modules/storage sets a key of KMS",
    )


def _closed(s3: Any, name: str) -> Finding:
    from botocore.exceptions import ClientError

    try:
        block = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchPublicAccessBlockConfiguration":
            raise
        block = {}
    wanted = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    if missing := [key for key in wanted if not block.get(key)]:
        return Finding(
            "✗", "  closed to the public", f"{', '.join(missing)} off",
            f"aws s3api put-public-access-block --bucket {name} --public-access-block-configuration "
            + ",".join(f"{key}=true" for key in wanted),
        )  # fmt: skip
    return Finding("✓", "  closed to the public", "all four blocks are on")


def _writable(s3: Any, name: str, prefix: str) -> Finding:
    """Asks for a write that cannot happen: over an object that is not there. Permission is looked at before that."""
    from botocore.exceptions import ClientError

    key, title = "/".join(part for part in (prefix.strip("/"), ".cluster-check") if part), "  may be written"
    try:
        s3.put_object(Bucket=name, Key=key, Body=b"", IfMatch='"00000000000000000000000000000000"')
        s3.delete_object(Bucket=name, Key=key)  # a server that knows no conditions
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _DENIED:
            return Finding(
                "✗", title, f"not under {key.rpartition('/')[0] or 'its root'}, by these credentials",
                "the nodes have a role of their own; for these credentials allow s3:PutObject there",
            )  # fmt: skip
        if code not in ("PreconditionFailed", "412", "NoSuchKey", "404"):
            raise
    return Finding("✓", title, f"under {prefix.strip('/') or 'its root'}")
