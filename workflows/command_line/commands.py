"""The commands there are, in the order of the flow, and how one is typed.

Enters: the YAMLs of conf/, one for each command, and the first line of each module, read as text: torch would take
seconds. Leaves: the list that `trunkline` prints, and commands in the words in which this one was started: whoever
typed `trunkline pretrain` is told of `trunkline anneal`, others of `python -m workflows.anneal`. What is recorded with
an artifact is always the latter.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
from pathlib import Path

from pipelines.errors import ConfigError
from workflows.command_line.places import SHIPPED, workflows

_HERE = Path(__file__).absolute().parents[1]
# a command that stands in none of them is listed at the end
STAGES = {
    "All in turn": ("recipe",),
    "Data": ("corpus", "tokenize", "mixture"),
    "Training": ("pretrain", "anneal", "average", "sft", "dpo"),
    "Results": ("evaluate", "ui", "checkpoints", "verify_resume", "cost"),
    "Delivery": ("quantize", "export", "chat", "publish"),
    "Planning": ("plan", "sandbox", "fit"),
    "Cluster": ("submit", "cluster_check"),
}
# commands that compose no config
TOOLS = {
    "new": "A folder for configs of your own, with comments to begin with: trunkline new lab",
    "completion": 'What the shell completes with the TAB key: eval "$(trunkline completion bash)", or zsh, or fish',
}
_OTHERS = "Others"
_INSTALLED = {
    "llama": "pip install 'trunkline[llama]'",
    "sandbox-demo": "trunkline recipe +experiment=wind_tunnel && trunkline sandbox +experiment=wind_tunnel",
    "ui": "trunkline ui",
}


def staged() -> dict[str, list[str]]:
    """Stage -> its commands."""
    there = workflows()
    listed = {stage: [name for name in names if name in there] for stage, names in STAGES.items()}
    others = [name for name in there if name not in {known for names in STAGES.values() for known in names}]
    return {**listed, **({_OTHERS: others} if others else {})}


def words_of(workflow: str) -> str:
    """What a command says of itself: the docstring of its module, read without importing it."""
    return ast.get_docstring(ast.parse((_HERE / f"{workflow}.py").read_bytes())) or ""


def listing() -> str:
    """Every command in a line, by stage."""
    rows = {name: summary(name) for name in [*(name for names in staged().values() for name in names), *TOOLS]}
    wide = max(map(len, rows))
    blocks = [*staged().items(), ("Yours", list(TOOLS))]
    return "\n\n".join(
        "\n".join([stage, *(f"  {name:<{wide}}  {rows[name]}" for name in names)]) for stage, names in blocks
    )


def summary(command: str) -> str:
    """The same in a line."""
    if command in TOOLS:
        return TOOLS[command]
    with (_HERE / f"{command}.py").open(encoding="utf-8") as file:
        return file.readline().strip().removeprefix('"""').removesuffix('"""')


def check_known(name: str) -> None:
    """Raises: ConfigError for what is no command, with those that are near."""
    known = [*(name for names in staged().values() for name in names), *TOOLS]
    if name in known:
        return
    close = difflib.get_close_matches(name.removeprefix("workflows.").replace("-", "_"), known, n=1)
    if name.startswith("--") and (option := difflib.get_close_matches(name, ["--help", "--version"], n=1)):
        raise ConfigError(f"{name}: did you mean {option[0]}?")
    if "=" in name or name.startswith(("+", "~", "-")):
        raise ConfigError(f"{name}: expected a command first, e.g. {program('pretrain')} {name}; {_there(known)}")
    raise ConfigError(f"{name} is no command; {_there(known)}" + (f": did you mean {close[0]}?" if close else ""))


def _there(known: list[str]) -> str:
    return f"there are {', '.join(known)}"


# ── How a command is typed ────────────────────────────────────────────────────────────────────────────────────────────


def started_by_name() -> bool:
    """Whether this process was started as `trunkline`."""
    return Path(sys.argv[0]).name == "trunkline"


def program(workflow: str) -> str:
    """`trunkline pretrain` or `python -m workflows.pretrain`, as this process was started."""
    return as_typed(f"python -m workflows.{workflow}")


def as_typed(text: str) -> str:
    """A text with its commands in the words in which this process was started. What runs on a cluster stays."""
    if not started_by_name():
        return text
    return re.sub(r"(?<!-- )\bpython -m workflows\.(\w+)", r"trunkline \1", text)


def make(target: str) -> str:
    """What does the work of a target of the Makefile: `make llama`; the like of it where a wheel is installed."""
    return f"make {target}" if SHIPPED.parent != _HERE else _INSTALLED[target]
