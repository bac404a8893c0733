"""Whether this Python can run Trunkline at all: said in a sentence before the first import that would fail.

Enters: nothing but the interpreter that runs. Leaves: nothing, or exit code 2. It is read by whatever Python was typed,
so it uses nothing that Python 3.8 lacks.
"""

import importlib.util
import re
import sys
from pathlib import Path

_HERE = Path(__file__).absolute().parents[1]
_PYTHONS = ((3, 11), (3, 12))
# what every command needs sooner or later, by the names under which it is imported
_NEEDED = (
    "torch", "numpy", "hydra", "omegaconf", "yaml", "ray", "deepspeed", "mlflow", "transformers", "tokenizers",
    "safetensors", "pyarrow", "scipy", "numba", "matplotlib", "datatrove", "fsspec", "warcio", "xxhash",
)  # fmt: skip


def is_command() -> bool:
    """Whether this process was started as `python -m workflows.…` or `trunkline`, rather than to import something."""
    return module_started() != "" or Path(sys.argv[0] if sys.argv else "").name == "trunkline"


def module_started() -> str:
    """`workflows.pretrain` while `python -m workflows.pretrain` looks for it; later, and otherwise, nothing."""
    if sys.argv[:1] != ["-m"]:
        return ""
    words = list(getattr(sys, "orig_argv", ["", "-m", "?"]))
    for at, word in enumerate(words):
        option = re.fullmatch(r"-[a-zA-Z]*?m(.*)", word)
        if option:
            return option.group(1) or (words[at + 1] if at + 1 < len(words) else "")
    return "?"


def check() -> None:
    """Ends the process with code 2 where this Python is another, or packages are missing."""
    complaint = lacking()
    if complaint:
        sys.stderr.write("error: " + complaint + "\n")
        raise SystemExit(2)


def lacking() -> str:
    """What is wrong with this Python, and what to do; nothing where it will do."""
    this = "{} (Python {}.{}.{})".format(sys.executable or "this Python", *sys.version_info[:3])
    if tuple(sys.version_info[:2]) not in _PYTHONS:
        return "Trunkline needs Python 3.11 or 3.12, and " + this + " is another: " + _way_out(True)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return this + " lacks packages that Trunkline needs (" + named + "): " + _way_out(False)


def _way_out(of_version: bool) -> str:
    """What to type. In a clone: its environment, made first where it is not there."""
    clone = _HERE.parent
    if not (clone / "constraints.txt").is_file():  # an installed wheel
        if of_version:
            return "make an environment with one of those, and `pip install trunkline` there"
        return "`" + (sys.executable or "python") + " -m pip install trunkline` brings them"
    python = clone / ".venv" / "bin" / "python"
    if sys.prefix == str(clone / ".venv"):
        return "`make setup` in " + str(clone) + " brings them"
    typed = python if Path.cwd() != clone else Path(".venv/bin/python")
    module = module_started() if module_started() not in ("", "?") else "workflows"
    if python.exists() and (clone / ".venv" / ".ready").exists():
        return f"use the environment of this clone: `{typed} -m {module} …`"
    return f"`make setup` in {clone} makes an environment; then `{typed} -m {module} …`"
