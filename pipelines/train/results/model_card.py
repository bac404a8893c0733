"""The model card of an exported model: what it was made from, under which licences, how it was trained, how it does.

Enters: the lineage that the artifacts recorded and, where there is one, the evaluation. Leaves: `README.md` and
`LICENSE.md`. Nothing is claimed that an artifact does not say; a source without a clear licence is called out first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.display.evaluation import lone_numbers, task_table
from pipelines.display.progress import say
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.ways_out import workflow_of
from pipelines.train.checkpoint.lineage import Link, Run
from pipelines.train.formats.contract import Check, Format, Source
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.results.evaluate import of_this_version
from pipelines.train.stages import STAGES

_UNCLEAR = re.compile(r"unclear|unknown|unstated|not stated|^\s*(none|null)?\s*$", re.IGNORECASE)


_CHAT = """Messages are `system` (any number, before a question), `user`, `assistant`, `user`, `assistant`, ...: the
model was trained on nothing else, so the chat template refuses other roles (tools), other orders and empty messages
with an error that says so.

`</s>`, `<用户>` and `<AI>` mark turns. Typed inside a message they are text: the template writes U+FDD1 into them and
the tokenizer takes it out again after it has looked for markers. Text that goes to the tokenizer without the template
(`tokenizer(text)`) has no such guard: pass `split_special_tokens=True` with text that is not your own.
`return_assistant_tokens_mask=True` marks what counted in the loss."""


def model_card(
    name: str,
    source: Source,
    links: Sequence[Link],
    format_: Format,
    dtype: str,
    check: Check,
    evaluation: Mapping[str, Any] | None,
) -> str:
    """The content of `README.md`.

    Args:
        links: the lineage of what is exported, corpus first. check: what the export's check gave.
        evaluation: content of `results.json` for this very checkpoint, or None.
    """
    run, tokens, model = source.run, source.tokens, source.model
    use = format_.run("path/to/this/folder")[0]
    counts, described = parameter_counts(model), format_.describe(source, dtype)
    agrees = "they were compared with the checkpoint's one by one, and no logits"
    if check.largest_difference is not None:
        agrees = f"logits agree with the training model to {check.largest_difference:.1e} in float32"
    parts = [
        _front(tokens, described.library),
        f"# {name}\n\nA language model of {counts['total']:,} parameters ({counts['non_embedding']:,} without "
        "embeddings), trained with Trunkline after the MiniCPM recipe (arXiv 2404.06395) on "
        f"{run.checkpoint.state['tokens']:,} tokens. Exported from `{run}` in the {described.title} format, weights "
        f"in {dtype}. {described.card}; {agrees}.",
        f"## Use\n\n```{use.language}\n{use.text.rstrip()}\n```\n\n{described.loads}\n\n{_CHAT}",
        "## Data\n\n" + _data(tokens),
        "## Lineage\n\n" + _lineage(links),
        "## Training\n\n" + _training(links),
        "## Evaluation\n\n"
        + (
            _evaluation(evaluation)
            if evaluation
            else f"None was found for `{run}`; make one with `python -m workflows.evaluate "
            f"parent={run.artifact.folder}`, then export again."
        ),
        f"## Architecture\n\n{model.layers} layers, width {model.d_model}, feed-forward {model.d_ff}, {model.heads} "
        f"query and {model.kv_heads} key-value heads, vocabulary {model.vocabulary:,}, {model.max_positions:,} "
        f"positions, RoPE base {model.rope_base:g}.\n\n## Limits\n\nTrained on the sources above and nothing else: "
        "what they do not say, the model does not know; what they say wrongly, it repeats. It was not tested for "
        "safety.",
    ]
    return "\n\n".join(parts) + "\n"


def licence_note(tokens: Artifact) -> str:
    """The content of `LICENSE.md`: what binds whoever passes the weights on."""
    licences, unclear = tokens.manifest["licences"], unclear_licences(tokens)
    lines = [
        "# Licence of these weights",
        "",
        "The code that made them (Trunkline) is Apache-2.0. The weights were trained on:",
        "",
    ]
    lines += [f"- {name}: {licence or 'no licence recorded'}" for name, licence in sorted(licences.items())]
    if unclear:
        lines += [
            "",
            f"**No clear upstream licence: {', '.join(unclear)}.** Use the weights for study and development; settle "
            "these licences, or train without these sources (`sources=permissive`), before passing them on.",
        ]
    elif licences:
        lines += ["", "Every source names its licence; heed their terms when passing the weights on."]
    else:
        lines += ["", "**No licence was recorded for any source.** Settle this before passing the weights on."]
    return "\n".join(lines) + "\n"


def unclear_licences(tokens: Artifact) -> list[str]:
    """Sources whose recorded licence says that it is not known, and those that have none."""
    return unclear_among(licences_of(tokens.manifest))


def licences_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Of each source that a manifest of tokens names: its licence, "" where none is recorded."""
    recorded, sources = manifest.get("licences", {}), manifest.get("statistics", {}).get("sources", {})
    stated = {name: source.get("licence") for name, source in sources.items()}
    return {name: recorded.get(name) or stated.get(name) or "" for name in {**stated, **recorded}}


def unclear_among(licences: Mapping[str, str]) -> list[str]:
    """Sources whose licence is not clear. Args: licences, of each source; "" where none is recorded."""
    return sorted(name for name, licence in licences.items() if _UNCLEAR.search(licence))


def find_evaluation(store: ArtifactStore, run: Run) -> Artifact | None:
    """The newest finished evaluation of this very checkpoint. One of an older version is named and passed over."""
    folders = {"/".join(key.split("/")[:2]) for key in store.storage.keys("evaluate") if key.endswith("/manifest.json")}
    finished = [artifact for folder in sorted(folders) if (artifact := store.find(folder)) is not None]
    matching = [
        artifact
        for artifact in finished
        if artifact.statistics.get("parent") == str(run)
        and artifact.manifest["identity"]["inputs"].get(run.artifact.folder) == run.artifact.fingerprint
    ]
    for artifact in matching:
        if not of_this_version(artifact):
            say(f"   {artifact.folder} was made by an older version of Trunkline and is passed over")
    readable = [artifact for artifact in matching if of_this_version(artifact)]
    return max(readable, key=lambda artifact: str(artifact.manifest["created"]), default=None)


def _front(tokens: Artifact, library: str | None) -> str:
    languages = sorted({str(source["language"]) for source in tokens.statistics["sources"].values()} & {"en", "zh"})
    lines = [
        "---",
        *([f"library_name: {library}"] if library else []),
        "pipeline_tag: text-generation",
        "license: other",
        "license_name: see-LICENSE.md",
    ]
    lines += [
        "license_link: LICENSE.md",
        *(["language:", *(f"- {language}" for language in languages)] if languages else []),
    ]
    return "\n".join([*lines, "tags:", "- trunkline", "- minicpm", "---"])


def _data(tokens: Artifact) -> str:
    licences, unclear = tokens.manifest["licences"], unclear_licences(tokens)
    rows = [
        [
            name,
            source["kind"],
            source["language"],
            f"{source['train']['tokens']:,}",
            licences.get(name) or source.get("licence") or "not recorded",
        ]
        for name, source in tokens.statistics["sources"].items()
    ]
    warning = ""
    if unclear:
        warning = (
            f"> **Licence unclear:** {', '.join(unclear)}. Their files come with no clear upstream licence; see "
            "LICENSE.md before passing the weights on.\n\n"
        )
    return warning + _markdown(("source", "kind", "language", "tokens in the corpus", "licence"), rows)


def _lineage(links: Sequence[Link]) -> str:
    rows = []
    for link in links:
        made = str(link.manifest.get("created", "under way")) if link.manifest else "no longer in the store"
        version = str(link.manifest.get("code_version", "")) if link.manifest else ""
        kind = link.folder.split("/")[0]
        rows.append(
            [
                f"`{link.folder}`",
                f"`{link.fingerprint}`",
                f"`{link.parent}`" if link.parent else "",
                f"workflows.{workflow_of(kind)}",
                made,
                version,
            ]
        )
    return _markdown(("artifact", "fingerprint", "began from", "made by", "finished", "code"), rows)


def _training(links: Sequence[Link]) -> str:
    rows = []
    for link in links:
        kind = link.folder.split("/")[0]
        if kind not in STAGES or link.manifest is None or "statistics" not in link.manifest:
            continue
        statistics, config = link.manifest["statistics"], link.manifest["identity"]["config"]
        rate, loss, batch = statistics.get("learning_rate", {}), statistics.get("loss", {}), config.get("batch", {})
        rows.append(
            [
                kind,
                _number(statistics.get("steps")),
                _number(statistics.get("tokens")),
                f"{batch['global_batch']} × {batch['sequence_length']}" if "global_batch" in batch else "–",
                f"{rate['first']:.3g} → {rate['last']:.3g}" if rate else "–",
                f"{loss['first']:.3f} → {loss['last']:.3f}" if loss else "–",
                _number(statistics.get("train_seconds")),
            ]
        )
    return _markdown(("stage", "steps", "tokens so far", "batch", "learning rate", "loss", "seconds"), rows)


def _evaluation(results: Mapping[str, Any]) -> str:
    """Every task that left something: its table, its numbers, its samples."""
    parts = [f"On held-out documents of `{results['tokens']}`, in windows of {results['sequence_length']} tokens."]
    for task in results["tasks"].values():
        header, rows = task_table(task, digits=3)
        lines = [f"- {line}" for line in lone_numbers(task, digits=3)]
        lines += [
            f"- {_inline(sample['prompt'])} ({sample['note']}) → {_inline(sample['text'])}"
            for sample in task["samples"]
        ]
        if rows or lines:
            parts.append(f"### {task['title']}\n\n{task['reading']}")
        if rows:
            parts.append(_markdown(header, [[name, *map(_cell, cells)] for name, *cells in rows]))
        if lines:
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _markdown(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(header)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows])


def _inline(text: str) -> str:
    """Text as Markdown code on one line, whatever backticks it holds."""
    flat = text.replace("\n", "⏎")
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", flat)), default=0))
    return f"{fence} {flat} {fence}" if flat else "*(nothing)*"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3f}" if isinstance(value, float) else _number(value)
