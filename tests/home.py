"""A home folder for the length of a test run: nothing that a test or a library in it keeps lands in the user's.

What programs only read of the real home (the registries that pip and npm are set to, git's settings, pyenv) stays
reachable.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parent.parent
# a variable that names a file or folder of the home, and where it lies when the variable is not set
_READ = {
    "GIT_CONFIG_GLOBAL": (".gitconfig",),
    "NPM_CONFIG_USERCONFIG": (".npmrc",),
    "PIP_CONFIG_FILE": (".config/pip/pip.conf", ".pip/pip.conf"),
    "PYENV_ROOT": (".pyenv",),
    "TF_CLI_CONFIG_FILE": (".terraformrc",),
}
_GONE = ("HF_HOME", "TRUNKLINE_STORE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


def move_in() -> Callable[[], None]:
    """Point HOME, and what else names a place in it, at a fresh folder. Returns: the way back, which removes the
    folder.
    """
    before, real = dict(os.environ), Path.home()
    home = Path(tempfile.mkdtemp(prefix="trunkline-home-"))
    for variable, places in _READ.items():
        found = [real / place for place in places if (real / place).exists()]
        if variable not in os.environ and found:
            os.environ[variable] = str(found[0])
    for variable in _GONE:
        os.environ.pop(variable, None)
    os.environ["HOME"] = str(home)
    os.environ["TRUNKLINE_CACHE"] = str(home / ".cache" / "trunkline")
    # what Numba compiles, fifteen seconds of it: kept between runs where `make clean` finds it
    kernels = PROJECT / ".pytest_cache" / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (home / ".cache" / "trunkline").mkdir(parents=True)
    (home / ".cache" / "trunkline" / "kernels").symlink_to(kernels)
    # each of some hundred processes would compile the project's modules anew: a third of a second
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # three lanes with torch's threads have more of these than cores: one that waits should not spin
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # 74 MB from the package index, kept between runs where `make clean` finds it
    os.environ.setdefault("TRUNKLINE_TERRAFORM_CACHE", str(PROJECT / ".pytest_cache" / "terraform"))
    # Ray makes a token where there is none; two lanes at once would make two, and each refuse the other's
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)

    def move_out() -> None:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)

    return move_out
