#!/bin/bash
# The head of a Trunkline cluster: Ray's GCS, dashboard and Jobs API, the autoscaler, and the drivers of jobs.
#
#   head.sh install   once, from user data: the systemd units, and login shells that know the cluster
#   head.sh run       at every start, by systemd: prepares this node and becomes Ray
#   head.sh config    every two minutes: fetches the autoscaler's configuration, which Ray reads again within seconds
#
# The first start makes the cluster's token and certificate authority and puts them into its secret; every later one reads
# them there, so a head that was rebooted or replaced is the same cluster to its workers and users.
set -euo pipefail
# shellcheck source=infra/terraform/modules/ray/templates/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/node.sh"

# How long the autoscaler waits for a worker that it started to join (packages take minutes) before it ends it: it costs money.
JOIN_SECONDS="${JOIN_SECONDS:-1800}"

install_units() {
  local units=(trunkline-ray.service)
  make_account
  write_ray_unit head.sh ""
  if [ "$AUTOSCALING" = true ]; then
    write_unit trunkline-config.service << UNIT
[Unit]
Description=Trunkline: what the autoscaler may start

[Service]
Type=oneshot
ExecStart=/bin/bash $BOOTSTRAP/head.sh config
UNIT
    write_unit trunkline-config.timer << UNIT
[Unit]
Description=Trunkline: takes over what terraform apply changed

[Timer]
OnActiveSec=120
OnUnitActiveSec=120

[Install]
WantedBy=timers.target
UNIT
    units+=(trunkline-config.timer)
  fi
  mkdir -p "$ROOT/etc/profile.d"
  # after logging in, `ray status` and `ray job list` work (as root, or as the account of jobs: the token is theirs alone)
  cat > "$ROOT/etc/profile.d/trunkline.sh" << PROFILE
if [ -r $ETC/token ]; then set -a; . $ETC/ray.env; set +a; PATH=$VENV/bin:\$PATH; fi
PROFILE
  systemctl daemon-reload
  systemctl enable --now "${units[@]}"
  [ ! -e "$BOOTSTRAP/mlflow_server.sh" ] || bash "$BOOTSTRAP/mlflow_server.sh" install
}

# The cluster's secret on standard output; made when it has no value yet. Callers try it again (`retry`), and where a status is
# looked at, bash goes on after a failure whatever `set -e` says: so every step here hangs on the one before by &&.
secret() {
  local answer folder complaint status=0
  folder=$(mktemp -d) || return
  # apart: the AWS CLI warns on standard error also when all is well
  if answer=$(aws secretsmanager get-secret-value --secret-id "$SECRET_ARN" --query SecretString --output text 2> "$folder/complaint"); then
    printf '%s' "$answer"
  else
    complaint=$(cat "$folder/complaint")
    if [[ "$complaint" == *ResourceNotFoundException* ]]; then
      say "first start: making the cluster's token and certificate authority"
      make_secret || status=$?
    else
      say "cannot read the secret $SECRET_ARN: $complaint"
      status=1
    fi
  fi
  rm -rf "$folder"
  return "$status"
}

make_secret() {
  local folder status=0
  # memory, not a disk, and gone in a second: openssl writes keys to files only
  folder=$(mktemp -d -p /dev/shm) || return
  fill_secret "$folder" && put_secret "$folder" && cat "$folder/secret.json" || status=$?
  rm -rf "$folder"
  return "$status"
}

# fill_secret FOLDER: a new token and a new authority, in FOLDER/secret.json.
fill_secret() {
  {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$NAME cluster" \
      -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$1/ca_key" -out "$1/ca_cert" &&
      openssl rand -hex 32 > "$1/token" &&
      python3 - "$1" > "$1/secret.json" << 'PYTHON'
import json, pathlib, sys
print(json.dumps({name: pathlib.Path(sys.argv[1], name).read_text().strip() for name in ("token", "ca_cert", "ca_key")}))
PYTHON
  } 2> "$1/complaint" || {
    say "cannot make a token and a certificate authority: $(complaints "$1/complaint")"
    return 1
  }
}

# put_secret FOLDER: what is not kept is not used either, or every other node would have another one.
put_secret() {
  aws secretsmanager put-secret-value --secret-id "$SECRET_ARN" --secret-string "file://$1/secret.json" > /dev/null 2> "$1/complaint" || {
    say "cannot write the secret $SECRET_ARN: $(cat "$1/complaint")"
    return 1
  }
}

fetch_config() {
  # moved into place whole: the autoscaler may be reading
  aws s3 cp --only-show-errors "s3://$BUCKET/bootstrap/cluster.yaml" "$ETC/cluster.yaml.new" || return
  if [ ! -s "$ETC/cluster.yaml.new" ]; then
    say "s3://$BUCKET/bootstrap/cluster.yaml is empty: terraform apply writes it"
    return 1
  fi
  mv "$ETC/cluster.yaml.new" "$ETC/cluster.yaml"
}

run() {
  local address instance secret autoscaling=()
  address=$(own local-ipv4) || stop "the instance metadata service does not answer at $METADATA"
  instance=$(own instance-id) || stop "the instance metadata service at $METADATA does not say which instance this is"
  refresh_settings
  check_gpus
  mount_scratch
  install_packages
  secret=$(retry 20 15 secret) || stop "no token and certificates without the secret $SECRET_ARN: may the head's role read and write it?"
  write_identity "$address" <<< "$secret"
  write_environment head "$instance"
  echo "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S=$JOIN_SECONDS" >> "$ETC/ray.env"
  if [ "$AUTOSCALING" = true ]; then
    # Terraform uploads it after the launch template that it names, maybe after this head has started
    retry 40 15 fetch_config || stop "no s3://$BUCKET/bootstrap/cluster.yaml: was terraform apply interrupted?"
    autoscaling=(--autoscaling-config="$ETC/cluster.yaml")
  fi
  say "starting Ray's head at $address:$HEAD_PORT, dashboard at 127.0.0.1:$DASHBOARD_PORT"
  # the dashboard and the Jobs API speak HTTP without TLS: they listen to this machine alone, where tunnels end
  exec_ray_start --head --node-ip-address="$address" --port="$HEAD_PORT" --dashboard-host=127.0.0.1 \
    --dashboard-port="$DASHBOARD_PORT" "${autoscaling[@]}"
}

load_settings
case "${1:-}" in
  install) install_units ;;
  run) run ;;
  config) fetch_config ;;
  *) stop "head.sh knows install, run and config, not '${1:-}'" ;;
esac
