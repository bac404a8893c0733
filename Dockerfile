# The image of every node of a cluster: CUDA, the packages of requirements.lock (versions and checksums), and Trunkline itself. It holds no secret:
# keys come from the instance's role (or the pod's service account), the token from a file that the node mounts.
#
#   docker build -t trunkline:0.1.0 .
#   docker run --rm --gpus all --ipc host trunkline:0.1.0 python -m workflows.pretrain +experiment=demo dry_run=true
#
# Never built so far: no container engine was at hand. hadolint reads it in the tests, and its pip line has run in an empty
# environment (docs/log.md). The base is pinned by its version; pin it by digest once you have pulled it (FROM name@sha256:...).

# -devel: DeepSpeed and Triton compile kernels on first use, with nvcc and gcc. CUDA 13.0 is what torch's wheels are built for.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

LABEL org.opencontainers.image.title="Trunkline" \
      org.opencontainers.image.description="Trains small language models the MiniCPM way" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Ubuntu keeps one version of a package in its archive, so pinning these would only break the build: the base's tag decides them
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates git libmagic1t64 procps python3-dev python3-venv tini \
 && rm -rf /var/lib/apt/lists/*

# the numbers of the account that boot scripts make on a node, so that both read the same files
RUN groupadd --gid 2000 trunkline \
 && useradd --uid 2000 --gid 2000 --create-home --shell /bin/bash trunkline \
 && install -d -o trunkline -g trunkline /opt/trunkline /scratch

ENV PATH=/opt/trunkline/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_OFFLINE=1 \
    MLFLOW_DISABLE_TELEMETRY=true

# by number: Kubernetes takes runAsNonRoot on trust of nothing else
USER 2000:2000
WORKDIR /opt/trunkline/project

# packages before code: editing Trunkline does not install torch anew. What builds source packages comes first, by checksum too
COPY --chown=trunkline:trunkline pyproject.toml requirements.lock README.md LICENSE ./
RUN python3 -m venv /opt/trunkline/venv \
 && grep '^setuptools==' requirements.lock > /tmp/build.lock \
 && pip install --require-hashes --only-binary=:all: -r /tmp/build.lock \
 && pip install --require-hashes --no-build-isolation --use-pep517 -r requirements.lock
COPY --chown=trunkline:trunkline pipelines pipelines
COPY --chown=trunkline:trunkline workflows workflows
COPY --chown=trunkline:trunkline conf conf
RUN pip install --no-deps --no-build-isolation -e .

# of a node: does its raylet live? It reads no port, which TLS and token would guard. A container that runs a single command has none.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
  CMD ["sh", "-c", "! pgrep -x 'ray|gcs_server' > /dev/null || pgrep -x raylet > /dev/null"]

# passes signals on to Ray's processes, and buries those that end
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "workflows.pretrain", "--help"]
