"""Passwords in URIs: a config is written into logs and artifacts, so none may be in it.

Enters: a URI, or a text for people with URIs in it. Leaves: whether it holds a secret; the text without them.
"""

from __future__ import annotations

import re
import urllib.parse

# names of options of a URI; these end so, those are so: `sslkey=/etc/client.pem` is a file's place and no secret
_SECRET_ENDS = (
    *("password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "secretkey"),
    *("credential", "credentials", "signature"),
)
_SECRET_NAMES = {"pass", "pwd", "key", "sig", "auth"}
# both take what follows up to a space or an @, also where the @ is missing: what begins later in it need not be tried;
# the first goes on to the last @, since a password may have one in it
_CREDENTIALS = re.compile(r"(?<=\w://)((?:[^\s@]*+@)*+)(\S*)")
# digits before a path are a port
_USER_AND_PASSWORD = re.compile(r"\w://[^/\s@:]*:(?!\d+[/?#])[^\s@]+(@)?")
_URI = re.compile(r"\w[\w+.-]*://\S+")
# and its port
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")


def holds_secret(uri: str) -> bool:
    """Whether a URI has a password, a token or a user's name in it: `http://me:pw@host`,
    `postgresql://host/db?password=pw`.

    A database's URI may name its user alone: that is no secret. Of a file's path nothing is looked at but its options.
    """
    if _secret_option(uri):
        return True
    scheme, separator, rest = uri.removeprefix("//").partition("://")
    if not separator:
        scheme, rest = "", uri.removeprefix("//")
    place = re.split("[?#]", rest, maxsplit=1)[0]
    if not place.startswith("/") and "@" in rest and "@" not in place and not _HOST.fullmatch(place.split("/")[0]):
        return True  # a password with a ? or # in it, as it is typed
    if place.startswith("/") or "@" not in place:  # a path: no host, so no user
        return False
    user = place.rpartition("@")[0]
    return ":" in urllib.parse.unquote(user) or scheme.lower() in ("http", "https")


def _secret_option(uri: str) -> bool:
    """Whether one of the options behind `?` or `#` is a secret by its name."""
    options = re.split("[?#]", uri, maxsplit=1)[1:]
    names = [
        re.sub("[^a-z]", "", urllib.parse.unquote(option.partition("=")[0]).lower())
        for option in re.split("[&;?#]", "".join(options))
        if "=" in option  # else it is a place in a page
    ]
    return any(name.endswith(_SECRET_ENDS) or name in _SECRET_NAMES for name in names)


def gives_password(text: str) -> bool:
    """Whether a text, of whatever use, has `user:password@` in a URI, or is a URI with a secret among its options."""
    if any(match[1] for match in _USER_AND_PASSWORD.finditer(text)):
        return True
    return _URI.fullmatch(text) is not None and _secret_option(text)


def without_secrets(text: str) -> str:
    """A text for people, with the users and passwords of URIs in it replaced by `***`."""
    return _CREDENTIALS.sub(lambda match: f"***@{match[2]}" if match[1] else match[0], text)
