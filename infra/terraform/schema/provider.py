"""A Terraform provider that knows a schema and nothing else: Terraform checks arguments against it, and no cloud is
ever called.

Enters: a schema file as `extract.py` writes it, and the handshake that Terraform makes with every provider (go-plugin:
a line on standard output, then gRPC over a Unix socket with the certificate named in that line). Leaves: answers to
`validate`, to plans, and to `terraform test` with a mocked provider. Whatever would need the cloud (data sources,
creating anything) is refused by name.

    python infra/terraform/schema/provider.py --install DIRECTORY

makes a filesystem mirror under DIRECTORY and a CLI configuration that uses it;
`TF_CLI_CONFIG_FILE=DIRECTORY/terraformrc terraform init` then takes this file for hashicorp/aws. Needs the `infra`
extra (pip install -e '.[infra]').
"""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import os
import shlex
import sys
import tempfile
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tfplugin_proto import tfplugin5_5_pb2 as protocol
from tfplugin_proto import tfplugin5_5_pb2_grpc as service

SCHEMA = Path(__file__).parent / "aws.json"
_NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}  # protocol.Schema.NestedBlock.NestingMode
_UNKNOWN = msgpack.ExtType(0, b"\x00")  # how Terraform writes "known after apply"


def schema_block(block: dict[str, Any]) -> Any:
    """A block of the schema file as the protocol's message."""
    message = protocol.Schema.Block(version=0)
    for name, attribute in block.get("attributes", {}).items():
        flags = {flag: attribute.get(flag, False) for flag in ("optional", "required", "computed", "sensitive")}
        message.attributes.append(
            protocol.Schema.Attribute(name=name, type=json.dumps(attribute["type"]).encode(), **flags)
        )
    for name, nested in block.get("block_types", {}).items():
        message.block_types.append(
            protocol.Schema.NestedBlock(
                type_name=name,
                block=schema_block(nested["block"]),
                nesting=_NESTING[nested["nesting_mode"]],
                min_items=nested.get("min_items", 0),
                max_items=nested.get("max_items", 0),
            )
        )
    return message


def planned(block: dict[str, Any], value: dict[str, Any], prior: dict[str, Any] | None) -> dict[str, Any]:
    """What a plan says: what is configured, and for computed attributes what was there before or that it will be known
    later.
    """
    for name, attribute in block.get("attributes", {}).items():
        if value.get(name) is None and attribute.get("computed"):
            before = (prior or {}).get(name)
            value[name] = _UNKNOWN if before is None else before
    for name, nested in block.get("block_types", {}).items():
        inner = value.get(name)
        if isinstance(inner, dict) and nested["nesting_mode"] != "map":
            inner = [inner]
        elif isinstance(inner, dict):
            inner = list(inner.values())
        for element in inner or []:
            planned(nested["block"], element, None)
    return value


class SchemaProvider(service.ProviderServicer):
    """Protocol 5, as far as a provider goes that never leaves the machine."""

    def __init__(self, schema: dict[str, Any], stopped: threading.Event):
        self.schema = schema
        self.stopped = stopped

    def GetSchema(self, request: Any, context: Any) -> Any:
        def messages(types: dict[str, Any]) -> dict[str, Any]:
            return {
                name: protocol.Schema(version=0, block=schema_block(found["block"])) for name, found in types.items()
            }

        return protocol.GetProviderSchema.Response(
            provider=protocol.Schema(version=0, block=schema_block(self.schema["provider"]["block"])),
            resource_schemas=messages(self.schema["resource_schemas"]),
            data_source_schemas=messages(self.schema["data_source_schemas"]),
            server_capabilities=protocol.ServerCapabilities(get_provider_schema_optional=True),
        )

    def PrepareProviderConfig(self, request: Any, context: Any) -> Any:
        return protocol.PrepareProviderConfig.Response(prepared_config=request.config)

    def ValidateResourceTypeConfig(self, request: Any, context: Any) -> Any:
        return protocol.ValidateResourceTypeConfig.Response()

    def ValidateDataSourceConfig(self, request: Any, context: Any) -> Any:
        return protocol.ValidateDataSourceConfig.Response()

    def Configure(self, request: Any, context: Any) -> Any:
        return protocol.Configure.Response()

    def UpgradeResourceState(self, request: Any, context: Any) -> Any:
        return protocol.UpgradeResourceState.Response(upgraded_state=protocol.DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request: Any, context: Any) -> Any:
        return protocol.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        proposed = msgpack.unpackb(request.proposed_new_state.msgpack, raw=False, strict_map_key=False)
        prior = msgpack.unpackb(request.prior_state.msgpack, raw=False, strict_map_key=False)
        if proposed is None:  # to be destroyed
            return protocol.PlanResourceChange.Response(planned_state=request.proposed_new_state)
        block = self.schema["resource_schemas"][request.type_name]["block"]
        state = msgpack.packb(planned(block, proposed, prior))
        return protocol.PlanResourceChange.Response(planned_state=protocol.DynamicValue(msgpack=state))

    def ReadDataSource(self, request: Any, context: Any) -> Any:
        self._refuse(context, f"reading {request.type_name}")

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:
        self._refuse(context, f"creating {request.type_name}")

    def ImportResourceState(self, request: Any, context: Any) -> Any:
        self._refuse(context, f"importing {request.type_name}")

    def Stop(self, request: Any, context: Any) -> Any:
        self.stopped.set()
        return protocol.Stop.Response()

    def _refuse(self, context: Any, what: str) -> None:
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{what} needs the real AWS provider; this one only knows the schema. In tests, mock it: mock_provider "
            f'"aws" {{}}',
        )


def certificate() -> tuple[bytes, bytes, bytes]:
    """A key and a certificate for one run of this process: (key as PEM, certificate as PEM, certificate as DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, made.public_bytes(serialization.Encoding.PEM), made.public_bytes(serialization.Encoding.DER)


def serve(schema_path: Path, kept: bool = False) -> None:
    """Serves until Terraform says that it is done; `kept`, until it is killed, for any number of runs that find it by
    TF_REATTACH_PROVIDERS: starting anew takes a second or two of a processor, and `terraform test` does so for every
    run of a test.
    """
    schema = next(iter(json.loads(schema_path.read_text())["provider_schemas"].values()))
    stopped = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    service.add_ProviderServicer_to_server(SchemaProvider(schema, stopped), server)

    def shut_down(request: bytes, context: Any) -> bytes:
        stopped.set()
        return b""

    handler = grpc.unary_unary_rpc_method_handler(shut_down)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("plugin.GRPCController", {"Shutdown": handler}),)
    )
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "provider.sock")
        if kept:
            server.add_insecure_port(f"unix:{socket}")
            server.start()
            here = {
                "Protocol": "grpc",
                "ProtocolVersion": 5,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "unix", "String": str(socket)},
            }
            print(json.dumps({"registry.terraform.io/hashicorp/aws": here}), flush=True)
            threading.Event().wait()
        key, pem, der = certificate()
        server.add_secure_port(f"unix:{socket}", grpc.ssl_server_credentials([(key, pem)]))
        server.start()
        # core protocol 1, provider protocol 5; the certificate without padding, as go-plugin reads it
        print(f"1|5|unix|{socket}|grpc|{base64.b64encode(der).decode().rstrip('=')}", flush=True)
        stopped.wait()
        server.stop(0.2).wait()


def install(directory: Path, schema_path: Path = SCHEMA) -> Path:
    """Makes a mirror under `directory` whose hashicorp/aws is this file.

    Returns: the CLI configuration, for TF_CLI_CONFIG_FILE.
    """
    version = json.loads(schema_path.read_text())["x_rebuilt_from"]["provider_version"]
    mirror = directory.resolve() / "mirror"
    binary = mirror / f"registry.terraform.io/hashicorp/aws/{version}/linux_amd64/terraform-provider-aws_v{version}"
    binary.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--schema", str(schema_path.resolve())]
    binary.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    binary.chmod(0o755)
    configuration = directory / "terraformrc"
    configuration.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n    include = '
        f'["registry.terraform.io/*/*"]\n  }}\n}}\n'
    )
    return configuration


def main() -> None:
    """Installs a mirror, or serves when Terraform starts it."""
    parser = argparse.ArgumentParser(description="A Terraform provider that knows a schema and calls no cloud.")
    parser.add_argument("--schema", type=Path, default=SCHEMA)
    parser.add_argument("--install", type=Path, metavar="DIRECTORY", help="make a mirror and a CLI configuration there")
    parser.add_argument("--keep", action="store_true", help="serve until killed; prints TF_REATTACH_PROVIDERS")
    arguments = parser.parse_args()
    if arguments.install:
        print(f"export TF_CLI_CONFIG_FILE={install(arguments.install, arguments.schema)}")
    elif arguments.keep:
        serve(arguments.schema, kept=True)
    elif "PLUGIN_CLIENT_CERT" not in os.environ:
        parser.error("this is started by Terraform; say --install DIRECTORY to have it do so")
    else:
        serve(arguments.schema)


if __name__ == "__main__":
    main()
