"""An exported model where others take it from: the Hub, a bucket, a folder. Its files, its card, its licences.

    python -m workflows.publish parent=export/demo to=hf://org/demo dry_run=true    the card, and what would be sent
    python -m workflows.publish parent=export/demo to=hf://org/demo private=false
    python -m workflows.publish parent=quantize/demo to=s3://bucket/models/demo

Runs in this process, without Ray. Leaves `publish/<name>`, a record of what was sent, where to and when.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipelines.config import WorkflowConfig, config_class, runtime
from pipelines.display.progress import human, say, table
from pipelines.errors import ArtifactError, ConfigError, TrunklineError
from pipelines.identity import decisive
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.checkpoint.lineage import lineage
from pipelines.train.formats import FORMATS
from pipelines.train.formats.contract import Check
from pipelines.train.formats.parents import open_source
from pipelines.train.results.model_card import (
    find_evaluation,
    licence_note,
    licences_of,
    model_card,
    quantization_of,
    unclear_among,
)
from pipelines.train.results.publication import (
    CARD,
    LICENCE,
    Destination,
    Outgoing,
    Plan,
    Shipment,
    deliver,
    open_destination,
    plan_delivery,
    shipment,
)
from pipelines.train.results.sample_question import asking, sample_question
from pipelines.train.stages import TRAINED
from workflows.entry import entry
from workflows.running.session import Session

# the modules that decide what is sent
CODE = ("pipelines.train.results.publication", "pipelines.train.results.model_card")
_KINDS = {"export": "", "quantize": "model/"}  # kind of what is published -> folder of its files in the artifact


_QUANTIZED_FORMAT = "compressed-tensors"


@config_class
class PublishConfig(WorkflowConfig):
    """What is published, and where."""

    parent: str  # e.g. export/demo, quantize/demo
    to: str  # hf://org/name, s3://bucket/prefix, or a folder
    private: bool = True  # of a repository on the Hub
    replace: bool = runtime(False)  # another model that lies there may be replaced
    unclear_licences: Literal["refuse", "allow"] = runtime("refuse")

    def __post_init__(self) -> None:
        """Settle a name that is `auto`: of the model and the place, so that two places are two publications."""
        if self.name == "auto":
            place = self.to.replace("://", " ") if "://" in self.to else self.to.rstrip("/").rpartition("/")[2]
            words = re.findall(r"[\w.]+", f"{self.parent} {place}")
            object.__setattr__(self, "name", "-".join(word for word in words if word.strip(".")))
        super().__post_init__()


def run(config: PublishConfig, session: Session) -> Artifact:
    """Make `publish/<name>`, or find it finished: then what was sent must still lie there."""
    destination = open_destination(config.to, config.private)
    artifact = published(session.store, session.resolve(config.parent))
    refuse_within(session.store, destination)
    wanted = shipment_of(session.store, artifact)
    licences = all_licences(session.store, artifact)

    # ── what is in the way ──
    refusals = [] if config.unclear_licences == "allow" else licence_refusals(artifact, licences)
    plan: Plan | None = None
    if not refusals or config.dry_run:
        try:
            plan = plan_delivery(wanted, destination)
        except TrunklineError as error:
            if not config.dry_run:
                raise
            refusals.append(str(error))
    if plan is not None and not config.replace and (refusal := plan.refusal(destination.uri)):
        refusals.append(refusal)

    # ── announce ──
    announcement = announced(artifact, wanted, destination, plan, licences)
    if config.dry_run:
        show(wanted, plan)
        announcement.update({"refused" if not n else f"refused ({n + 1})": text for n, text in enumerate(refusals)})
    elif refusals:
        raise ArtifactError("; ".join(refusals))
    decided = {"parent": artifact.folder, "to": destination.uri, "private": config.private, "files": wanted.fingerprint}
    draft = session.begin("publish", config, announcement, [artifact], CODE, identity=decided)
    assert plan is not None
    if isinstance(draft, Artifact):
        still_there(draft, plan, destination)
        return draft

    # ── compare, send, record ──
    artifact.compare()
    with session.track(draft, config, [artifact]) as tracker:
        version = deliver(plan, destination)
        arrived = plan_delivery(wanted, destination)
        if not arrived.finished:
            raise ArtifactError(
                f"{destination.uri} does not hold what was sent to it ({missing(arrived)}): somebody else changes it; "
                "run the same command again"
            )
        files = {file.name: {"bytes": file.size_bytes, "sha256": file.sha256} for file in wanted.files}
        record = {"model": wanted.model, "to": destination.uri, "version": version, "files": files}
        path = draft.scratch("publication.json")
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.publish("publication", {"publication.json": path})
        tracker.metrics({"published_bytes": wanted.size_bytes, "sent_bytes": plan.sent_bytes}, 0)
        statistics = {"to": destination.uri, "version": version, "bytes": wanted.size_bytes, "files": len(files)}
        made = draft.commit({**decisive(config), "to": destination.uri}, statistics, licences)
    say(f"   sent {human(plan.sent_bytes, 'B')} in {len(plan.sent)} files; {plan.kept} lay there already")
    for label, text in destination.told().items():
        say(f"   {label}: {text}")
    return session.done(made)


# ── What is published ─────────────────────────────────────────────────────────────────────────────────────────────────


def published(store: ArtifactStore, parent: str) -> Artifact:
    """The artifact that `parent=` names. Raises: ConfigError for a kind that is no delivered model."""
    reference = Reference.parse(parent)
    expected = "expected export/<name> or quantize/<name>"
    if reference.kind in TRAINED:
        raise ConfigError(
            f"parent={parent} is a checkpoint, which only Trunkline reads; {expected}: make one with `python -m "
            f"workflows.export parent={parent}`"
        )
    if reference.kind not in _KINDS:
        raise ConfigError(f"parent={parent} is of kind {reference.kind}; {expected}")
    if reference.at is not None:
        raise ConfigError(f"parent={parent} names a step, and a delivered model has one state; {expected}")
    return store.get(parent)


def shipment_of(store: ArtifactStore, artifact: Artifact) -> Shipment:
    """All files of the delivered model, under the names that they have in its folder."""
    prefix = _KINDS[artifact.folder.split("/")[0]]
    files = [
        Outgoing(name.removeprefix(prefix), entry["bytes"], entry["sha256"], functools.partial(artifact.path, name))
        for name, entry in artifact.manifest["files"].items()
        if name.startswith(prefix)
    ]
    if CARD not in {file.name for file in files}:  # an export has one, and its licences
        files += described(store, artifact)
    statistics, config = artifact.statistics, artifact.config
    told = {
        "fingerprint": artifact.fingerprint,
        "parent": statistics.get("parent", config.get("parent")),
        "format": config.get("format", _QUANTIZED_FORMAT),
        "dtype": config.get("dtype"),
        "made": artifact.manifest["created"],
        "code": artifact.manifest["code_version"],
    }
    return shipment(artifact.folder, files, {key: value for key, value in told.items() if value is not None})


def described(store: ArtifactStore, quantized: Artifact) -> list[Outgoing]:
    """Card and licences of what `workflows.quantize` left, which has none. Raises: as `open_source`."""
    source, format_ = open_source(store, quantized.folder), FORMATS.get(_QUANTIZED_FORMAT)
    if format_ is None:
        raise ConfigError(
            f"parent={quantized.folder}: there is no format {_QUANTIZED_FORMAT} to describe it; export it first, to "
            f"one of {', '.join(FORMATS)}"
        )
    links, evaluation = lineage(store, quantized), find_evaluation(store, source.run)
    results = evaluation.json("results.json") if evaluation else None
    told = quantized.statistics
    measured = (quantization_of(source) or {}).get("measured") or {}
    tokens = sum(read.get("compared_tokens", 0) for read in measured.get("sources", {}).values())
    check = Check(tokens, kl=told.get("kl"), top1=told.get("top1"))
    dtype = str(quantized.config.get("dtype") or next(iter(format_.dtypes)))
    name = quantized.folder.partition("/")[2]
    asks = asking(format_, sample_question(source.tokens, links))
    card = model_card(name, source, links, asks, dtype, check, results)
    return [Outgoing.of(CARD, card.encode()), Outgoing.of(LICENCE, licence_note(source.tokens).encode())]


def all_licences(store: ArtifactStore, artifact: Artifact) -> dict[str, str]:
    """Of each source that any artifact of the lineage names: its licence, "" where none is recorded."""
    links = lineage(store, artifact)
    manifests = [link.manifest for link in links if link.manifest is not None and link.folder.startswith("tokens/")]
    return {
        name: licence for manifest in (artifact.manifest, *manifests) for name, licence in licences_of(manifest).items()
    }


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


def licence_refusals(artifact: Artifact, licences: Mapping[str, str]) -> list[str]:
    """Why nobody should pass these weights on as they are; empty where every source names its licence."""
    way_out = "train without them (sources=permissive of a recipe), or pass unclear_licences=allow and answer for it"
    if not licences:
        return [f"{artifact.folder} records no licence of any source: {way_out}"]
    unclear = unclear_among(licences)
    if not unclear:
        return []
    told = ", ".join(f"{name} ({licences[name] or 'no licence recorded'})" for name in unclear)
    return [f"{artifact.folder} was trained on sources whose licence is not clear: {told}; {way_out}"]


def refuse_within(store: ArtifactStore, destination: Destination) -> None:
    """Raises: ConfigError for a place inside the store, or one that holds it."""
    inner, outer = f"{destination.uri.rstrip('/')}/", f"{store.uri.rstrip('/')}/"
    if inner.startswith(outer) or outer.startswith(inner):
        raise ConfigError(
            f"to={destination.uri} and the store {store.uri} lie one within the other: expected a place outside of "
            "the store"
        )


def still_there(draft: Artifact, plan: Plan, destination: Destination) -> None:
    """Raises: ArtifactError when a finished publication does not lie there any more."""
    if not plan.finished:
        raise ArtifactError(
            f"{draft.folder} was sent to {destination.uri} on {draft.manifest['created']}, and does not lie there as "
            f"it was sent ({missing(plan)}): pass on_change=rebuild to send what is missing"
        )
    say(f"   it lies there whole: {len(plan.shipment.files)} files compared")


def missing(plan: Plan) -> str:
    """The files that are not there, in words."""
    gone, other = [file.name for file in plan.sent if file.name not in plan.changed], sorted(plan.changed)
    return "; ".join(
        [
            *([f"missing: {', '.join(gone)}"] if gone else []),
            *([f"changed: {', '.join(other)}"] if other else []),
            *([] if gone or other else ["its record is another"]),
        ]
    )


# ── What is shown ─────────────────────────────────────────────────────────────────────────────────────────────────────


def announced(
    artifact: Artifact, wanted: Shipment, destination: Destination, plan: Plan | None, licences: Mapping[str, str]
) -> dict[str, Any]:
    """The lines of the announcement."""
    told = wanted.told
    unclear = unclear_among(licences)
    lines = {
        "model": f"{wanted.model}, made of {told['parent']}, {told['format']}"
        + (f", {told['dtype']}" if "dtype" in told else ""),
        "to": destination.uri,
        "files": f"{len(wanted.files)} and the record, {human(wanted.size_bytes, 'B')}",
        "licences": f"not clear: {', '.join(unclear)}" if unclear else f"named for {len(licences)} sources",
        "checked": checked(artifact),
    }
    if plan is not None:
        size = human(plan.sent_bytes, "B")
        lines["to send"] = f"{len(plan.sent)} files, {size}; {plan.kept} lie there already"
        if plan.other is not None:
            lines["replaces"] = plan.other
        if plan.strange:
            lines["stays there"] = ", ".join(plan.strange[:8])
    return lines


def checked(artifact: Artifact) -> str:
    """Which runtimes were asked when the model was made, and which were not, with the reason."""
    asked = artifact.statistics.get("asked", [])
    names = [one["runtime"] for one in asked if not one["not_asked"]]
    not_asked = [f"{one['runtime']}: {one['not_asked']}" for one in asked if one["not_asked"]]
    told = f"with {', '.join(names)}" if names else "no program of others was asked to run it"
    return "; ".join([told, *([f"NOT ASKED: {'; '.join(not_asked)}"] if not_asked else [])])


def show(wanted: Shipment, plan: Plan | None) -> None:
    """The card, and the list of files."""
    for file in wanted.files:
        if file.name == CARD:
            content = file.source()
            text = content if isinstance(content, bytes) else Path(content).read_bytes()
            say(f"\n── {CARD} " + "─" * 66 + f"\n\n{text.decode()}")
    rows = []
    for file in wanted.files:
        state = (
            ""
            if plan is None
            else "lies there"
            if file.name in plan.there
            else "replaces another"
            if file.name in plan.changed
            else "is sent"
        )
        rows.append([file.name, file.size_bytes, file.sha256[:16], state])
    rows += [[name, None, "", "is removed there"] for name in (plan.removed if plan else ())]
    say(table(("file", "bytes", "sha256", ""), rows))


main = entry(PublishConfig, run, "publish")

if __name__ == "__main__":
    main()
