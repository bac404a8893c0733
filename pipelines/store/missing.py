"""What is said of an artifact that is not there: where it was looked for and why there, what lies there, what to do.

Enters: a storage and `kind/name`. Leaves: the clauses of an error message. A store that lies nearby is looked at too:
the usual reason is a command typed in another folder than the last one.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from pipelines.store.storage import FolderStorage, Storage

VARIABLE = "TRUNKLINE_STORE"
DEFAULT = "store"
_SHOWN = 12  # names of what is there
_LEVELS = 4  # folders above, in which a store is looked for


def where(storage: Storage) -> str:
    """The store, and what made this command look there: its key, the environment, or the folder it was typed in."""
    named = os.environ.get(VARIABLE)
    if named and _uri(named) == storage.uri:
        why = f"which {VARIABLE} names"
    elif storage.uri == _uri(DEFAULT):
        why = f"the folder `{DEFAULT}` of this one, where neither store= nor {VARIABLE} names another"
    else:
        why = "which store= names"
    gone = isinstance(storage, FolderStorage) and not storage.root.is_dir()
    return f"{storage.uri} ({why}{'; there is no such folder' if gone else ''})"


def there(storage: Storage, kind: str, name: str) -> str:
    """What of the kind the store holds, the nearest names first, and what has this name among other kinds."""
    state = states(storage, kind)
    finished = [one for one, is_finished in state.items() if is_finished]
    near = difflib.get_close_matches(name, finished, n=3)
    ordered = [*near, *(one for one in finished if one not in near)]
    listed = ", ".join(ordered[:_SHOWN]) + (f", and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
    said = f"{kind}/{{{listed}}}" if finished else f"no finished {kind}"
    begun = [one for one, is_finished in state.items() if not is_finished and one != name]
    if begun and not finished:
        said += f", {kind}/{{{', '.join(begun[:_SHOWN])}}} {'has' if len(begun) == 1 else 'have'} begun"
    others = [
        f"{other}/{name}"
        for other in storage.folders("")
        if other != kind and other[:1] != "." and storage.exists(f"{other}/{name}/manifest.json")
    ]
    return said + (f"; of that name there is {' and '.join(others)}" if 0 < len(others) <= 2 and not near else "")


def states(storage: Storage, kind: str) -> dict[str, bool]:
    """Name -> whether it is finished, of what has begun."""
    names = storage.folders(kind)
    has = {name: storage.exists(f"{kind}/{name}/manifest.json") for name in names}
    return {name: has[name] for name in names if has[name] or storage.exists(f"{kind}/{name}/claim.json")}


def elsewhere(storage: Storage, folder: str) -> str:
    """A clause that names a store nearby which holds the artifact; "" where there is none."""
    if not isinstance(storage, FolderStorage):
        return ""
    here = Path.cwd()
    above = [*here.parents][:_LEVELS]
    places = [
        here / DEFAULT,
        *(one / DEFAULT for one in above),
        *sorted(here.glob(f"*/{DEFAULT}")),
        storage.root.parent,  # a kind's folder was named
        storage.root / DEFAULT,  # the folder that holds the store was named
        *([Path(named).expanduser()] if (named := os.environ.get(VARIABLE)) and "://" not in named else []),
    ]
    found = next((place for place in places if (place / folder / "manifest.json").is_file()), None)
    if found is None or str(found.resolve()) == storage.uri:
        return ""
    return f"; {found.resolve()} has it: write store={found.resolve()}, or set {VARIABLE} to it"


def _uri(store: str) -> str:
    return store if "://" in store else FolderStorage(store).uri
