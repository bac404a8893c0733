"""What `python workflows/pretrain.py` finds in the place of the real `pipelines`: a sentence, and exit code 2.

Python looks for a script's imports first in the script's own folder. There `tokenize` would be taken for the standard
library's, and the traceback that follows names nothing that anybody typed. Every command imports `pipelines` before
anything else of the project, so it ends here. Nothing else imports this module.
"""

import shlex
import sys
from pathlib import Path

if __name__ == "pipelines":
    _script = Path(getattr(sys.modules["__main__"], "__file__", None) or sys.argv[0]).absolute()
    _clone = Path(__file__).absolute().parent.parent
    _python, _there = "python", ""
    if (_clone / "constraints.txt").is_file():  # in a clone, not in an installed wheel
        if (_clone / ".venv" / "bin" / "python").exists() and sys.prefix != str(_clone / ".venv"):
            _python = ".venv/bin/python"
        if Path.cwd() != _clone:
            _there = f"cd {shlex.quote(str(_clone))} && "
    _words = " ".join([_script.stem, *(shlex.quote(word) for word in sys.argv[1:])])
    if '__name__ == "__main__"' not in _script.read_text(encoding="utf-8"):
        _advice = f"and is no command: `{_there}{_python} -m workflows` lists them"
    else:
        _advice = f"and cannot run by itself: `{_there}{_python} -m workflows.{_words}`"
    sys.stderr.write(f"error: workflows/{_script.name} is a file of a package {_advice}\n")
    raise SystemExit(2)
