"""EC2 machines with GPUs, as far as planning needs them without asking AWS.

The same facts as `infra/terraform/modules/ray/instances.tf` (a test compares them), with the GPU's memory and the quota
that counts the machine. `workflows.cluster_check` asks AWS itself; prices are for a first idea, of us-east-1, on
demand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Service Quotas of EC2, in vCPUs: (family, spot) -> code. Every kind of P machine shares one on demand, and has two on
# spot.
_QUOTAS = {
    ("g", False): ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    ("g", True): ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    ("p", False): ("L-417A185B", "Running On-Demand P instances"),
    ("p", True): ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ("p5", True): ("L-C4BD4855", "All P5 Spot Instance Requests"),
    ("standard", False): ("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
    ("standard", True): ("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
}
_STANDARD = set("acdhimrtz")
_OTHERS = {"dl", "f", "hpc", "inf", "mac", "trn", "u", "x"}


@dataclass(frozen=True)
class Instance:
    """What a type of machine has."""

    type: str
    cpus: int  # vCPUs, which is what Ray counts as CPUs; 0: not known
    gpus: int
    accelerator: str | None  # as Ray labels it, and `cluster.accelerator` names it
    gpu_gib: float  # memory of one GPU, as DescribeInstanceTypes says it
    usd_per_hour: float | None = None

    def __str__(self) -> str:
        gpus = f"{self.gpus} {self.accelerator} of {self.gpu_gib:.3g} GiB" if self.gpus else "no GPU"
        return f"{self.type} ({f'{self.cpus} vCPUs, ' if self.cpus else ''}{gpus})"


_KNOWN = {
    instance.type: instance
    for instance in (
        Instance("g5.xlarge", 4, 1, "A10G", 22.35, 1.01),
        Instance("g5.2xlarge", 8, 1, "A10G", 22.35, 1.21),
        Instance("g5.12xlarge", 48, 4, "A10G", 22.35, 5.67),
        Instance("g5.48xlarge", 192, 8, "A10G", 22.35, 16.29),
        Instance("g6.xlarge", 4, 1, "L4", 22.35, 0.80),
        Instance("g6.2xlarge", 8, 1, "L4", 22.35, 0.98),
        Instance("g6.12xlarge", 48, 4, "L4", 22.35, 4.60),
        Instance("g6.48xlarge", 192, 8, "L4", 22.35, 13.35),
        Instance("g6e.xlarge", 4, 1, "L40S", 44.7, 1.86),
        Instance("g6e.12xlarge", 48, 4, "L40S", 44.7, 10.49),
        Instance("g6e.48xlarge", 192, 8, "L40S", 44.7, 30.13),
        Instance("p4d.24xlarge", 96, 8, "A100", 40, 21.96),
        Instance("p4de.24xlarge", 96, 8, "A100", 80, 27.45),
        Instance("p5.48xlarge", 192, 8, "H100", 80, 55.04),
        Instance("p5en.48xlarge", 192, 8, "H200", 141, 63.30),
    )
}


def known(instance_type: str) -> Instance | None:
    """What is known of a type without asking; a type of a family without GPUs has none, whatever its size."""
    if instance_type in _KNOWN:
        return _KNOWN[instance_type]
    if family_of(instance_type) == "standard":
        return Instance(instance_type, 0, 0, None, 0)
    return None


def with_gpus() -> list[Instance]:
    """The types with GPUs that are known, the cheapest first."""
    return sorted(_KNOWN.values(), key=lambda instance: instance.usd_per_hour or 0)


def family_of(instance_type: str) -> str:
    """`g`, `p` or `standard`; another family under its own letters."""
    leading = re.match(r"[a-z]+", instance_type)
    letters = leading.group() if leading else ""
    if letters in _OTHERS or not letters:
        return letters
    return "standard" if letters[0] in _STANDARD else "g" if letters == "vt" else letters[0]


def quota_of(instance_type: str, spot: bool) -> tuple[str, str] | None:
    """Code and name of the quota that counts a machine's vCPUs; None for a family that is not known here."""
    family = family_of(instance_type)
    return _QUOTAS.get((instance_type[:2], spot)) or _QUOTAS.get((family, spot))
