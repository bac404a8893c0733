"""One cluster from its boot scripts to its end, for real on this machine, with moto for AWS.

head.sh and worker.sh run under scratch roots as they run on instances. They make the secret, sign certificates and
start Ray with TLS, a token and the autoscaler, whose instances are moto's; the test is what boots them. One test, since
each part stands on the one before, and Ray takes seconds to start; what the autoscaler does after the first job is left
to `make test-full`.
"""

import getpass
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.infra.cloud import REGION, Cloud, Metadata, bootstrap, cloud, commands, render
from tests.infra.tools import TERRAFORM, need
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow
RAY = TERRAFORM / "modules" / "ray" / "templates"
VENV = Path(sys.executable).parent.parent

# three tasks that each want the GPU which a worker has one of
JOB = """
import os, ray
ray.init(logging_level="ERROR")
@ray.remote(num_gpus=1)
def where():
    return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"]
print("STORE", os.environ["TRUNKLINE_STORE"], os.environ["MLFLOW_TRACKING_URI"], os.environ["TRUNKLINE_SECRETS_PREFIX"])
print("RAN on", len(set(ray.get([where.remote() for _ in range(3)]))), "node")
"""


class Node:
    """A machine of the cluster: a scratch root, its metadata service, and the boot script that runs on it."""

    def __init__(self, cloud: Cloud, folder: Path, role: str, instance: str, address: str, settings: dict[str, str]):
        self.role = role
        self.root = folder
        self.metadata = Metadata(local_ipv4=address, instance_id=instance)
        bootstrap(self.root, RAY / "node.sh", RAY / f"{role}.sh")
        (self.root / "etc/trunkline").mkdir(parents=True)
        (self.root / "etc/trunkline/node.env").write_text(
            "".join(f"{key}={value}\n" for key, value in settings.items())
        )
        self.bin = commands(self.root / "bin", cloud, nvidia_smi='echo "NVIDIA L4"')
        self.environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_", "MLFLOW_"))
            },
            **cloud.environment,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "TRUNKLINE_ROOT": str(self.root),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "BASH_XTRACE": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        # as the systemd unit does: again after a failure (a busy machine lets Ray's processes wait too long for each
        # other)
        again = 'until bash "$0" run; do [ $? != 78 ] || exit 78; sleep 2; done'
        self.process = subprocess.Popen(
            ["bash", "-c", again, self.script],
            env=self.environment,
            stdout=(self.root / "out.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def script(self) -> str:
        return str(self.root / "opt/trunkline/bootstrap" / f"{self.role}.sh")

    @property
    def output(self) -> str:
        return (self.root / "out.log").read_text()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.metadata.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    # short, since Ray's sockets lie below it and the system takes 107 characters
    path = Path(tempfile.mkdtemp(prefix="tl"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def terraformed(aws: Cloud) -> dict[str, str]:
    """What Terraform leaves in AWS for the boot scripts. Returns: the settings that both kinds of node share."""
    ec2 = aws.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    ec2.create_launch_template(
        LaunchTemplateName="demo-worker", LaunchTemplateData={"ImageId": image, "InstanceType": "g6.xlarge"}
    )
    aws.client("s3").create_bucket(Bucket="demo-data")
    put_config(aws, idle_timeout_minutes=60)
    return {
        "NAME": "demo",
        "REGION": REGION,
        "BUCKET": "demo-data",
        "SECRET_ARN": aws.client("secretsmanager").create_secret(Name="demo/ray")["ARN"],
        "HEAD_ADDRESS": "127.0.0.2",
        "HEAD_PORT": str(free_port()),
        "DASHBOARD_PORT": str(free_port()),
        "STORE_URI": "s3://demo-checkpoints/store",
        "TRACKING_URI": "http://127.0.0.1:5000",
        "TRUNKLINE_SECRETS_PREFIX": "demo/jobs/",
        "RUN_AS": getpass.getuser(),
        "VENV": str(VENV),
    }


def put_config(aws: Cloud, idle_timeout_minutes: float) -> None:
    ec2 = aws.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]
    template = ec2.describe_launch_templates()["LaunchTemplates"][0]["LaunchTemplateId"]
    config = render(
        RAY / "cluster.yaml.tftpl",
        f"""{{ name = "demo", region = "{REGION}", availability_zones = ["{subnet["AvailabilityZone"]}"],
        subnet_ids = ["{subnet["SubnetId"]}"], launch_template_id = "{template}", launch_template_version = "1",
        instance_type = "g6.xlarge", worker_cpus = 4, worker_gpus = 1, accelerator = "L4", min_workers = 0, max_workers = 1,
        idle_timeout_minutes = {idle_timeout_minutes}, spot = false, efa = false, tags = {{ trunkline = "demo" }} }}""",
    )
    aws.client("s3").put_object(Bucket="demo-data", Key="bootstrap/cluster.yaml", Body=config.encode())


def start_head_instance(aws: Cloud) -> str:
    """The instance that Terraform starts, with the tags by which Ray knows it."""
    ec2 = aws.client("ec2")
    tags = {"ray-cluster-name": "demo", "ray-node-type": "head", "ray-user-node-type": "head"}
    started = ec2.run_instances(
        ImageId=ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
        MinCount=1,
        MaxCount=1,
        InstanceType="m7i.xlarge",
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        ],
    )
    return str(started["Instances"][0]["InstanceId"])


def jobs_api(settings: dict[str, str], token: str | None) -> int:
    """The status with which the Jobs API answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{settings['DASHBOARD_PORT']}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def reaches_gcs(settings: dict[str, str], credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a client gets a connection to the head."""
    address = f"{settings['HEAD_ADDRESS']}:{settings['HEAD_PORT']}"
    channel = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    states: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
    with channel:
        channel.subscribe(states.put, try_to_connect=True)
        ends = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        while (state := states.get(timeout=PATIENCE_SECONDS)) not in ends:
            pass
    return state is grpc.ChannelConnectivity.READY


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.campaign)], ids=["until it has run a job", "to its end"]
)
def test_a_cluster_boots_scales_and_lets_go(folder: Path, whole: bool) -> None:
    need("openssl")
    with cloud() as aws:
        settings = terraformed(aws)
        nodes: list[Node] = []

        def boot(role: str, instance: str, address: str, **more: str) -> Node:
            # ports that other clusters on this machine may hold, and a machine's size
            flags = "--num-cpus=1 --object-store-memory=100000000 --dashboard-agent-listen-port={} {}".format(
                free_port(), f"--ray-client-server-port={free_port()}" if role == "head" else ""
            )
            nodes.append(
                Node(aws, folder / str(len(nodes)), role, instance, address, settings | more | {"RAY_FLAGS": flags})
            )
            nodes[-1].run()
            return nodes[-1]

        def submit() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [VENV / "bin/ray", "job", "submit", "--", sys.executable, "-c", JOB],
                env=head.environment
                | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
                | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{settings['DASHBOARD_PORT']}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        def worker_of(job: subprocess.Popen[str], address: str) -> Node:
            # a job that asks for GPUs is what makes the autoscaler start an instance
            wait_until(lambda: aws.workers() or job.poll() is not None, "the autoscaler to start a worker")
            (instance,) = aws.workers()
            return boot("worker", instance["InstanceId"], address, GPUS_PER_NODE="1")

        try:
            head = boot("head", start_head_instance(aws), "127.0.0.2", AUTOSCALING="true")
            wait_until(lambda: head.ended() or "Ray runtime started" in head.output, "the head to start")
            assert not head.ended(), head.output
            secret = json.loads(
                aws.client("secretsmanager").get_secret_value(SecretId=settings["SECRET_ARN"])["SecretString"]
            )
            token = secret["token"]

            job = submit()
            worker = worker_of(job, "127.0.0.3")
            said, _ = job.communicate(timeout=PATIENCE_SECONDS)
            assert job.returncode == 0, said + worker.output
            assert "STORE s3://demo-checkpoints/store http://127.0.0.1:5000 demo/jobs/" in said
            assert "RAN on 1 node" in said
            # three tasks wanted a GPU, and max_workers is 1
            assert len(aws.workers("pending", "running", "shutting-down", "terminated")) == 1

            assert jobs_api(settings, token) == 200
            assert jobs_api(settings, None) == 401
            assert jobs_api(settings, "0" * 64) == 403
            tls = [(head.root / "etc/trunkline/tls" / name).read_bytes() for name in ("ca.crt", "node.key", "node.crt")]
            assert reaches_gcs(settings, grpc.ssl_channel_credentials(*tls))
            assert not reaches_gcs(settings, grpc.ssl_channel_credentials(tls[0]))
            assert not reaches_gcs(settings, None)
            if not whole:
                return

            # terraform apply with another idle_timeout_minutes; the timer then does this
            put_config(aws, idle_timeout_minutes=0.05)
            subprocess.run(["bash", head.script, "config"], env=head.environment, check=True, timeout=PATIENCE_SECONDS)
            wait_until(lambda: not aws.workers() or head.ended(), "the autoscaler to end an idle worker")
            assert not head.ended(), head.output
            worker.stop()  # as its instance is

            put_config(aws, idle_timeout_minutes=60)
            subprocess.run(["bash", head.script, "config"], env=head.environment, check=True, timeout=PATIENCE_SECONDS)
            job = submit()
            worker = worker_of(job, "127.0.0.4")
            said, _ = job.communicate(timeout=PATIENCE_SECONDS)
            assert job.returncode == 0, said + worker.output
            # AWS wants the spot instance back
            worker.metadata.items["spot/instance-action"] = json.dumps(
                {"action": "terminate", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))}
            )
            watched = subprocess.run(
                ["bash", worker.script, "watch"],
                env=worker.environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
            assert watched.returncode == 0, watched.stderr
            assert re.search(r"takes this instance back in \d+ seconds", watched.stderr)
            # idle_timeout_minutes is an hour: what ends it is that its Ray node is gone
            wait_until(lambda: not aws.workers() or head.ended(), "the autoscaler to end the drained worker")
            assert not head.ended(), head.output
        finally:
            for node in nodes:
                node.stop()
