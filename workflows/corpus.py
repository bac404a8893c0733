"""Raw sources to clean, unique documents with a held-out part.

python -m workflows.corpus                                    the demo's corpus
python -m workflows.corpus sources=permissive name=open       without the sources of unclear licence
python -m workflows.corpus corpus=own_data name=mine          your own files: edit conf/corpus/own_data.yaml
python -m workflows.corpus corpus=own_data name=more known=[corpus/mine]     without copies of what is in corpus/mine
python -m workflows.corpus show_dropped=quality.too_short     examples of what was dropped, of the finished corpus
python -m workflows.corpus show_clusters=10                   copies and what stayed in their stead, likewise
python -m workflows.corpus dry_run=true                       what it will cost and leave, from a trial on a sample
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.config import parse
from pipelines.data.cleaning.classifier import unread_words
from pipelines.data.cleaning.decontaminate import SETS, contents
from pipelines.data.cleaning.language import NAMED
from pipelines.data.cleaning.ruled import rules_of
from pipelines.data.corpus import browse, data_card, reasons
from pipelines.data.corpus.assemble import build, dropped_examples
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup import duplicates
from pipelines.data.dedup import report as dedup_report
from pipelines.data.dedup.census import refuse_other_keys
from pipelines.data.dedup.minhash import detection_curve
from pipelines.data.plan.estimate import NothingLeft, estimate, show
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.fetch import fetch_all, to_fetch
from pipelines.data.sources.formats import FORMATS
from pipelines.data.sources.glance import of_another_kind
from pipelines.data.sources.listing import Listing
from pipelines.data.sources.readers import formats_of, inventory, listings, taken_in_words
from pipelines.display.progress import human, say, table
from pipelines.errors import ConfigError, DataError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules
from pipelines.store.draft import Draft
from workflows.entry import entry
from workflows.running import onward
from workflows.running.session import DryRun, Session

_ROOMS = {
    "text": "document packed code_points words licences row_groups",
    "sources": """
        config records conversations shape listing paths columns files opened texts compressed web readers fetch
        generators problem problems_en problems_zh
    """,
    "cleaning": """
        config batch steps passes normalise language measures forms ruled notes quality origins pii decontaminate
        classifier aids excerpts
    """,
    "dedup": """
        config facts minhash exact holdout shuffle places census lines stripping boilerplate pairs components members
        leaders resolve settle deduplicate report duplicates
    """,
    "corpus": "recipe checks assemble pieces writing profile",
}
_CSV_NOT_READ = re.compile(r"\.csv\b.*write its rows as JSON Lines or Parquet", re.DOTALL)
CODE = tuple(f"pipelines.data.{room}.{module}" for room, modules in _ROOMS.items() for module in modules.split())


def code_of(formats: Sequence[str], passes: Sequence[str]) -> tuple[str, ...]:
    """The modules that decide a corpus which reads files of these formats and asks for these further passes."""
    rows = chosen_modules("pipelines.data.sources.formats", formats)
    return (*CODE, *rows, *chosen_modules("pipelines.data.cleaning.further", passes))


def run(config: CorpusConfig, session: Session) -> Artifact:
    """Make `corpus/<name>`, or find it finished."""
    if config.show_dropped is not None:
        return _show_dropped(session.store.get(f"corpus/{config.name}"), config.show_dropped, config)
    if config.show_clusters is not None:
        return _show_clusters(session.store.get(f"corpus/{config.name}"), config.show_clusters)
    known = [session.store.get_kind("known", "corpus", session.resolve(reference)) for reference in config.known]
    # ── announce ──
    listed = _listed(config)
    whole_identity = {**identity(config), "inventory": inventory(config.chosen, listed)}
    if config.corpus.quality.model is not None:
        whole_identity["examples"] = inventory(config.corpus.example_sources, listed)
    if config.corpus.decontaminate.sets:
        whole_identity["evaluation sets"] = contents(config.corpus.decontaminate)
    refuse_other_keys(config.name, config.corpus.dedup.minhash, known)
    formats = formats_of(_read(config), listed)
    announcement, code = (
        _announcement(config, listed),
        code_of(formats, [asked.name for asked in config.corpus.passes]),
    )
    try:
        draft = session.begin("corpus", config, announcement, known, code, whole_identity, on_ray=True)
    except DryRun as planned:
        # the turns of a sweep that are finished, or refused, cost no trial
        if session.group is None or isinstance(planned.foreseen, Draft):
            session.foreseen_bytes = _show_estimate(config)
        raise
    if isinstance(draft, Artifact):
        session.store.storage.delete(f"{draft.folder}/work")  # there when a build was killed right after its commit
        if data_card.FILE in draft.manifest["files"] and not session.within_recipe:
            say(f"   data card: {draft.path(data_card.FILE)}")
        return session.reused(draft, *onward.after_corpus(session, config.name))

    # ── work ──
    def reach() -> None:
        """What may fail before a rebuild takes anything down."""
        fetch_all(s.reader.archive_package for s in config.chosen.values() if s.reader.type == "package")
        session.compare(known, draft.folder)

    with session.track(draft, config, known, reach if draft.replaces else None) as tracker:
        # Ray starts at the first pass, after all that could be wrong with the sources has been fetched and listed
        passed_over = {name: counts for name, listing in listed.items() if (counts := listing.counts())}
        taken = {name: listing.by_format() for name, listing in listed.items()}
        with _begun(draft):
            corpus = build(
                config,
                draft,
                lambda *shards, **options: session.map_shards(*shards, **options),
                known,
                passed_over=passed_over,
                taken=taken,
            )
        tracker.metrics(_metrics(corpus.statistics), step=0)
        tracker.file(corpus.path(data_card.FILE))
    _report(config, corpus, session)
    return session.done(corpus, *onward.after_corpus(session, config.name))


@contextmanager
def _begun(draft: Draft) -> Iterator[None]:
    """Say of bad data that the name is taken by now: a command that is corrected is another configuration's.

    Of a rebuild the old artifact comes back, and the same command with the correction rebuilds it.
    """
    try:
        yield
    except DataError as error:
        if draft.replaces:
            raise
        raise DataError(
            f"{error}. {draft.folder} has begun by now: with what you correct type on_change=rebuild, or another name="
        ) from error


def _report(config: CorpusConfig, corpus: Artifact, session: Session) -> None:
    """Say what came out."""
    sources = corpus.statistics["sources"]
    say(_table(sources))
    samples = browse.samples(corpus)
    if drops := _table_of_drops(sources, config, samples):
        say(f"\n{drops}\n")
    for sentence, reason in reasons.mostly_dropped(sources, config, samples):
        say(f"   note: {sentence}")
        command = f"python -m workflows.corpus name={config.name} show_dropped={reason}"
        say(f"         examples: {session.typed(command)}")
    for line in _held_out_strangely(config, corpus.statistics["sources"]):
        say(f"   note: {line}")
    for line in _without_rules(corpus.statistics["sources"]):
        say(f"   note: {line}")
    for line in _unreadable(corpus.statistics["sources"]):
        say(f"   note: {line}")
    dedup = corpus.statistics["dedup"]
    say(f"   copies: {_copies_in_words(dedup)}")
    if unread := unread_words(corpus.statistics.get("quality_model", {})):
        say(f"   records among the quality model's examples that could not be read: {unread}")
    if config.quality_report:
        say(f"   {dedup_report.words(corpus.json(dedup_report.FILE))}")
    say(f"   data card: {corpus.path(data_card.FILE)}")


def _copies_in_words(dedup: Mapping[str, Any]) -> str:
    """What deduplication found, and how to see it where there is something to see."""
    if not dedup["largest_cluster"]:
        return "none"
    return (
        f"{dedup['exact_copies']:,} exact, {dedup['near_pairs']:,} near in {dedup['near_clusters']:,} "
        f"cluster{'' if dedup['near_clusters'] == 1 else 's'}; the "
        f"largest cluster has {dedup['largest_cluster']:,} documents (show_clusters=10 shows some)"
    )


def _listed(config: CorpusConfig) -> dict[str, Listing]:
    """What lies under the paths of every source: of the corpus, the quality model, the evaluation sets.

    An evaluation set stands under a key that no source's name can be.
    """
    recipe = config.corpus
    examples = {name: source for name, source in recipe.example_sources.items() if name not in recipe.sources}
    taught = {name: source for name, source in recipe.example_sources.items() if name in recipe.sources}
    sets = {name: chosen.source for name, chosen in recipe.decontaminate.sets.items()}
    try:
        return {
            **listings({**taught, **config.chosen}),
            **listings(examples, "corpus.quality.model.examples"),
            **{f"set {name}": listing for name, listing in listings(sets, SETS).items()},
        }
    except DataError as error:
        raise DataError(f"{error}{_of_csv(str(error))}") from error


def _of_csv(told: str) -> str:
    """How a CSV becomes Parquet, where one is told not to be read; "" elsewhere."""
    if not _CSV_NOT_READ.search(told):
        return ""
    typed = "import pyarrow.csv as c, pyarrow.parquet as p; p.write_table(c.read_csv('a.csv'), 'a.parquet')"
    return f'; of a.csv: python -c "{typed}"'


def _read(config: CorpusConfig) -> dict[str, SourceConfig]:
    """Every source that is read, under the keys of `_listed`."""
    sets = {f"set {name}": chosen.source for name, chosen in config.corpus.decontaminate.sets.items()}
    return {**config.corpus.example_sources, **config.chosen, **sets}


def _announcement(config: CorpusConfig, listed: Mapping[str, Listing]) -> dict[str, Any]:
    recipe, chosen = config.corpus, config.chosen
    lines: dict[str, Any] = {}
    for name, source in chosen.items():
        cap = (
            f"at most {human(source.max_bytes, 'B')}"
            if source.max_bytes
            else f"{source.reader.count:,} items"
            if source.reader.count
            else ""
        )
        lines[name] = "  ".join(part for part in (source.kind, source.language, source.licence, cap) if part)
    left_out = [name for name in recipe.sources if name not in chosen]
    if left_out:
        lines["left out"] = f"{', '.join(left_out)} (sources=permissive)"
    for name, listing in listed.items():
        if name in chosen:
            lines[f"{name} reads"] = taken_in_words(chosen[name], listing)
        if listing.passed_over:
            told = listing.in_words()
            lines[f"{name} passes over"] = told + _of_csv(told) + _to_read_them(name, chosen.get(name), listing)
        if name in chosen and (strange := of_another_kind(f"corpus.sources.{name}.reader", chosen[name], listing)):
            lines[f"{name} also holds"] = "; ".join(strange)
    if config.known:
        lines["compared with"] = ", ".join(config.known)
    lines["to fetch"] = to_fetch(s.reader.archive_package for s in chosen.values() if s.reader.type == "package")
    if hub := [source for source in chosen.values() if source.reader.type == "huggingface"]:
        datasets = len({(source.reader.dataset, source.reader.subset) for source in hub})
        lines["streamed"] = (
            f"{datasets} Hugging Face datasets, while the corpus is built: that needs a network, or their local "
            "folders (HF_ENDPOINT for a mirror, HF_TOKEN for what asks for one); this plan does not"
        )
    if unruled := _unruled(config):
        lines["no quality rules"] = unruled
    unchecked = {s.language for s in chosen.values() if s.kind == "documents"} - NAMED - {"auto", "code"}
    if unchecked:
        lines["language unchecked"] = (
            f"{', '.join(sorted(unchecked))}: the detector cannot name it, so what is declared stands"
        )
    minhash = recipe.dedup.minhash
    curve = "  ".join(f"{s}: {p:.2f}" for s, p in detection_curve(minhash).items())
    lines["near-copies found"] = f"{minhash.bands} bands × {minhash.rows}, by Jaccard similarity {curve}"
    return lines


def _to_read_them(name: str, source: SourceConfig | None, listing: Listing) -> str:
    """How files whose names tell no format are read, where texts lie beside them; "" elsewhere."""
    unnamed = listing.passed_over.get("its name tells no format")
    if not unnamed or source is None or not any(FORMATS[file.format].is_text for file in listing.files):
        return ""
    return f"; ++corpus.sources.{name}.reader.format=text reads all files there as text"


def _table(sources: Mapping[str, Any]) -> str:
    rows = []
    for name, figures in sources.items():
        train = figures["train"]
        rows.append(
            [
                name,
                figures["language"],
                figures["licence"].split(" (")[0],
                train["documents"],
                round(train["bytes"] / 1e6, 2),
                figures["heldout"]["documents"],
                sum(figures["dropped"].values()),
            ]
        )
    total = [sum(row[column] for row in rows) for column in (3, 4, 5, 6)]
    rows.append(["all", "", "", total[0], round(total[1], 2), *total[2:]])
    return table(["source", "language", "licence", "documents", "MB", "held out", "dropped"], rows)


def _table_of_drops(sources: Mapping[str, Any], config: CorpusConfig, samples: reasons.Samples) -> str:
    """Why documents were dropped, and the keys that say so; "" where none was."""
    lines = reasons.lines(sources, config, samples)
    if not lines:
        return ""
    typed = any(told.startswith(("corpus.", "++", "'")) for *_, told in lines)
    way = "\n\n   what you take of it works with on_change=rebuild, or under another name=" if typed else ""
    return f"{table(reasons.HEADER, lines)}{way}"


def _held_out_strangely(config: CorpusConfig, sources: Mapping[str, Any]) -> list[str]:
    """Sources that hold out far more than their share, since a text is held out when any of its copies is; or nothing.

    A share above 0 may take nothing of a small source: see `holdout`.
    """
    lines = []
    for name, source in config.chosen.items():
        heldout, train = (sources[name][split]["documents"] for split in ("heldout", "train"))
        if source.heldout > 0 and not heldout and 0 < train < 10:
            lines.append(
                f"nothing of {name} is held out, so nothing can be measured on it: it has {train:,} "
                f"document{'s' if train > 1 else ''}, and beyond the share of {source.heldout:.1%} at most a tenth is "
                f"taken; ++corpus.sources.{name}.heldout=0.3 takes about a third"
            )
        if heldout > 3 * max(source.heldout * (heldout + train), source.heldout_minimum) or (heldout and not train):
            lines.append(
                f"{name} holds out {heldout:,} of {heldout + train:,} documents, where {source.heldout:.1%} was "
                "asked: many are copies, and a text is held out when any of its copies is; lower "
                f"corpus.sources.{name}.heldout to train on more of them"
            )
    return lines


def _without_rules(sources: Mapping[str, Any]) -> list[str]:
    """What was kept because no quality rules are for its language, by source."""
    return [
        f"{name}: no quality rules are for "
        f"{', '.join(f'{language} ({n:,} documents)' for language, n in counts.items())}: kept without being judged "
        "(corpus.quality.without_rules=drop drops them)"
        for name, figures in sources.items()
        if (counts := figures["without_rules"])
    ]


def _unreadable(sources: Mapping[str, Any]) -> list[str]:
    """What stood beside a text and could not be read, by source."""
    lines = []
    for name, figures in sources.items():
        counts = figures.get("unreadable") or {}
        named = ", ".join(f"{beside} (of {n:,})" for beside, n in counts.items())
        if counts:
            lines.append(f"{name}: what stands beside a text could not be read, and the text was kept: {named}")
    return lines


def _unruled(config: CorpusConfig) -> str:
    """What the plan says of the languages that sources declare or accept, and that have no quality rules."""
    named = sorted(
        {
            language
            for source in config.chosen.values()
            if source.kind == "documents" and source.content in ("prose", "web")
            for language in (config.corpus.language.accept if source.language == "auto" else [source.language])
            if rules_of(language) == "none"
        }
    )
    fate = {"keep": "kept without being judged", "drop": "dropped as quality.no_rules"}
    rule = config.corpus.quality.without_rules
    return f"{', '.join(named)}: {fate[rule]} (corpus.quality.without_rules={rule})" if named else ""


def _metrics(statistics: Mapping[str, Any]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, figures in statistics["sources"].items():
        metrics[f"{name}/train_documents"] = figures["train"]["documents"]
        metrics[f"{name}/train_bytes"] = figures["train"]["bytes"]
        metrics[f"{name}/heldout_documents"] = figures["heldout"]["documents"]
        metrics[f"{name}/dropped_documents"] = sum(figures["dropped"].values())
    return metrics


def _show_dropped(corpus: Artifact, reason: str, config: CorpusConfig) -> Artifact:
    examples, counts = dropped_examples(corpus, reason)
    made = _made_with(corpus, config)
    if not counts[reason]:
        known = ", ".join(f"{name} ({n:,})" for name, n in counts.most_common()) or "none at all"
        raise ConfigError(
            f"show_dropped={reason}: {corpus.folder} dropped nothing for it; reasons there: "
            f"{known}{_meant(reason, counts, made)}"
        )
    say(f"\n   {corpus.folder}: {counts[reason]:,} dropped for {reason}; {len(examples)} of them:")
    for row in examples:
        place = f"{row['id']}: {row['where']}" if row["id"] else row["where"]
        say(f"\n── {row['source']} · {place}")
        say("\n".join(f"   {line}" for line in row["text"].splitlines()[:12]))
    sources = corpus.statistics["sources"]
    chosen = {
        name: {**sources[name], "dropped": {reason: n}}
        for name, n in _sources_of(corpus, reason).items()
        if name in made.chosen
    }
    say(f"\n{_table_of_drops(chosen, made, browse.samples(corpus))}")
    return corpus


def _meant(reason: str, dropped: Mapping[str, int], config: CorpusConfig) -> str:
    """Which reason somebody meant who asked for one that is not there; "" where none is like it, or it is one."""
    known = reasons.known_reasons(config)
    meant = None if reason in known else reasons.nearest(reason, [*dropped, *sorted(known - dropped.keys())])
    if meant is None:
        return ""
    if meant in dropped:
        return f": did you mean show_dropped={meant}?"
    return f": {meant} is a reason, and dropped nothing either"


def _sources_of(corpus: Artifact, reason: str) -> dict[str, int]:
    """Source -> how many of its documents were dropped for a reason."""
    sources = corpus.statistics["sources"]
    return {name: figures["dropped"][reason] for name, figures in sources.items() if reason in figures["dropped"]}


def _made_with(corpus: Artifact, config: CorpusConfig) -> CorpusConfig:
    """The config that a corpus was made with; the command's own where an older one has other keys."""
    try:
        return parse(CorpusConfig, {**corpus.config, "name": config.name})
    except ConfigError:
        return config


def _show_clusters(corpus: Artifact, limit: int) -> Artifact:
    clusters = browse.read_clusters(corpus.path(duplicates.FILE).read_bytes())
    if not clusters:
        raise ConfigError(f"show_clusters={limit}: {corpus.folder} has no copies to show: nothing was dropped as one")
    say(
        f"\n   {corpus.folder}: the largest {min(limit, len(clusters)):,} of {len(clusters):,} clusters kept for "
        f"browsing. {browse.RULE}."
    )
    marks = (
        "red: only in the one that stays; green: only in the copy"
        if sys.stdout.isatty()
        else "[-only in the one that stays-] {+only in the copy+}"
    )
    say(f"   {marks}")
    for number, cluster in enumerate(clusters[:limit], 1):
        for line in browse.lines(cluster, number, colours=sys.stdout.isatty()):
            say(line)
    return corpus


def _show_estimate(config: CorpusConfig) -> float | None:
    """Returns: bytes of text that the corpus will have, where that can be told."""
    say("\n   trying a sample of the sources, to see what the whole will cost ...")
    try:
        prediction = estimate(config)
        show(prediction, config)
        return float(prediction.kept_bytes)
    except NothingLeft:
        raise
    except DataError as error:  # a sample may lack what the whole has: the plan stands, without figures
        say(f"   no figures: on the sample, {error}")
    except ConfigError as error:
        say(f"   no figures: {error}")
    return None


main = entry(CorpusConfig, run, "corpus")

if __name__ == "__main__":
    main()
