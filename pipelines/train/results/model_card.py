"""The model card of a delivered model: what it was made from, under which licences, how it was trained, how it does.

Enters: the lineage that the artifacts recorded, what the export's check gave and, where there are any, the evaluation
and what quantizing cost. Leaves: `README.md` and `LICENSE.md`. Nothing is claimed that an artifact does not say; a
source without a clear licence is called out first.

Its head is what the Hugging Face Hub reads (https://huggingface.co/docs/hub/model-cards). `base_model` is not in it: it
names a repository of the Hub, and what these models are made of lies in a store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.display.evaluation import lone_numbers, task_table
from pipelines.display.progress import human, say
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
with an error that says so."""

# of a GGUF file, whose own words say what happens to a typed marker there, it is not true
_MARKERS = """`</s>`, `<用户>` and `<AI>` mark turns. Typed inside a message they are text: the template writes
U+FDD1 into them and the tokenizer takes it out again after it has looked for markers. Text that goes to the tokenizer
without the template (`tokenizer(text)`) has no such guard: pass `split_special_tokens=True` with text that is not your
own. `return_assistant_tokens_mask=True` marks what counted in the loss."""


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
    counts, described = parameter_counts(model), format_.describe(source, dtype)
    quantization = quantization_of(source)
    ways = format_.run("path/to/this/folder")
    parts = [
        _front(tokens, described.library, quantization is not None or not format_.dtypes[dtype].is_float),
        f"# {name}\n\nA language model of {counts['total']:,} parameters ({counts['non_embedding']:,} without "
        "embeddings), trained with Trunkline after the MiniCPM recipe (arXiv 2404.06395) on "
        f"{run.checkpoint.state['tokens']:,} tokens. Exported from `{source.name}` in the {described.title} format, "
        f"weights in {dtype}. {described.card}; {_agreement(check)}.",
        _licence_warning(tokens),
        "## How to run it\n\n"
        + "\n\n".join(f"### {way.program}\n\n```{way.language}\n{way.text.rstrip()}\n```" for way in ways)
        + f"\n\n{described.loads}\n\n{_CHAT}"
        + ("" if described.library == "gguf" else f"\n\n{_MARKERS}"),
        "## Intended use\n\n" + _intended(tokens, links),
        "## Data and licences\n\n" + _data(tokens, links),
        "## Lineage\n\n" + _lineage(links, source, described.title, dtype),
        "## Training\n\n" + _training(links),
        "## Scores\n\n"
        + (
            _evaluation(evaluation, source)
            if evaluation
            else f"No evaluation was found for `{run}`; make one with `python -m workflows.evaluate "
            f"parent={run.artifact.folder}`, then export again."
        ),
        "" if quantization is None else "## What quantizing cost\n\n" + _cost(quantization),
        "## What was checked\n\n" + _checks(check),
        f"## Architecture\n\n{model.layers} layers, width {model.d_model}, feed-forward {model.d_ff}, {model.heads} "
        f"query and {model.kv_heads} key-value heads, vocabulary {model.vocabulary:,}, {model.max_positions:,} "
        f"positions, RoPE base {model.rope_base:g}.",
        "## Limits\n\n"
        f"- A model of {human(counts['total'])} parameters knows little, and says what it does not know as fluently "
        "as what it does: check what it says.\n"
        "- Trained on the sources above and nothing else: what they do not say, the model does not know; what they say "
        "wrongly, it repeats, their prejudices included.\n"
        f"- It reads {model.max_positions:,} tokens at most, of which its training used "
        f"{run.checkpoint.state['sequence_length']:,}.\n"
        "- It was not tested for safety, and nothing was done to have it refuse.\n"
        "- The scores are of held-out documents of its own sources. They say nothing of texts of another kind.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def quantization_of(source: Source) -> dict[str, Any] | None:
    """What `workflows.quantize` measured; None where nothing was quantized by it."""
    if source.quantized is None or "quantization.json" not in source.quantized.manifest["files"]:
        return None
    content: dict[str, Any] = source.quantized.json("quantization.json")
    return content


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


def _front(tokens: Artifact, library: str | None, quantized: bool) -> str:
    """The head, in YAML: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    languages = _languages(tokens)
    lines = [
        "---",
        *([f"library_name: {library}"] if library else []),
        "pipeline_tag: text-generation",
        # the weights have no licence of their own beside those of what they were trained on
        "license: other",
        "license_name: those-of-its-sources",
        "license_link: LICENSE.md",
        *(["language:", *(f"- {language}" for language in languages)] if languages else []),
        "tags:",
        "- trunkline",
        "- minicpm",
        *(["- quantized"] if quantized else []),
        "---",
    ]
    return "\n".join(lines)


def _languages(tokens: Artifact) -> list[str]:
    """Those that the Hub knows by name; a source of code or of nothing in particular has another word there."""
    return sorted({str(source["language"]) for source in tokens.statistics["sources"].values()} & {"en", "zh"})


def _agreement(check: Check) -> str:
    """A clause: how the folder was compared with the checkpoint."""
    if check.kl is not None:
        return (
            f"on held-out text it is {check.kl:.3g} nats of KL per token away from the model in full precision, and "
            f"finds the same token likeliest at {check.top1 or 0:.1%} of the places"
        )
    if check.largest_difference is not None:
        return f"logits agree with the training model to {check.largest_difference:.1e} in float32"
    return "they were compared with the checkpoint's one by one, and no logits"


def _licence_warning(tokens: Artifact) -> str:
    unclear = unclear_licences(tokens)
    if not unclear:
        return ""
    return (
        f"> **Licence unclear:** {', '.join(unclear)}. Their files come with no clear upstream licence; see "
        "LICENSE.md before passing the weights on."
    )


def _intended(tokens: Artifact, links: Sequence[Link]) -> str:
    stages = [STAGES[kind] for link in links if (kind := link.folder.split("/")[0]) in STAGES]
    answers = any(stage.starts == "initialise" for stage in stages)  # by conversations or pairs
    names = {"en": "English", "zh": "Chinese"}
    spoken = " and ".join(names[language] for language in _languages(tokens)) or "the languages of its sources"
    does = "answers questions and continues text" if answers else "continues text; it was not taught to answer"
    return (
        f"It {does}, in {spoken}. It is made for the study of how small models are trained, for trying out programs "
        "that run models on small devices, and as a parent to train further.\n\nIt is **not** for: facts that nobody "
        "checks; advice on health, law or money; decisions about people; answers to the public, or to children, that "
        "nobody reads first; other languages; tools and agents, for which it was not trained."
    )


def _data(tokens: Artifact, links: Sequence[Link]) -> str:
    """The sources, the largest first; of each mixture a column with the shares that it draws."""
    licences, sources = licences_of(tokens.manifest), tokens.statistics["sources"]
    unclear = set(unclear_among(licences))
    mixtures = {
        link.folder: link.manifest["statistics"]["sources"]
        for link in links
        if link.folder.startswith("mixture/") and link.manifest and "sources" in link.manifest.get("statistics", {})
    }
    total = sum(source["train"]["tokens"] for source in sources.values())
    rows = [
        [
            name,
            source["kind"],
            source["language"],
            f"{source['train']['tokens']:,}",
            f"{source['train']['tokens'] / max(1, total):.1%}",
            *(f"{drawn[name]['weight']:.1%}" if name in drawn else "–" for drawn in mixtures.values()),
            f"**{licences[name] or 'not recorded'}**" if name in unclear else licences[name],
        ]
        for name, source in sorted(
            sources.items(), key=lambda item: (item[0] not in unclear, -item[1]["train"]["tokens"], item[0])
        )
    ]
    header = ("source", "kind", "language", "tokens", "share", *(f"in `{name}`" for name in mixtures), "licence")
    told = f"{total:,} tokens of training data lay in {tokens.folder}; a mixture draws from them by its own weights."
    warned = " Sources whose licence is not clear come first, in bold." if unclear else ""
    return f"{told}{warned}\n\n{_markdown(header, rows)}"


def _lineage(links: Sequence[Link], source: Source, title: str, dtype: str) -> str:
    """The way from corpus to format in a line, then each artifact."""
    began = {link.parent.partition("@")[0]: link.parent for link in links if link.parent}
    steps = {**began, source.run.artifact.folder: str(source.run)}
    way = " → ".join([*(f"`{steps.get(link.folder, link.folder)}`" for link in links), f"{title}, {dtype}"])
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
    table = _markdown(("artifact", "fingerprint", "began from", "made by", "finished", "code"), rows)
    return f"{way}\n\n{table}"


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


def _evaluation(results: Mapping[str, Any], source: Source) -> str:
    """Every task that left something: its table, its numbers, its samples."""
    whose = f"Of `{source.run}` in full precision. " if source.quantized is not None else ""
    parts = [
        f"{whose}On held-out documents of `{results['tokens']}`, in windows of {results['sequence_length']} tokens."
    ]
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


def _cost(content: Mapping[str, Any]) -> str:
    """What `quantization.json` says: how it was quantized, sizes, and numbers against full precision."""
    sizes, calibration, measured = content["bytes"], content.get("calibration"), content.get("measured")
    full = sizes["bfloat16"]
    lines = [
        f"By {content['method']} ({content['words']}), {content['bits_per_weight']:.2f} bits for each weight of a "
        f"linear map; embedding, norms and output matrix stay {content['dtype']}. Linear maps take "
        f"{human(sizes['linear'], 'B')} instead of {human(full['linear'], 'B')} in bfloat16 "
        f"({sizes['linear'] / full['linear']:.1%}), all weights {human(sizes['total'], 'B')} instead of "
        f"{human(full['total'], 'B')}."
    ]
    if calibration:
        lines.append(f"Calibrated on {calibration['words']} of `{calibration['tokens']}`, seed {calibration['seed']}.")
    if not measured:
        return "\n\n".join([*lines, "What that costs was not measured."])
    rows = []
    for name, own in measured["models"].items():
        told = f"**{name}**" if name == content["method"] else name
        rows.append(
            [
                told,
                _part(own["bits_per_byte"]["mean"], 4),
                *(_estimate(own.get(key)) for key in ("lost_bits_per_byte", "kl")),
                _estimate(own.get("top1"), share=True),
                _part(own["assistant_loss"], 3),
                "–" if own["preference_accuracy"] is None else f"{own['preference_accuracy']:.1%}",
            ]
        )
    header = ("model", "bits per byte", "lost bits per byte", "KL to full, nats", "same likeliest token")
    lines.append(_markdown((*header, "assistant loss", "preference accuracy"), rows))
    lines.append(
        f"Means over the sources' held-out documents of `{content['tokens']}`. In brackets: "
        f"{measured['level']:.0%} intervals over documents drawn again. The model in bold is this one."
    )
    return "\n\n".join(lines)


def _estimate(part: Mapping[str, Any] | None, share: bool = False) -> str:
    """A number with its interval."""
    mean = part.get("mean") if part else None
    if mean is None:
        return "–"
    shown = "{:.1%}" if share else "{:.3g}"
    interval = "" if mean.get("low") is None else f" ({shown.format(mean['low'])} to {shown.format(mean['high'])})"
    return shown.format(mean["value"]) + interval


def _part(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _checks(check: Check) -> str:
    """What was compared before this folder was committed, and which programs were asked, or why not."""
    lines = [f"- {str(check).removeprefix('checked ').removeprefix('checked: ')}"]
    if check.layer_differences:
        lines.append(
            f"- hidden states after each block within {max(check.layer_differences):.1e} of the largest of them"
        )
    for asked in check.asked:
        if asked.not_asked:
            lines.append(f"- **{asked.runtime} was not asked**: {asked.not_asked}")
            continue
        told = [
            f"{asked.strings:,} strings tokenized like in training"
            + (f" ({asked.strings_differing:,} differ, see below)" if asked.strings_differing else ""),
            f"{asked.conversations:,} conversations rendered alike",
        ]
        if asked.prompts:
            told.append(
                f"{asked.prompts} prompts continued greedily, {asked.greedy_agreeing:,} of {asked.greedy_tokens:,} "
                "tokens likeliest to our own model too"
            )
        if asked.kl is not None:
            told.append(f"{asked.kl:.3g} nats of KL per token to what the file says")
        lines.append(f"- {asked.runtime}: " + "; ".join([*told, *asked.notes]))
    if not any(not asked.not_asked for asked in check.asked):
        lines.append("- no program of others was asked to run this folder")
    return "\n".join(lines)


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
