#!/bin/bash
# The MLflow server of a Trunkline cluster: a systemd unit on the head that listens on its private address, port 5000.
#
#   mlflow_server.sh install    once, by head.sh: the units
#   mlflow_server.sh run        at every start, by systemd: becomes the server
#   mlflow_server.sh password   every five minutes: the database's password, which RDS changes every week
#
# Its lines in /etc/trunkline/node.env: MLFLOW_ARTIFACTS_URI (s3://bucket/prefix), MLFLOW_DATABASE_HOST and
# MLFLOW_DATABASE_SECRET_ARN (both empty: SQLite on this disk). The server proxies artifacts, so clients need no key for them.
#
# The password stands in no address, environment or process list: PostgreSQL's library reads it from a password file whenever
# it connects, so a new password needs no restart.
set -euo pipefail
# shellcheck source=infra/terraform/modules/ray/templates/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/node.sh"

DATA="$ROOT/var/lib/trunkline/mlflow"
SERVER_ENVIRONMENT="$DATA/server.env"

install_units() {
  write_unit trunkline-mlflow.service << UNIT
[Unit]
Description=Trunkline: MLflow
After=network-online.target docker.service trunkline-ray.service
Wants=network-online.target

[Service]
ExecStart=/bin/bash $BOOTSTRAP/mlflow_server.sh run
Restart=always
RestartSec=10
RestartPreventExitStatus=78

[Install]
WantedBy=multi-user.target
UNIT
  write_unit trunkline-mlflow-password.service << UNIT
[Unit]
Description=Trunkline: the password of MLflow's database

[Service]
Type=oneshot
ExecStart=/bin/bash $BOOTSTRAP/mlflow_server.sh password
UNIT
  write_unit trunkline-mlflow-password.timer << UNIT
[Unit]
Description=Trunkline: follows the password of MLflow's database

[Timer]
OnActiveSec=300
OnUnitActiveSec=300

[Install]
WantedBy=timers.target
UNIT
  systemctl daemon-reload
  systemctl enable --now trunkline-mlflow.service
  [ -z "$MLFLOW_DATABASE_HOST" ] || systemctl enable --now trunkline-mlflow-password.timer
}

database_secret() {
  aws secretsmanager get-secret-value --secret-id "$MLFLOW_DATABASE_SECRET_ARN" --query SecretString --output text
}

# The password file, from the database's secret on standard input: host:port:database:user:password, with the two characters
# escaped that the format gives a meaning.
write_password() {
  local secret user password
  secret=$(cat)
  if ! { user=$(field username <<< "$secret") && password=$(field password <<< "$secret"); } || [[ "$user$password" == *$'\n'* ]]; then
    stop "the secret $MLFLOW_DATABASE_SECRET_ARN holds no username and password, each on one line, as RDS writes them"
  fi
  password=${password//\\/\\\\}
  (umask 0077 && printf '*:*:*:%s:%s\n' "$user" "${password//:/\\:}" > "$DATA/pgpass.new")
  chown "$RUN_AS:" "$DATA/pgpass.new"
  echo "$user" > "$DATA/database-user"
  mv "$DATA/pgpass.new" "$DATA/pgpass"
}

run() {
  local address backend command secret
  address=$(own local-ipv4) || stop "the instance metadata service does not answer at $METADATA"
  install -d -m 0750 -o "$RUN_AS" "$DATA"
  # Ray's unit installs the packages; this one waits for them
  retry 360 10 packages_ready || stop "no packages after an hour: journalctl -u trunkline-ray says why"
  if [ -n "$MLFLOW_DATABASE_HOST" ]; then
    secret=$(retry 40 15 database_secret) ||
      stop "cannot read the secret $MLFLOW_DATABASE_SECRET_ARN, where RDS keeps the database's password"
    write_password <<< "$secret"
    backend="postgresql+psycopg2://$(cat "$DATA/database-user")@$MLFLOW_DATABASE_HOST/mlflow?sslmode=${MLFLOW_DATABASE_SSLMODE:-require}"
  else
    backend="sqlite:///$DATA/mlflow.db"
  fi
  cat > "$SERVER_ENVIRONMENT" << ENVIRONMENT
MLFLOW_BACKEND_STORE_URI=$backend
MLFLOW_DISABLE_TELEMETRY=true
PGPASSFILE=$DATA/pgpass
AWS_DEFAULT_REGION=$REGION
GIT_PYTHON_REFRESH=quiet
ENVIRONMENT
  say "starting MLflow at http://$address:$MLFLOW_PORT"
  # one process: uvicorn's supervisor of several kills those that are silent for five seconds, as on a busy head they are
  command=(mlflow server --host "$address" --port "$MLFLOW_PORT" --workers 1 --serve-artifacts --artifacts-destination "$MLFLOW_ARTIFACTS_URI")
  if [ -n "$IMAGE" ]; then
    docker rm -f trunkline-mlflow > /dev/null 2>&1 || true
    exec docker run --name trunkline-mlflow --rm --init --network host --env-file "$SERVER_ENVIRONMENT" --volume "$DATA:$DATA" "$IMAGE" "${command[@]}"
  fi
  set -a
  # shellcheck source=/dev/null
  . "$SERVER_ENVIRONMENT"
  set +a
  exec_as_account "${command[@]}"
}

load_settings
: "${MLFLOW_DATABASE_HOST:=}" "${MLFLOW_DATABASE_SECRET_ARN:=}" "${MLFLOW_PORT:=5000}"
[ -n "${MLFLOW_ARTIFACTS_URI:-}" ] || stop "$ETC/node.env lacks MLFLOW_ARTIFACTS_URI, where artifacts go (s3://bucket/prefix)"
case "${1:-}" in
  install) install_units ;;
  run) run ;;
  password)
    new=$(database_secret)
    write_password <<< "$new"
    ;;
  *) stop "mlflow_server.sh knows install, run and password, not '${1:-}'" ;;
esac
