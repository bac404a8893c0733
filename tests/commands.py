"""A workflow's command inside the process of the test: what it prints and how it ends, without the seconds that a new
Python takes.

For refusals, dry runs and whatever else starts nothing. Each workflow keeps a test that starts it as a user does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from dataclasses import dataclass

from workflows.command_line import places


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def output(self) -> str:
        return self.out + self.err


def run_here(workflow: str, *arguments: str) -> Ended:
    """`python -m workflows.<workflow> <arguments>`, in this process; environment and command line are as before
    afterwards.
    """
    main = importlib.import_module(f"workflows.{workflow}").main
    line, environment, code = sys.argv, dict(os.environ), 0
    sys.argv = [f"workflows/{workflow}.py", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            sys.argv = line
            os.environ.clear()
            os.environ.update(environment)
            places.use([])
    return Ended(code, out.getvalue(), err.getvalue())
