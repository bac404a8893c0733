"""What one does next: the commands that a finished command prints, each of which would be accepted as printed.

Enters: a finished artifact, and the experiment it was made in. Leaves: command lines. Of several that could follow, the
first is taken that plans: it is composed and planned in this process with `dry_run=true`, as its own command would be.
So a line names an overlay that is there, data that fits, a parent that can be branched from, and a name that is free.

The experiment of the command goes first; where it has nothing that fits (another model's vocabulary, other sources),
`own` follows, which is sized by whatever there is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import shlex
import tempfile
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipelines.data.stream.mixture import MixturePlan
from pipelines.display.progress import hushed, say
from pipelines.errors import TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.committed import committed_steps
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.stages import STAGES, TRAINED, stage_named
from workflows.command_line import places
from workflows.command_line.composing import compose_config
from workflows.running.session import DryRun, Session

OWN = "own"  # the experiment that fits any data


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A command that could follow: the words behind the workflow's name."""

    workflow: str
    words: tuple[str, ...]
    remark: str = ""

    def __str__(self) -> str:
        line = shlex.join(["python", "-m", f"workflows.{self.workflow}", *self.words])
        return f"{line}   # {self.remark}" if self.remark else line


def candidate(workflow: str, experiment: str | None, *words: str, remark: str = "") -> Candidate | None:
    """A command in an experiment; None where that has no overlay for it."""
    if experiment is None:
        return None
    if places.overlay(experiment, workflow) is None:
        return None
    return Candidate(workflow, (f"+experiment={experiment}", *words), remark)


def first_accepted(session: Session, candidates: Iterable[Candidate | None]) -> list[str]:
    """The first command that would be accepted, in a list; an empty one where none is. Nothing is said meanwhile."""
    if session.within_recipe:  # the recipe runs what follows by itself
        return []
    return next(([str(one)] for one in candidates if one is not None and accepted(session, one)), [])


def accepted(session: Session, command: Candidate) -> bool:
    """Whether the command plans, and its name is free or its own."""
    module = importlib.import_module(f"workflows.{command.workflow}")
    config_class = typing.get_type_hints(module.run)["config"]
    own = session.config
    try:
        with hushed():
            composed = compose_config(command.workflow, config_class, list(command.words))
            config = dataclasses.replace(
                composed, store=own.store, dry_run=True, tracking=dataclasses.replace(own.tracking, enabled=False)
            )
            with Session(config) as trial:
                module.run(config, trial)
    except DryRun as planned:
        return planned.foreseen is not None
    except TrunklineError:
        return False
    return False


def experiments(session: Session) -> Iterator[str]:
    """The experiment of this command, then the one that fits any data."""
    if session.experiment is not None:
        yield session.experiment
    if session.experiment != OWN:
        yield OWN


# ── After each kind of artifact ───────────────────────────────────────────────────────────────────────────────────────


def after_corpus(session: Session, name: str) -> list[str]:
    """Tokens of it."""
    return first_accepted(
        session, (candidate("tokenize", of, f"name={name}", f"data=corpus/{name}") for of in experiments(session))
    )


def after_tokenize(session: Session, name: str) -> list[str]:
    """A mixture whose sources they hold. Of tokens without documents it is said who reads them."""
    tokens = session.store.find(f"tokens/{name}")
    if tokens is not None and all(source["kind"] != "documents" for source in tokens.statistics["sources"].values()):
        say(
            f"   no documents for a mixture: sft reads conversations, dpo pairs, by data=tokens/{name}, from a parent "
            "of the same tokenizer (tokenizer.reuse=tokens/<the parent's>)"
        )
        return []

    def candidates() -> Iterator[Candidate | None]:
        tokens = f"tokens=tokens/{name}"
        if session.experiment not in (None, OWN):
            yield candidate("mixture", session.experiment, tokens)
            yield from mixture_for(session, session.experiment, None, f"tokens/{name}")
        yield candidate("mixture", OWN, f"name={name}", tokens)
        yield candidate("mixture", OWN, f"name={name}_stable", tokens)

    return first_accepted(session, candidates())


def after_mixture(session: Session, name: str, planned: MixturePlan) -> list[str]:
    """A trunk on it; of one with conversations in it, which is for the decay, a branch off a trunk of these tokens."""
    base = name.removesuffix("_decay").removesuffix("_stable")

    def trunks_first(of: str) -> Iterator[Candidate | None]:
        for trunk in trunks_on(session.store, planned.tokens, base):
            for one in by_recipe(session, of, "anneal", f"pretrain/{trunk}", planned.tokens):
                if one is not None and f"data=mixture/{name}" in one.words:
                    yield one
            words = (f"name={trunk}", f"parent=pretrain/{trunk}@latest", f"data=mixture/{name}")
            yield candidate("anneal", of, *words)
            yield candidate("anneal", of, f"name={name}", *words[1:])

    def stable(of: str, data: str) -> Iterator[Candidate | None]:
        yield candidate("pretrain", of, f"name={base}", f"data=mixture/{data}")
        yield candidate("pretrain", of, f"name={data}", f"data=mixture/{data}")

    def candidates() -> Iterator[Candidate | None]:
        if not for_decay(name, planned):
            for of in experiments(session):
                yield from stable(of, name)
            return
        for of in experiments(session):
            yield from trunks_first(of)
        for other in mixtures_on(session.store, planned.tokens, decay=False):
            for of in experiments(session):
                yield from stable(of, other)
        for named in (base, f"{base}_stable"):
            yield candidate("mixture", OWN, f"name={named}", f"tokens={planned.tokens}")

    return first_accepted(session, candidates())


def after_training(session: Session, run: str, parent: str, *words: str, remark: str = "") -> list[str]:
    """An evaluation; and the stage that follows, the next but one where the data has nothing for it, or the export.

    Args: run, the folder; parent, how a command names it; words, that a following stage needs beside.
    """
    if session.within_recipe:
        return []
    kind, name = run.split("/")
    tokens: str | None = None
    with contextlib.suppress(TrunklineError):  # they are gone
        tokens = tokens_of(session.store, open_run(session.store, run)).folder
    following = stage_named(kind).followed_by if kind in STAGES else _after_average()

    def names(follows: str) -> Iterator[str]:
        yield name
        if session.store.storage.exists(f"{follows}/{name}/claim.json"):  # of another parent, or with other settings
            yield f"{kind}-{name}"

    def stage(follows: str, of: str) -> Iterator[Candidate | None]:
        row = stage_named(follows)
        yield from by_recipe(session, of, follows, run, tokens, *words, remark=remark)
        if "tokens" in row.data:
            data = [f"data={tokens}"] if tokens else []
            for named in names(follows):
                yield candidate(follows, of, f"name={named}", f"parent={parent}", *data, *words, remark=remark)
            return
        for named in names(follows):
            given = (f"name={named}", f"parent={parent}", *words)
            for mixture in mixtures_on(session.store, tokens, decay=True, first=f"{name}_decay"):
                yield candidate(follows, of, *given, f"data=mixture/{mixture}", remark=remark)
            if tokens is not None:
                yield from mixture_for(session, of, follows, tokens)
            yield candidate(follows, of, *given, remark=remark)
            for mixture in mixtures_on(session.store, tokens, decay=False, first=name):
                yield candidate(follows, of, *given, f"data=mixture/{mixture}", remark=remark)

    def candidates() -> Iterator[Candidate | None]:
        follows = following
        while follows is not None:
            for of in experiments(session):
                yield from stage(follows, of)
            follows = stage_named(follows).followed_by
        for of in experiments(session):
            yield candidate("export", of, f"name={name}", f"parent={run}")
            yield candidate("export", of, f"name={kind}-{name}", f"parent={run}")

    evaluations = (candidate("evaluate", of, f"parent={run}") for of in experiments(session))
    return [*first_accepted(session, evaluations), *first_accepted(session, candidates())]


def after_quantize(session: Session, name: str) -> list[str]:
    """The files for phones and for servers that hold these very numbers, each where it can; and a chat."""
    if session.within_recipe:
        return []
    reference = f"quantize/{name}"
    lines = []
    for format_name, suffix in (("gguf", "gguf"), ("compressed-tensors", "packed")):
        words = (f"name={name}-{suffix}", f"parent={reference}", f"format={format_name}")
        lines += first_accepted(session, (candidate("export", of, *words) for of in experiments(session)))
    return [*lines, str(Candidate("chat", (f"model={reference}",)))]


def after_sandbox(session: Session, name: str) -> list[str]:
    """A config for a larger model, where the sandbox has found enough for one. It is tried in a temporary folder."""
    module = importlib.import_module("workflows.plan")  # which imports commands that name what follows them
    words = [f"recipe=sandbox/{name}", "target=2b", "beyond=allow"]
    with tempfile.TemporaryDirectory(prefix="trunkline-plan-") as folder:
        try:
            with hushed():
                composed = compose_config("plan", module.PlanConfig, words)
                config = dataclasses.replace(composed, into=folder, store=session.config.store)
                with Session(config, uses_store=False) as trial:
                    module.run(config, trial)
        except TrunklineError:
            return []
    return [str(Candidate("plan", tuple(words)))]


def by_recipe(
    session: Session, of: str | None, follows: str, run: str, tokens: str | None, *words: str, remark: str = ""
) -> Iterator[Candidate | None]:
    """The stage that follows a run as the experiment's recipe has it, which then finds it finished.

    Args: run, the folder; words, that the command needs beside.
    """
    for row in _recipe_rows(session, of, run.partition("/")[2], tokens):
        overrides = [word.replace("<last>", run) for word in row.overrides]
        parents = [word.removeprefix("parent=").partition("@")[0] for word in overrides if word.startswith("parent=")]
        if row.workflow == follows and parents == [run]:
            yield candidate(follows, of, f"name={row.name}", *overrides, *words, remark=remark)


def mixture_for(session: Session, of: str | None, follows: str | None, tokens: str) -> Iterator[Candidate | None]:
    """The mixture of these tokens that the experiment's recipe gives a stage, where it is not there yet.

    Args: follows, the stage; None: the first that trains.
    """
    rows = _recipe_rows(session, of, tokens.partition("/")[2], tokens)
    trained = [row for row in rows if row.workflow in STAGES and follows in (None, row.workflow)]
    read = [word.removeprefix("data=mixture/") for row in trained for word in row.overrides if word.startswith("data=")]
    for row in rows:
        missing = row.workflow == "mixture" and session.store.find(f"mixture/{row.name}") is None
        if missing and row.name in read[:1]:
            yield candidate("mixture", of, f"name={row.name}", *row.overrides)


def _recipe_rows(session: Session, of: str | None, name: str, tokens: str | None) -> list[Any]:
    """The stages of the experiment's recipe under that name, but for those that these tokens have nothing for."""
    if of is None or tokens is None or places.overlay(of, "recipe") is None:
        return []
    module = importlib.import_module("workflows.recipe")  # which imports commands that name what follows them
    with contextlib.suppress(TrunklineError):
        kinds = module.kinds_of(session.store.get(tokens))
        rows = compose_config("recipe", module.RecipeConfig, [f"+experiment={of}", f"name={name}"]).stages
        return [row for row in rows if row.fits(kinds)]
    return []


def _after_average() -> str:
    return next(name for name, row in STAGES.items() if "average" in row.parents)


# ── What the store has ────────────────────────────────────────────────────────────────────────────────────────────────


def for_decay(name: str, planned: MixturePlan) -> bool:
    """Whether a mixture is made for the decay: conversations are in it, or its name says so."""
    return name.endswith("_decay") or any(source.kind == "conversations" for source in planned.sources)


def mixtures_on(store: ArtifactStore, tokens: str | None, decay: bool, first: str = "") -> list[str]:
    """Finished mixtures of these tokens, made for the decay or not; `first` before the others."""
    names = []
    for name in store.storage.folders("mixture"):
        with contextlib.suppress(TrunklineError):
            found = store.find(f"mixture/{name}")
            if found is None:
                continue
            planned = MixturePlan.from_json(found.json("mixture.json"))
            if planned.tokens == tokens and for_decay(name, planned) == decay:
                names.append(name)
    return sorted(names, key=lambda name: (name != first, name))


def trunks_on(store: ArtifactStore, tokens: str, first: str) -> list[str]:
    """Runs that go on for ever, trained on these tokens and with a checkpoint; `first` before the others."""
    names = []
    for kind in (kind for kind, row in STAGES.items() if row.endless):
        for name in store.storage.folders(kind):
            with contextlib.suppress(TrunklineError):
                claim = store.find_claim(f"{kind}/{name}")
                if claim and tokens in claim["identity"]["inputs"] and committed_steps(store.storage, f"{kind}/{name}"):
                    names.append(name)
    return sorted(names, key=lambda name: (name != first, name))


def is_trained(artifact: Artifact) -> bool:
    """Whether it holds checkpoints."""
    return artifact.folder.split("/")[0] in TRAINED


def kinds_in(sources: Sequence[Any]) -> set[str]:
    """The kinds of sources that have training text."""
    return {source["kind"] for source in sources if source["train"]["tokens"]}
