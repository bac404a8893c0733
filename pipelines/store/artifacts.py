"""Artifacts: what one workflow leaves for the next, committed by a manifest written last.

An artifact is the folder `<store>/<kind>/<name>/`. Its life:

    begin    `claim.json` records the fingerprint before any work: only the same config resumes an unfinished run
    publish  each finished piece (a shard, a source) gets a receipt naming its files, sizes and checksums
    commit   `manifest.json` is written; from here on the artifact exists

The fingerprint covers the config that changes the result, the inputs' fingerprints and the code that makes it. The same
name with another fingerprint is refused with a diff: nothing stale is served silently and no name is re-addressed.

Enters: a store's URI, and `kind/name`. Leaves: the finished artifact (`artifact.py`), or a draft to work on
(`draft.py`). Claims and manifests are compared with their own checksums (`sealed.py`).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pipelines.errors import ArtifactError, ConfigError
from pipelines.store import missing
from pipelines.store.artifact import Artifact
from pipelines.store.draft import Draft, Making
from pipelines.store.opening import open_storage
from pipelines.store.references import Reference
from pipelines.store.sealed import PLAIN_CLAIM, PLAIN_MANIFEST, unsealed
from pipelines.store.ways_out import (
    aside_folder,
    claim_or_manifest,
    set_aside_clause,
    typed_again,
    way_out,
    workflow_of,
)

OnChange = Literal["refuse", "rebuild", "keep"]


class ArtifactStore:
    """Every artifact under one store URI."""

    def __init__(self, uri: str):
        self.storage = open_storage(uri)
        self.uri = self.storage.uri  # absolute: workers start in other folders
        # by `kind/name`: the command that would make it, in words. A session knows of experiments besides
        self.how_made: Callable[[str], str] = made_by

    def find(self, folder: str) -> Artifact | None:
        """The committed artifact `kind/name`, or None. Raises: ArtifactError for a damaged manifest, or that of another
        artifact.
        """
        text = self.storage.find(f"{folder}/manifest.json")
        return None if text is None else Artifact(self.storage, folder, self._opened(folder, "manifest.json", text))

    def get(self, reference: str) -> Artifact:
        """The committed artifact named by `reference`.

        Raises: ArtifactError when it is missing or unfinished, naming what is there and the command that makes it.
        """
        parsed = Reference.parse(reference)
        if (artifact := self.find(parsed.folder)) is not None:
            return artifact
        claimed = self.storage.exists(f"{parsed.folder}/claim.json")
        state = "has begun but is not finished" if claimed else "does not exist"
        lies = missing.elsewhere(self.storage, parsed.folder)
        raise ArtifactError(
            f"{parsed.folder} {state} in {missing.where(self.storage)}; there is "
            f"{missing.there(self.storage, parsed.kind, parsed.name)}{lies}: "
            f"{'or ' if lies else ''}{self._way(parsed.folder, claimed)}"
            + set_aside_clause(self.storage, parsed.folder)
        )

    def _way(self, folder: str, claimed: bool) -> str:
        """The command that makes an artifact which is not there: that of its claim, or what the session knows of."""
        claim = claim_or_manifest(self.storage, folder) if claimed else {}
        if "command" in claim:
            return f"the command that began it goes on with it: {typed_again(folder, claim, self.uri)}"
        return f"make it with {self.how_made(folder)}"

    def get_kind(self, key: str, kind: str, reference: str) -> Artifact:
        """`get` for a config key that takes artifacts of one kind. Raises: ConfigError for another kind, besides."""
        named = Reference.parse(reference).kind
        if named != kind:
            raise ConfigError(f"{key}={reference} is of kind {named}; expected {kind}/<name>")
        return self.get(reference)

    def begin(
        self,
        kind: str,
        name: str,
        config: Any,
        inputs: Iterable[Artifact] = (),
        code: Iterable[str] = (),
        on_change: OnChange = "refuse",
        made_with: str | None = None,
    ) -> Artifact | Draft:
        """Claim `kind/name` for this config, or return the finished artifact that it already is.

        Args:
            kind: kind of artifact, the first part of its folder.
            name: the user's name for it.
            config: `identity()` of the config, i.e. what changes the result.
            inputs, code, made_with: as `Making` says.
            on_change: when the name is taken by another fingerprint: "refuse", or "keep", which goes on with what is
                there and records that it did. "rebuild" replaces what is there, whatever its fingerprint, and starts
                over; one that was interrupted goes on.

        Raises: ArtifactError when the name is taken by another fingerprint, with a diff of what changed.
        """
        draft = self.prepare(kind, name, Making(config, tuple(inputs), tuple(code), made_with), on_change)
        if isinstance(draft, Draft):
            draft.start()
        return draft

    def prepare(self, kind: str, name: str, making: Making, on_change: OnChange = "refuse") -> Artifact | Draft:
        """`begin`, which leaves everything as it is until `Draft.start`; the caller calls that just before the work."""
        folder = Reference.parse(f"{kind}/{name}").folder
        return self._rebuilt(folder, making) if on_change == "rebuild" else self._continued(folder, making, on_change)

    def restore(self, folder: str, refused: bool = False) -> bool:
        """Put back what a rebuild set aside; whether that was done.

        It is not where the rebuild can go on from something: a checkpoint, or any piece that it has published.
        Args: refused, the rebuild ended with an error that the same command would meet again: pieces then do not count.
        """
        place = aside_folder(folder)
        if not self.storage.moves or not self.storage.keys(place):
            return False
        keys = self.storage.keys(folder)
        if any(key.endswith("/manifest.json") or ("/receipts/" in key and not refused) for key in keys):
            return False
        self.storage.delete(folder)
        return self.storage.move(place, folder)

    def _rebuilt(self, folder: str, making: Making) -> Draft:
        """A draft that replaces what is there; one that goes on, where this very rebuild was interrupted."""
        claim = {**making.claim(), "rebuild": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        if not self.storage.exists(f"{folder}/manifest.json"):
            try:
                begun = self.find_claim(folder)
            except ArtifactError:  # damaged: it goes with the rest
                return Draft(self.storage, folder, claim, replaces=True)
            same = begun is not None and all(begun.get(fact) == claim[fact] for fact in ("fingerprint", "read"))
            if begun is not None and same and "rebuild" in begun and "deleting" not in begun:
                return Draft(self.storage, folder, begun)
        return Draft(self.storage, folder, claim, replaces=bool(self.storage.keys(folder)))

    def _continued(self, folder: str, making: Making, on_change: OnChange) -> Artifact | Draft:
        """What is there under this name, or a new draft. Raises: ArtifactError when it is another's."""
        claim, finished = making.claim(), self.find(folder)
        recorded = finished.manifest if finished is not None else self.find_claim(folder)
        if recorded is None:
            return Draft(self.storage, folder, claim)
        if finished is None and "deleting" in recorded:  # somebody's rebuild ended amid its deletion
            return Draft(self.storage, folder, claim, replaces=True)
        # a fingerprint that differs while nothing else does was written by a version that listed other defaults
        if changes := making.changes(folder, recorded, claim):
            if on_change != "keep":
                raise ArtifactError(
                    f"{folder} in {self.storage.uri} was made by another configuration. What changed:\n  "
                    + "\n  ".join(_few(changes))
                    + "\nUse another name (name=...), or on_change=rebuild to replace it and start over, or "
                    "on_change=keep to go on with what is there" + (set_aside_clause(self.storage, folder) or ".")
                )
            recorded = {**recorded, "kept_despite": [*recorded.get("kept_despite", []), *changes]}
        return finished or Draft(self.storage, folder, recorded)

    def find_claim(self, folder: str) -> dict[str, Any] | None:
        """The claim of an artifact that has begun (its fingerprint and identity), or None.

        Raises: ArtifactError for a damaged claim, or that of another artifact.
        """
        text = self.storage.find(f"{folder}/claim.json")
        if text is None:
            return None
        claim = self._opened(folder, "claim.json", text)
        return {key: value for key, value in claim.items() if key not in ("kind", "name")}

    def claim(self, folder: str) -> dict[str, Any]:
        """`find_claim` of one that is known to be there."""
        claim = self.find_claim(folder)
        if claim is None:
            raise ArtifactError(f"{folder} has not begun in {self.storage.uri}")
        return claim

    def reopen(self, finished: Artifact) -> Draft:
        """A draft over a committed artifact, so that a trunk goes on where it stopped.

        The manifest stays as it is until the next commit replaces it: whatever happens before, the artifact is
        finished.
        """
        return Draft(self.storage, finished.folder, self.claim(finished.folder))

    def _opened(self, folder: str, file: str, text: bytes) -> dict[str, Any]:
        """A claim or manifest that is whole and lies where it was written."""
        place = f"{self.storage.uri}/{folder}/{file}"
        try:
            document = unsealed(text, PLAIN_MANIFEST if file == "manifest.json" else PLAIN_CLAIM)
        except ValueError as error:
            raise ArtifactError(
                f"{place} {error}: it was changed or damaged after it was written; "
                f"{way_out(self.storage, folder, file)}"
            ) from error
        own = f"{document['kind']}/{document['name']}" if "kind" in document else folder
        if own != folder:
            raise ArtifactError(
                f"{place} is that of {own}: its folder was copied or renamed; expected {folder}: move the folder back "
                f"to {own}, or delete it and make {folder} by its own command"
            )
        return document


def made_by(folder: str) -> str:
    """The workflow that makes `kind/name`, as far as that tells."""
    kind, _, name = folder.partition("/")
    return f"`python -m workflows.{workflow_of(kind)} name={name}` and the choices it needs"


def _few(changes: list[str], limit: int = 6) -> list[str]:
    """The lines of a difference, config first; those of the code as one where another version has moved its modules."""
    modules = [line.split(": ")[0].removeprefix("code.") for line in changes if line.startswith("code.")]
    if len(modules) <= limit:
        return changes
    others = [line for line in changes if not line.startswith("code.")]
    return [*others, f"code: {len(modules)} modules differ: {', '.join(modules[:3])} and {len(modules) - 3} more"]
