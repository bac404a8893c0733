"""`trunkline`, also as `python -m workflows`: every command by its name.

trunkline                                    what there is
trunkline pretrain +experiment=demo          the same as python -m workflows.pretrain +experiment=demo
trunkline pretrain --help                    its keys, choices and experiments
trunkline --version
"""

from __future__ import annotations

import importlib
import sys

import pipelines
from pipelines.display.progress import reopen_closed_streams, reword, say
from pipelines.errors import TrunklineError
from workflows.command_line.commands import as_typed, check_known, listing, started_by_name


def main() -> None:
    """Lists the commands, or runs the one that is named first; `sys.argv` is then that command's own."""
    reopen_closed_streams()
    reword(as_typed)
    try:
        _run(sys.argv[1:])
    except TrunklineError as error:
        print(f"error: {as_typed(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(words: list[str]) -> None:
    typed = "trunkline" if started_by_name() else "python -m workflows"
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1:  # trunkline help pretrain
            return _run([words[1], "--help"])
        say(f"{pipelines.__doc__}\n\n{listing()}\n")
        say(f"{typed} COMMAND --help             its keys, choices and experiments")
        say(f"{typed} COMMAND … dry_run=true     the plan; nothing is started")
        say(f"{typed} recipe +experiment=smoke   to begin with: every stage, a megabyte of text, no download")
        return None
    if words[0] in ("-V", "--version", "version"):
        say(f"trunkline {pipelines.__version__} (Python {sys.version.split()[0]}, {pipelines.__path__[0]})")
        return None
    name = words[0].removeprefix("workflows.")
    check_known(name)
    sys.argv[1:] = words[1:]
    importlib.import_module(f"workflows.{name}").main()
    return None


if __name__ == "__main__":
    main()
