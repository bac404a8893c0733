"""The KubeRay manifests against the strict schemas of KubeRay's CRDs: a key that is not in them is refused, as on no
cluster.

Kubernetes would drop unknown keys of a RayJob with a warning. The CRDs embed the whole schema of pods, so typos in
containers, tolerations and security contexts are found too. Not run: the CRDs' CEL rules.
"""

import copy
import functools
import gzip
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import pipelines
from tests.infra.tools import TERRAFORM

CRDS = Path(__file__).parent / "kuberay-crds"
EXAMPLE = TERRAFORM / "examples" / "kuberay"
KINDS = {"RayCluster": "raycluster.yaml", "RayJob": "rayjob.yaml"}


def strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown keys, and asks for no key that has a default."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    properties = made.get("properties")
    if isinstance(properties, dict) and made.get("type") == "object":
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        if "required" in made:
            made["required"] = [key for key in made["required"] if "default" not in properties.get(key, {})]
    return made


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    text = gzip.decompress((CRDS / f"ray.io_{kind.lower()}s.yaml.gz").read_bytes())
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    schema = strict(next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def manifest(kind: str) -> dict[str, Any]:
    found = yaml.safe_load((EXAMPLE / KINDS[kind]).read_text())
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
    return dict(found)


def cluster_spec(kind: str) -> dict[str, Any]:
    spec = manifest(kind)["spec"]
    return dict(spec["rayClusterSpec"] if kind == "RayJob" else spec)


def pods(kind: str) -> list[dict[str, Any]]:
    spec = cluster_spec(kind)
    return [
        spec["headGroupSpec"]["template"]["spec"],
        *(group["template"]["spec"] for group in spec["workerGroupSpecs"]),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_fits_the_strict_schema(kind: str) -> None:
    assert [error.message for error in validator(kind).iter_errors(manifest(kind))] == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("RayCluster", "spec.rayVersion"),
        ("RayCluster", "spec.authOptions.mode"),
        ("RayCluster", "spec.tlsOptions.enabled"),
        ("RayCluster", "spec.workerGroupSpecs.0.maxReplicas"),
        ("RayCluster", "spec.workerGroupSpecs.0.template.spec.tolerations"),
        ("RayCluster", "spec.headGroupSpec.template.spec.securityContext.runAsNonRoot"),
        ("RayCluster", "spec.headGroupSpec.template.spec.containers.0.resources.limits"),
        ("RayCluster", "spec.headGroupSpec.template.spec.serviceAccountName"),
        ("RayJob", "spec.entrypoint"),
        ("RayJob", "spec.backoffLimit"),
        ("RayJob", "spec.ttlSecondsAfterFinished"),
        ("RayJob", "spec.shutdownAfterJobFinishes"),
        ("RayJob", "spec.rayClusterSpec.authOptions.mode"),
    ],
)
def test_a_typo_is_refused(kind: str, path: str) -> None:
    document = copy.deepcopy(manifest(kind))
    *above, key = path.split(".")
    place: Any = document
    for part in above:
        place = place[int(part)] if isinstance(place, list) else place[part]
    typo = key[:-2] + key[-1] + key[-2]
    place[typo] = place.pop(key)
    assert any(f"'{typo}' was unexpected" in error.message for error in validator(kind).iter_errors(document))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_as_root_or_unauthenticated(kind: str) -> None:
    spec = cluster_spec(kind)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["tlsOptions"] == {"enabled": True}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods(kind):
        account = pod["securityContext"]
        assert (account["runAsNonRoot"], account["runAsUser"]) == (True, 2000)
        assert account["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["serviceAccountName"] == "trunkline"
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            named = {variable["name"] for variable in container["env"]}
            assert not {name for name in named if name.endswith(("KEY", "TOKEN", "SECRET", "PASSWORD"))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_asks_for_the_gpus_that_ray_is_told_of(kind: str) -> None:
    (group,) = cluster_spec(kind)["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == group["rayStartParams"]["num-gpus"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in group["template"]["spec"][
        "tolerations"
    ]


def test_the_job_runs_on_the_same_cluster() -> None:
    assert cluster_spec("RayJob") == cluster_spec("RayCluster")


def test_the_job_is_started_anew_and_leaves_nothing() -> None:
    spec = manifest("RayJob")["spec"]
    assert spec["backoffLimit"] >= 3
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600


def test_the_image_and_ray_are_those_of_the_project() -> None:
    pinned = (TERRAFORM.parent.parent / "constraints.txt").read_text()
    assert f"ray=={cluster_spec('RayCluster')['rayVersion']}\n" in pinned
    for pod in pods("RayCluster"):
        version = pod["containers"][0]["image"].rpartition(":")[2]
        assert version == pipelines.__version__
