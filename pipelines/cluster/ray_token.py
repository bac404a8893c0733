"""Where Ray's token lies, and that nobody else on this machine can read it: whoever has it runs code as the owner of
that Ray.

Ray 2.60 itself writes ~/.ray/auth_token with whatever rights the shell's umask leaves, which is "for all to read" on
most machines.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from pipelines.display.progress import say


def token_file() -> Path:
    """The file in which Ray looks last, and writes a token that it has made."""
    return Path.home() / ".ray" / "auth_token"


def token_source() -> str | None:
    """Where the token comes from that Ray would send, in Ray's own order; None when there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH={path}" if Path(path).is_file() else None
    return "~/.ray/auth_token" if token_file().is_file() else None


def read_by_others() -> Path | None:
    """The file that Ray's token comes from, where accounts other than its owner's may read it; else None."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or token_file())
    return path if path.is_file() and path.stat().st_mode & stat.S_IROTH else None


def ensure_private_token() -> None:
    """Before a private Ray starts: a token for it where there is none, and the file for its owner alone.

    Ray reads the same file afterwards, and makes none of its own. A file that others could read is closed, with a word
    about it.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if token_source() is None and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        path = token_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # written beside and linked into place whole: two commands that start at once must end with one token
        new = path.with_name(f"auth_token.{os.getpid()}")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(new, path)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    own = token_file()
    if own.is_file() and own.stat().st_uid == os.geteuid() and own.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        own.chmod(0o600)
        say(f"   {own} could be read by other accounts of this machine: it is now yours alone (mode 600)")
