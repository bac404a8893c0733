#!/bin/bash
# A worker of a Trunkline cluster: joins the head by itself, and ends itself when it cannot, since every minute of it is paid for.
#
#   worker.sh install   once, from user data: the systemd units
#   worker.sh run       at every start, by systemd: prepares this node and becomes Ray
#   worker.sh watch     waits for AWS's notice that this spot instance is taken back, and has Ray drain it
#   worker.sh give-up   after a failure: leaves some minutes to look at it, then powers off (which terminates the instance)
set -euo pipefail
# shellcheck source=infra/terraform/modules/ray/templates/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/node.sh"

HEAD_PATIENCE_SECONDS="${HEAD_PATIENCE_SECONDS:-1800}" # a head being rebooted or replaced is away for minutes
GIVE_UP_SECONDS="${GIVE_UP_SECONDS:-600}"
WATCH_SECONDS=5 # AWS gives notice two minutes ahead

install_units() {
  make_account
  write_ray_unit worker.sh "OnFailure=trunkline-give-up.service
StartLimitIntervalSec=3600
StartLimitBurst=6"
  write_unit trunkline-watch.service << UNIT
[Unit]
Description=Trunkline: drains this node when AWS takes it back
After=trunkline-ray.service

[Service]
ExecStart=/bin/bash $BOOTSTRAP/worker.sh watch
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
UNIT
  write_unit trunkline-give-up.service << UNIT
[Unit]
Description=Trunkline: powers off a node that cannot join its cluster

[Service]
ExecStart=/bin/bash $BOOTSTRAP/worker.sh give-up
UNIT
  systemctl daemon-reload
  systemctl enable --now trunkline-ray.service trunkline-watch.service
}

secret() {
  aws secretsmanager get-secret-value --secret-id "$SECRET_ARN" --query SecretString --output text
}

head_answers() {
  timeout 5 bash -c "exec 3<> /dev/tcp/$HEAD_ADDRESS/$HEAD_PORT" 2> /dev/null
}

run() {
  local address instance secret
  address=$(own local-ipv4) || stop "the instance metadata service does not answer at $METADATA"
  instance=$(own instance-id) || stop "the instance metadata service at $METADATA does not say which instance this is"
  refresh_settings
  check_gpus
  mount_scratch
  install_packages
  # the head makes the secret at its first start, which may be going on
  secret=$(retry 60 15 secret) || stop "cannot read the secret $SECRET_ARN: has the head started, and may this role read it?"
  write_identity "$address" <<< "$secret"
  write_environment gpu "$instance"
  say "joining the head at $HEAD_ADDRESS:$HEAD_PORT"
  retry $((HEAD_PATIENCE_SECONDS / 10)) 10 head_answers ||
    stop "the head at $HEAD_ADDRESS:$HEAD_PORT has not answered for $HEAD_PATIENCE_SECONDS seconds"
  exec_ray_start --address="$HEAD_ADDRESS:$HEAD_PORT" --node-ip-address="$address"
}

watch() {
  local notice when deadline remaining instance
  until notice=$(metadata spot/instance-action); do
    sleep "$WATCH_SECONDS"
  done
  instance=$(own instance-id)
  if when=$(field time <<< "$notice") && deadline=$(date -d "$when" +%s); then
    remaining=$((deadline - $(date +%s)))
  else
    say "AWS's notice says no time ($notice): counting on two minutes, as it promises"
    remaining=120
  fi
  say "AWS takes this instance back in $remaining seconds: draining it"
  # no new work comes here, and the autoscaler looks for another node at once. `ray drain-node` does the same for a node whose
  # number one knows; without a number it starts a Ray of its own to ask
  beside_ray python - "$HEAD_ADDRESS:$HEAD_PORT" "$instance" "$((remaining > 0 ? remaining : 0))" << 'PYTHON'
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
from ray.core.generated.gcs_pb2 import GcsNodeInfo
head, instance, seconds = sys.argv[1:]
gcs = GcsClient(address=head)
nodes = gcs.get_all_node_info(timeout=30)
mine = [key for key, node in nodes.items() if node.instance_id == instance and node.state == GcsNodeInfo.ALIVE]
if not mine:
    sys.exit("this node is not in the cluster: nothing to drain")
deadline_ms = int((time.time() + int(seconds)) * 1000)
accepted, why = gcs.drain_node(mine[0].hex(), DRAIN_NODE_REASON_PREEMPTION, "spot interruption", deadline_ms)
sys.exit(0 if accepted else f"Ray refuses to drain this node: {why}")
PYTHON
}

give_up() {
  say "this worker cannot join its cluster; it powers off in $GIVE_UP_SECONDS seconds (journalctl -u trunkline-ray says why)"
  sleep "$GIVE_UP_SECONDS"
  systemctl poweroff
}

load_settings
case "${1:-}" in
  install) install_units ;;
  run) run ;;
  watch) watch ;;
  give-up) give_up ;;
  *) stop "worker.sh knows install, run, watch and give-up, not '${1:-}'" ;;
esac
