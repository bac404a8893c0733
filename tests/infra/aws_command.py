"""The AWS CLI, as far as the boot scripts use it, over boto3: arguments it does not know end it, as they do the real one.

The real CLI pins another botocore than Trunkline does, so it cannot live in the same environment; the tests take it instead
where TRUNKLINE_AWS_COMMAND names it.
"""

import argparse
import sys
from pathlib import Path

import boto3
from botocore.exceptions import ClientError


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--region")
    services = parser.add_subparsers(dest="service", required=True)
    copy = services.add_parser("s3", allow_abbrev=False).add_subparsers(dest="verb", required=True).add_parser("cp")
    copy.add_argument("source")
    copy.add_argument("target")
    copy.add_argument("--recursive", action="store_true")
    copy.add_argument("--only-show-errors", action="store_true", required=True)
    copy.add_argument("--region")
    verbs = services.add_parser("secretsmanager").add_subparsers(dest="verb", required=True)
    read = verbs.add_parser("get-secret-value", allow_abbrev=False)
    read.add_argument("--secret-id", required=True)
    read.add_argument("--query", choices=["SecretString"], required=True)
    read.add_argument("--output", choices=["text"], required=True)
    write = verbs.add_parser("put-secret-value", allow_abbrev=False)
    write.add_argument("--secret-id", required=True)
    write.add_argument("--secret-string", required=True)
    asked = parser.parse_args()
    try:
        {"cp": _copy, "get-secret-value": _read, "put-secret-value": _write}[asked.verb](asked)
    except ClientError as error:
        print(f"\nAn error occurred ({error.response['Error']['Code']}): {error}", file=sys.stderr)
        return 254
    return 0


def _copy(asked: argparse.Namespace) -> None:
    bucket, _, key = asked.source.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    if not asked.recursive:
        s3.download_file(bucket, key, asked.target)
        return
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", []):
        target = Path(asked.target) / item["Key"].removeprefix(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, item["Key"], str(target))


def _read(asked: argparse.Namespace) -> None:
    print(boto3.client("secretsmanager").get_secret_value(SecretId=asked.secret_id)["SecretString"])


def _write(asked: argparse.Namespace) -> None:
    value = Path(asked.secret_string.removeprefix("file://")).read_text()
    boto3.client("secretsmanager").put_secret_value(SecretId=asked.secret_id, SecretString=value)


if __name__ == "__main__":
    sys.exit(main())
