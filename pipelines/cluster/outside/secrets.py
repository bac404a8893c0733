"""Secrets of a job, which travel by name only: each node looks their values up where it runs.

    python -m pipelines.cluster.outside.secrets HF_TOKEN OTHER -- workflows.pretrain +experiment=demo

Enters: names. Leaves: environment variables of those names, in the driver and in every worker process. A value comes
from the first of: the node's environment; the file `$TRUNKLINE_SECRETS_DIR/<name>` (default /run/secrets); the AWS
secret `$TRUNKLINE_SECRETS_PREFIX<name>`, where a prefix is set. So no value is on a command line, in a job's metadata
or runtime environment, or in a log.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.display.progress import say
from pipelines.errors import ConfigError, TrunklineError

NAMES = "TRUNKLINE_SECRETS"  # the variable that tells a worker process which names to look up
HOOK = "pipelines.cluster.outside.secrets.load"


def check_names(names: Sequence[str]) -> None:
    """Raises: ConfigError for what is no name; it never repeats what may be a value."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            shown = re.split(r"\W", name)[0] or "…"
            raise ConfigError(
                f"secrets=[{shown}…] is no name of a secret; expected names alone, as of environment variables, e.g. "
                "secrets=[HF_TOKEN]: the value is looked up on the cluster, and must not be typed here"
            )


def find(name: str) -> str | None:
    """The value of a secret on this node, or None. Raises: ConfigError when the AWS secret is there and may not be
    read.
    """
    if value := os.environ.get(name):
        return value
    file = Path(os.environ.get("TRUNKLINE_SECRETS_DIR", "/run/secrets")) / name
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    prefix = os.environ.get("TRUNKLINE_SECRETS_PREFIX")
    if prefix:
        from pipelines.cluster.outside.aws import secret_value

        return secret_value(prefix + name)
    return None


def resolve(names: Sequence[str]) -> dict[str, str]:
    """The values of all names. Raises: ConfigError naming those that this node does not have, and where it looked."""
    values = {name: find(name) for name in names}
    if missing := [name for name, value in values.items() if not value]:
        prefix = os.environ.get("TRUNKLINE_SECRETS_PREFIX")
        example = missing[0]
        where = [
            "its environment",
            f"{os.environ.get('TRUNKLINE_SECRETS_DIR', '/run/secrets')}/{example}",
            f"the AWS secret {prefix}{example}"
            if prefix
            else "no AWS secret, since TRUNKLINE_SECRETS_PREFIX is not set",
        ]
        create = (
            f": aws secretsmanager create-secret --name {prefix}{example} --secret-string file:///dev/stdin"
            if prefix
            else ""
        )
        raise ConfigError(
            f"this node has no secret {', '.join(missing)}; looked at {', '.join(where)}: put it in one of them{create}"
        )
    return {name: value for name, value in values.items() if value}


def load() -> None:
    """What every worker process of the job calls first: its own node's values into its environment.

    A name without a value is left out, since a hook that fails would have Ray start the process again and again; the
    driver has refused such a job, and a node that lacks what the driver's has says so in its worker's log.
    """
    for name in filter(None, os.environ.get(NAMES, "").split(",")):
        try:
            os.environ.update(resolve([name]))
        except TrunklineError as error:
            say(f"   {error}")


def main(arguments: Sequence[str]) -> None:
    """Look the names up, then become the workflow."""
    split = list(arguments).index("--")
    names, command = arguments[:split], list(arguments[split + 1 :])
    try:
        os.environ.update(resolve(names))
    except TrunklineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    os.execv(sys.executable, [sys.executable, "-m", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
