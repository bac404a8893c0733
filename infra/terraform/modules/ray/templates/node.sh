# shellcheck shell=bash
# What the head and the workers share: settings, packages, scratch disks, the cluster's secret and Ray's environment.
#
# Sourced by head.sh and worker.sh. Everything may run again on every start: what is done is found done. TRUNKLINE_ROOT puts all
# paths under another folder, for tests.
#
# Settings come from /etc/trunkline/node.env, one KEY=value a line:
#   NAME REGION BUCKET SECRET_ARN HEAD_ADDRESS   the cluster, where its boot files, its secret and its head are
#   STORE_URI TRACKING_URI                       what jobs find as TRUNKLINE_STORE and MLFLOW_TRACKING_URI
#   GPUS_PER_NODE EFA                            what this machine must have: a number; true or false
#   AUTOSCALING                                  of the head: whether there is a bootstrap/cluster.yaml; true or false
#   TRUNKLINE_...                                jobs find these as they stand
#   IMAGE | VENV | PYTHON                        a container image; else an environment that is there already; else the Python
#                                                that makes one from requirements.lock
#   RUN_AS HEAD_PORT DASHBOARD_PORT RAY_FLAGS    the account of Ray and of jobs; ports; further flags of `ray start`

ROOT="${TRUNKLINE_ROOT:-}"
ETC="$ROOT/etc/trunkline"
BOOTSTRAP="$ROOT/opt/trunkline/bootstrap"
SCRATCH="$ROOT/scratch"
OWN_VENV="$ROOT/opt/trunkline/venv"
UNITS="$ROOT/etc/systemd/system"
METADATA="${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}"

say() {
  echo "trunkline: $*" >&2
  # the console log can be read without logging in, also after the instance is gone
  if [ -w "$ROOT/dev/console" ]; then echo "trunkline: $*" >> "$ROOT/dev/console"; fi
}

# An end that trying again would not change; systemd knows the status (RestartPreventExitStatus).
stop() {
  say "error: $*"
  exit 78
}

load_settings() {
  local key value
  [ -r "$ETC/node.env" ] || stop "$ETC/node.env is missing: user data writes it at first boot"
  while IFS='=' read -r key value; do
    case "$key" in
      '' | \#*) ;;
      *[!A-Z0-9_]*) stop "$ETC/node.env: '$key' is no setting; lines read KEY=value" ;;
      *) export "$key=$value" ;;
    esac
  done < "$ETC/node.env"
  for key in NAME REGION BUCKET SECRET_ARN HEAD_ADDRESS; do
    [ -n "${!key:-}" ] || stop "$ETC/node.env lacks $key"
  done
  export AWS_DEFAULT_REGION="$REGION"
  : "${RUN_AS:=trunkline}" "${PYTHON:=python3}" "${GPUS_PER_NODE:=0}" "${EFA:=false}" "${AUTOSCALING:=false}" "${IMAGE:=}" "${VENV:=$OWN_VENV}"
  : "${HEAD_PORT:=6379}" "${DASHBOARD_PORT:=8265}" "${RAY_FLAGS:=}" "${STORE_URI:=}" "${TRACKING_URI:=}"
}

# metadata PATH: the instance metadata service, version 2 only. Fails where it has no such item.
metadata() {
  local token
  token=$(curl -sSf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$METADATA/latest/api/token") &&
    curl -sSf -m 5 -H "X-aws-ec2-metadata-token: $token" "$METADATA/latest/meta-data/$1" 2> /dev/null
}

# own PATH: of the metadata service, which a machine that has just started may reach only after a while. Fails where it says nothing.
own() {
  local answer
  answer=$(retry 30 2 metadata "$1") && [ -n "$answer" ] && printf '%s' "$answer"
}

# Settings again, as user data has them now: cloud-init runs user data once, and Terraform may have changed it since (an instance is
# stopped and started for that).
refresh_settings() {
  local fresh
  fresh=$(metadata ../user-data | sed -n "/<<'SETTINGS'/,/^SETTINGS\$/{//!p}") || true
  if [ -n "$fresh" ]; then
    # whole or not at all
    { printf '%s\n' "$fresh" > "$ETC/node.env.new" && mv "$ETC/node.env.new" "$ETC/node.env"; } || stop "cannot write $ETC/node.env"
  fi
  load_settings
}

# retry TIMES SECONDS COMMAND...: until it succeeds.
retry() {
  local times=$1 seconds=$2 attempt
  shift 2
  for attempt in $(seq "$times"); do
    "$@" && return
    [ "$attempt" = "$times" ] || sleep "$seconds"
  done
  return 1
}

make_account() {
  id -u "$RUN_AS" > /dev/null 2>&1 && return
  # the same numbers as in the image, so that the token and /scratch belong to one account either way
  groupadd --system --gid 2000 "$RUN_AS"
  useradd --system --uid 2000 --gid 2000 --create-home --shell /bin/bash "$RUN_AS"
}

# Instance-store disks as one RAID-0 at /scratch: Ray's temporary files and object spilling, and the shards' cache.
mount_scratch() {
  local disks=() device listed
  mkdir -p "$SCRATCH"
  if ! mountpoint -q "$SCRATCH"; then
    if mountpoint -q "$ROOT/opt/dlami/nvme"; then
      mount --bind "$ROOT/opt/dlami/nvme" "$SCRATCH" # AWS's deep-learning image has already joined the disks
    else
      device=$(blkid -L scratch || true) # as a reboot leaves it; stopping an instance empties its disks
      if [ -z "$device" ]; then
        listed=$(lsblk -dnpo NAME,MODEL) || stop "lsblk cannot list this machine's disks"
        mapfile -t disks < <(awk '/Instance Storage/ { print $1 }' <<< "$listed")
        if [ "${#disks[@]}" -gt 1 ]; then
          device=/dev/md/scratch
          mdadm --create "$device" --run --level=0 --raid-devices="${#disks[@]}" "${disks[@]}"
        else
          device="${disks[0]:-}"
        fi
        [ -z "$device" ] || mkfs.ext4 -q -F -L scratch "$device"
      fi
      if [ -n "$device" ]; then
        mount -o noatime "$device" "$SCRATCH"
      else
        say "no instance-store disks: $SCRATCH is on the root volume"
      fi
    fi
  fi
  mkdir -p "$SCRATCH/ray" "$SCRATCH/cache"
  chown "$RUN_AS:" "$SCRATCH" "$SCRATCH/ray" "$SCRATCH/cache"
}

check_gpus() {
  local found count
  [ "$GPUS_PER_NODE" -gt 0 ] || return 0
  found=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>&1) || stop "nvidia-smi fails: $found"
  count=$(grep -c . <<< "$found" || true) # a driver without a GPU prints nothing, and that is one line
  [ "$count" -ge "$GPUS_PER_NODE" ] ||
    stop "GPUS_PER_NODE is $GPUS_PER_NODE, and nvidia-smi sees $count: $(paste -sd ';' <<< "$found")"
  if [ "$EFA" = true ] && ! compgen -G "$ROOT/dev/infiniband/uverbs*" > /dev/null; then
    stop "EFA is asked for, and there is no /dev/infiniband/uverbs*: the instance type or the image is without it"
  fi
}

# Debian's and Ubuntu's python3 comes without venv; the headers are for the kernels that Triton compiles.
python_ready() {
  "$PYTHON" - << 'PYTHON'
import ensurepip, pathlib, sys, sysconfig, venv
sys.exit(not ((3, 11) <= sys.version_info < (3, 13) and pathlib.Path(sysconfig.get_path("include"), "Python.h").exists()))
PYTHON
}

# Whether install_packages is done, asked by others than who does it.
packages_ready() {
  if [ -n "$IMAGE" ]; then
    docker image inspect "$IMAGE" > /dev/null 2>&1
  else
    [ "$VENV" != "$OWN_VENV" ] || [ -e "$VENV/.made-from" ]
  fi
}

log_in_to_registry() {
  aws ecr get-login-password | docker login --username AWS --password-stdin "${IMAGE%%/*}"
}

# pip, which takes no file whose checksum is not in requirements.lock: what it installs, and the code of source packages that it
# runs to build them, is run by root.
pip_install() {
  retry 3 20 "$VENV/bin/pip" install -q --disable-pip-version-check --require-hashes "$@"
}

# The packages that jobs run on: the files that requirements.lock names, once for each content of it.
install_packages() {
  local wanted lock="$BOOTSTRAP/requirements.lock"
  if [ -n "$IMAGE" ]; then
    case "$IMAGE" in
      *.dkr.ecr.*) retry 5 20 log_in_to_registry || stop "cannot log in to the registry of $IMAGE: may this role ask for it?" ;;
    esac
    docker image inspect "$IMAGE" > /dev/null 2>&1 || retry 5 20 docker pull -q "$IMAGE" || stop "cannot pull $IMAGE"
    return
  fi
  [ "$VENV" = "$OWN_VENV" ] || return 0 # somebody else's: it is there already
  [ -s "$lock" ] || stop "there is no $lock: terraform apply uploads it beside the boot scripts"
  wanted=$(sha256sum < "$lock")
  [ "$(cat "$VENV/.made-from" 2> /dev/null)" != "$wanted" ] || return 0
  if ! python_ready 2> /dev/null; then
    say "installing $PYTHON with venv and headers"
    if command -v apt-get > /dev/null; then
      retry 5 20 apt-get -qq update && retry 5 20 apt-get -qq install -y "$PYTHON" "$PYTHON-venv" "$PYTHON-dev"
    else
      dnf -q install -y "$PYTHON" "$PYTHON-devel"
    fi > /dev/null || true
    python_ready || stop "PYTHON is $PYTHON: Trunkline needs Python 3.11 or 3.12, with venv and headers"
  fi
  say "installing packages into $VENV (some 5 GB: minutes)"
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV"
  # what builds source packages comes first and by checksum too: pip would fetch it unchecked into an environment of its own
  grep '^setuptools==' "$lock" > "$VENV/build.lock" || stop "$lock names no setuptools: make it anew by make lock"
  { pip_install --only-binary=:all: -r "$VENV/build.lock" && pip_install --no-build-isolation --use-pep517 -r "$lock"; } ||
    stop "pip could not install the packages of requirements.lock: is there a way out to the package index, and are its files those of the lock?"
  echo "$wanted" > "$VENV/.made-from"
}

# field NAME: of the JSON object on standard input. Fails with a reason, never with a value, where it is missing, no text, or empty.
field() {
  python3 -c '
import json, sys
name = sys.argv[1]
try:
    found = json.load(sys.stdin)
except ValueError as error:
    sys.exit(f"it is no JSON: {error}")
if not isinstance(found, dict):
    sys.exit(f"it is a JSON {type(found).__name__}, not an object")
value = found.get(name)
if not isinstance(value, str) or not value.strip():
    sys.exit(f"its {name} is " + ("missing" if name not in found else "empty" if value == "" else "no text"))
print(value)
' "$1"
}

# complaints FILE: what commands wrote there, on one line, without the dots and dashes by which openssl shows that it works.
complaints() {
  grep -v '^[-.+*]*$' "$1" | paste -sd ' '
}

# Token, CA and this node's own certificate, from the cluster's secret (JSON with token, ca_cert, ca_key) on standard input.
# The CA's key is never written to a disk. All of it is made and looked at beside the old, then takes its place: with anything less
# than a whole identity a node must not go on.
write_identity() {
  local address=$1 log="$ETC/identity.log" secret token ca_cert ca_key
  secret=$(cat)
  {
    token=$(field token <<< "$secret") && ca_cert=$(field ca_cert <<< "$secret") && ca_key=$(field ca_key <<< "$secret")
  } 2> "$log" || stop "the secret $SECRET_ARN is not what the head of a cluster writes: $(complaints "$log")"
  [[ "$token" =~ ^[[:graph:]]{32,}$ ]] ||
    stop "the secret $SECRET_ARN is not what the head of a cluster writes: its token has ${#token} characters; expected 32 or more, without a blank"
  make_identity "$address" "$token" "$ca_cert" "$ca_key" 2> "$log" ||
    stop "cannot write this node's token and certificate: $(complaints "$log")"
}

# make_identity ADDRESS TOKEN CA_CERT CA_KEY. Every step hangs on the one before by &&: `set -e` is off where a status is looked at.
make_identity() (
  tls="$ETC/tls"
  umask 0027
  group=$(id -gn "$RUN_AS") &&
    rm -rf "$tls.new" &&
    install -d -m 0750 -g "$group" "$tls.new" &&
    printf '%s' "$2" > "$ETC/token.new" &&
    printf '%s\n' "$3" > "$tls.new/ca.crt" &&
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$tls.new/node.key" -subj "/CN=$NAME" |
    openssl x509 -req -CA "$tls.new/ca.crt" -CAkey <(printf '%s\n' "$4") -days 825 -out "$tls.new/node.crt" -extfile <(
      # the names under which nodes and their own processes call this one
      echo "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:$1"
      echo "extendedKeyUsage=serverAuth,clientAuth"
    ) &&
    openssl verify -CAfile "$tls.new/ca.crt" "$tls.new/node.crt" > /dev/null && # an authority that has expired, too
    chmod 0640 "$tls.new/node.key" &&
    chgrp "$group" "$ETC/token.new" "$tls.new"/* &&
    mv "$ETC/token.new" "$ETC/token" &&
    rm -rf "$tls" &&
    mv "$tls.new" "$tls"
)

# The environment of Ray on this node, which every job inherits. Paths, never secrets.
write_environment() {
  local node_type=$1 instance=$2 plugin
  cat > "$ETC/ray.env" << ENVIRONMENT
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN_PATH=$ETC/token
RAY_USE_TLS=1
RAY_TLS_SERVER_CERT=$ETC/tls/node.crt
RAY_TLS_SERVER_KEY=$ETC/tls/node.key
RAY_TLS_CA_CERT=$ETC/tls/ca.crt
RAY_enable_autoscaler_v2=1
RAY_CLOUD_INSTANCE_ID=$instance
RAY_NODE_TYPE_NAME=$node_type
RAY_USAGE_STATS_ENABLED=0
AWS_REGION=$REGION
AWS_DEFAULT_REGION=$REGION
TRUNKLINE_STORE=$STORE_URI
TRUNKLINE_CACHE=$SCRATCH/cache
HF_HOME=$SCRATCH/cache/huggingface
ENVIRONMENT
  grep '^TRUNKLINE_' "$ETC/node.env" >> "$ETC/ray.env" || [ $? = 1 ] # 1: there are none; more: they could not be written
  [ -z "${TRUNKLINE_SECRETS_PREFIX:-}" ] || echo "TRUNKLINE_SECRETS_PREFIX=$TRUNKLINE_SECRETS_PREFIX" >> "$ETC/ray.env"
  [ -z "$TRACKING_URI" ] || echo "MLFLOW_TRACKING_URI=$TRACKING_URI" >> "$ETC/ray.env"
  if [ "$EFA" = true ]; then
    echo "FI_PROVIDER=efa" >> "$ETC/ray.env"
    # by which NCCL speaks EFA; an image brings its own
    plugin=$([ -n "$IMAGE" ] || find "$ROOT/opt/amazon" -name 'libnccl-net*.so' -print -quit 2> /dev/null || true)
    if [ -n "$plugin" ]; then
      echo "LD_LIBRARY_PATH=$(dirname "$plugin"):$ROOT/opt/amazon/efa/lib" >> "$ETC/ray.env"
    elif [ -z "$IMAGE" ]; then
      say "no aws-ofi-nccl under /opt/amazon: NCCL will use TCP instead of EFA"
    fi
  fi
}

# beside_ray COMMAND...: with this node's environment, in the container where there is one; standard input is handed on.
beside_ray() {
  if [ -n "$IMAGE" ]; then
    docker exec -i trunkline-ray "$@"
    return
  fi
  (
    set -a
    # shellcheck source=/dev/null
    . "$ETC/ray.env"
    PATH="$VENV/bin:$PATH" "$@"
  )
}

# Becomes `ray start ... --block`: in the container, or under the account of jobs.
exec_ray_start() {
  local flags=() devices=()
  read -ra flags <<< "$RAY_FLAGS"
  set -- ray start "$@" --num-gpus="$GPUS_PER_NODE" --temp-dir="$SCRATCH/ray" --disable-usage-stats "${flags[@]}" --block
  if [ -n "$IMAGE" ]; then
    docker rm -f trunkline-ray > /dev/null 2>&1 || true
    [ "$GPUS_PER_NODE" = 0 ] || devices+=(--gpus all)
    [ "$EFA" != true ] || devices+=(--device /dev/infiniband)
    # Ray's object store lives in /dev/shm, of which a container of its own gets 64 MB
    exec docker run --name trunkline-ray --rm --init --network host --ipc host "${devices[@]}" \
      --ulimit nofile=1048576 --ulimit memlock=-1 --env-file "$ETC/ray.env" \
      --volume "$ETC:$ETC:ro" --volume "$SCRATCH:$SCRATCH" "$IMAGE" "$@"
  fi
  set -a
  # shellcheck source=/dev/null
  . "$ETC/ray.env"
  set +a
  cd "$SCRATCH" || stop "no $SCRATCH"
  exec_as_account "$@"
}

# Becomes a program of the environment, under the account that owns nothing of the system.
exec_as_account() {
  local account=()
  [ "$(id -un)" = "$RUN_AS" ] || account=(setpriv "--reuid=$RUN_AS" "--regid=$RUN_AS" --init-groups env "HOME=/home/$RUN_AS")
  PATH="$VENV/bin:$PATH" exec "${account[@]}" "$@"
}

# write_unit NAME: a systemd unit from standard input.
write_unit() {
  mkdir -p "$UNITS"
  cat > "$UNITS/$1"
}

# write_ray_unit SCRIPT UNIT_LINES: how systemd keeps Ray running, over reboots too.
write_ray_unit() {
  write_unit trunkline-ray.service << UNIT
[Unit]
Description=Trunkline: Ray on this node
After=network-online.target dlami-nvme.service docker.service
Wants=network-online.target
$2

[Service]
# what terraform apply uploaded since: scripts, constraints. Without an answer, those of the last time will do
ExecStartPre=-/bin/bash -c 'aws s3 cp --region $REGION --recursive --only-show-errors s3://$BUCKET/bootstrap/ $BOOTSTRAP/'
ExecStart=/bin/bash $BOOTSTRAP/$1 run
Restart=always
RestartSec=15
RestartPreventExitStatus=78
LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
UNIT
}
