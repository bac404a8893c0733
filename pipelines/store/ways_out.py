"""Ways out of damage: what a message advises where an artifact is damaged, or set aside by a rebuild.

Enters: the folder of an artifact, and its claim or manifest. Leaves: a clause for an error message, with the command
that makes the artifact anew as it can be typed; where a rebuild keeps what it replaces.

A message names a whole command, in the store where the damage is: whoever reads it may have only a copy of that store.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from pipelines.errors import StorageError
from pipelines.store.sealed import PLAIN_MANIFEST, unsealed
from pipelines.store.storage import Storage


def aside_folder(folder: str) -> str:
    """Where a rebuild keeps what it replaces until it is committed."""
    return f".replaced/{folder}"


def set_aside_clause(storage: Storage, folder: str) -> str:
    """A clause that names what a rebuild of `folder` has set aside and not replaced yet; "" where there is nothing."""
    place = aside_folder(folder)
    if not storage.moves or not storage.keys(place):
        return ""
    finished = "finished " if storage.exists(f"{place}/manifest.json") else ""
    return (
        f"; the {finished}{folder} that its rebuild replaces is kept as {storage.uri}/{place}: to have it again, move "
        f"that folder to {storage.uri}/{folder}"
    )


def workflow_of(kind: str) -> str:
    """The workflow that makes artifacts of this kind."""
    return {"tokens": "tokenize"}.get(kind, kind)


def how_anew(folder: str, made: Mapping[str, Any], store: str, unfinished: bool = False) -> str:
    """Advice: the command that makes an artifact anew, in the store where it is damaged.

    Args: made, its claim or manifest; store, that store's URI: the one of the recorded command may be another, of which
        this is a copy.
    """
    typed = typed_again(folder, made, store)
    # the same command again would go on with a rebuild; and a recipe's would make every stage anew, where only its
    # report is damaged
    if folder.startswith("recipe/") or (unfinished and "rebuild" in made):
        return f"delete {store}/{folder} and make it anew: {typed}"
    choices = "" if "command" in made else ", with the choices that it was made with (`config` in its manifest.json)"
    return f"make it anew: {typed} on_change=rebuild{choices}"


def way_out(storage: Storage, folder: str, file: str) -> str:
    """Advice for a damaged claim or manifest: checkpoints have manifests of their own, and need not go with that of
    their run.
    """
    made = claim_or_manifest(storage, folder)
    if made and file == "manifest.json" and storage.keys(f"{folder}/checkpoints"):
        again = typed_again(folder, made, storage.uri)
        return f"its checkpoints do not depend on it: delete this file, and it is written anew by {again}"
    return how_anew(folder, made, storage.uri)


def typed_again(folder: str, made: Mapping[str, Any], store: str) -> str:
    """The command that made an artifact. Args: as of `how_anew`."""
    kind, name = folder.split("/")
    return _with_store(made.get("command") or f"python -m workflows.{workflow_of(kind)} name={name}", store)


def claim_or_manifest(storage: Storage, folder: str) -> dict[str, Any]:
    """The manifest of an artifact, or its claim, whichever is whole and names its command; nothing where neither
    does.
    """
    for file in ("manifest.json", "claim.json"):
        try:
            document = unsealed(storage.find(f"{folder}/{file}") or b"{}", PLAIN_MANIFEST)
        except (ValueError, StorageError):
            continue
        if document:
            return document
    return {}


def _with_store(typed: str, store: str) -> str:
    """A command for another store than the one that it was typed for."""
    words = shlex.split(typed)
    others = [word for word in words if not word.lstrip("+").startswith("store=")]
    if f"store={store}" in words:
        return typed
    plain = re.fullmatch(r"[\w./:@%~-]+", store)
    escaped = store.replace("\\", "\\\\").replace("'", "\\'")
    return shlex.join([*others, f"store={store}" if plain else f"store='{escaped}'"])
