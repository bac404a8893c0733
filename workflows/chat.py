"""Talk to a model in the terminal, answer a file of prompts, or serve it to programs and to a browser.

    python -m workflows.chat model=export/demo                          an export: llama, minicpm, gguf, …
    python -m workflows.chat model=dpo/demo@step-60                     a checkpoint, built in memory
    python -m workflows.chat model=model.gguf system='Be brief.' sampling.temperature=0.2
    python -m workflows.chat model=export/demo prompts=questions.jsonl  one answer a line; goes on where it was stopped
    python -m workflows.chat model=export/demo-gguf serve=true          OpenAI's API on loopback, with a token
    python -m workflows.chat model=export/demo draft=export/small       a small sibling proposes, this model decides

/help in the chat lists its commands. Nothing is written into the store. docs/chat.md says more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pipelines.config import Count, Range, WorkflowConfig, config_class, plain, runtime
from pipelines.data.tokens.chat import EOS, TEMPLATE
from pipelines.data.tokens.tokenizer import guarded
from pipelines.display.progress import announce, say
from pipelines.errors import ArtifactError, ConfigError, TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.checkpoint.lineage import lineage, open_run, tokens_of
from pipelines.train.formats.contract import Source
from pipelines.train.formats.folder import TOKENIZER, tokenizer_settings
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.formats.parents import open_source
from pipelines.train.results.sample_question import sample_question
from pipelines.train.runtimes import RUNTIMES
from pipelines.train.runtimes.batch import answer_all, read_prompts
from pipelines.train.runtimes.contract import Loaded, LoadSettings, Runtime, Sampling, Serving
from pipelines.train.runtimes.serving import curl_line, new_token, running, usable_port
from pipelines.train.runtimes.terminal import Chat, piped_lines, typed_lines
from pipelines.train.runtimes.with_transformers import in_memory
from pipelines.train.stages import TRAINED
from workflows.entry import entry
from workflows.running.session import DryRun, Session

_DELIVERED = ("export", "quantize")  # kinds of artifacts that hold a model's folder
_MOST_POSITIONS = 8192  # where nobody asks for more: the key-value cache of llama.cpp takes its memory at once
_HISTORY = Path("~/.local/state/trunkline/chat_history")


@config_class
class AskedModel:
    """Which model answers: a mapping, as `model` by itself is a group of conf/. `main` writes it so."""

    of: str = "export/demo"  # an artifact or a path


@config_class
class ChatConfig(WorkflowConfig):
    """Which model answers, and how."""

    name: str = runtime("chat")
    model: AskedModel = dataclasses.field(default_factory=AskedModel)
    program: Literal["transformers", "llama_cpp"] | None = None
    draft: str | None = None
    system: str | None = None
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    threads: Count | None = runtime(None)
    context: Count | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    prompts: str | None = None
    answers: str | None = runtime(None)
    serve: bool = False
    port: Annotated[int, Range(0, 65535)] = runtime(8080)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.serve and self.prompts is not None:
            raise ConfigError("serve=true and prompts= are two commands: leave one of them out")
        if self.serve and self.draft is not None:
            raise ConfigError("draft= is for this command's own answers, and serve=true starts another program: leave "
                              "one of them out")  # fmt: skip
        if self.answers is not None and self.prompts is None:
            raise ConfigError("answers= says where the answers to prompts= go: name the prompts too")
        if self.system is not None and not self.system.strip():
            raise ConfigError("system= says nothing: leave it out, or give it a text")


@dataclasses.dataclass(frozen=True)
class Model:
    """Where a model lies: in a path, or in a checkpoint."""

    name: str
    path: Path | None
    source: Source | None = None
    runtime: Runtime | None = None

    @property
    def place(self) -> Path:
        assert self.path is not None
        return self.path


def run(config: ChatConfig, session: Session) -> None:
    """Chat, answer prompts, or serve."""
    # ── Find what is asked for, before anything is loaded ─────────────────────────────────────────────────────────────
    model = find(config.model.of, "model", config, session)
    draft = find(config.draft, "draft", config, session) if config.draft is not None else None
    prompts = read_prompts(Path(config.prompts).expanduser(), config.system) if config.prompts is not None else None
    if config.serve:
        serve(config, model, session)
        return
    batch, person = prompts is not None, sys.stdin is not None and sys.stdin.isatty()
    lines = {
        "model": f"{model.name}, by {model.runtime.name}" if model.runtime else f"{model.name}, built in memory",
        **({"draft": draft.name} if draft else {}),
        **({"system": config.system} if config.system else {}),
        "sampling": ", ".join(f"{key} {value}" for key, value in plain(config.sampling).items()),
        **({"prompts": f"{len(prompts):,} in {config.prompts}, answers to {answers_of(config)}"} if prompts else {}),
    }
    if batch or person or config.dry_run:
        announce("chat", lines)
    if config.dry_run:
        raise DryRun
    # ── Load, and talk ────────────────────────────────────────────────────────────────────────────────────────────────
    loaded = load(model, config)
    try:
        if draft is not None:
            loaded.draw_on(load(draft, config, draft=True))
        if prompts is not None:
            counts = answer_all(loaded, prompts, answers_of(config), config.sampling, config.model.of)
            say(
                f"   {counts['answered']:,} answers in {answers_of(config)}, {counts['kept']:,} of them from before; "
                f"{counts['tokens']:,} tokens; cut off {counts['cut']:,}; exchanges left out {counts['left_out']:,}"
            )
            return
        chat = Chat(loaded, config.system, config.sampling, interactive=person)
        if person:
            say(f"   {loaded.runtime}, {loaded.context:,} positions; /help lists commands, Ctrl-D ends\n")
            chat.loop(typed_lines(_HISTORY.expanduser()))
            say()
        elif sys.stdin is not None:
            chat.loop(piped_lines(sys.stdin))
    finally:
        loaded.close()


def answers_of(config: ChatConfig) -> Path:
    """The file that answers go to."""
    if config.answers is not None:
        return Path(config.answers).expanduser()
    prompts = Path(config.prompts or "").expanduser()
    return prompts.with_name(f"{prompts.stem}.answers.jsonl")


# ── Finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def find(text: str, key: str, config: ChatConfig, session: Session) -> Model:
    """Where the model lies, and what runs it. Args: key, under which it was named.

    Raises: ConfigError for what is no model, and for a runtime that is missing; ArtifactError for what the store lacks.
    """
    path = Path(text).expanduser()
    if path.exists() or path.suffix == ".gguf":
        return _of_path(text, path, key, config)
    reference = session.resolve(text)
    try:
        kind = Reference.parse(reference).kind
    except ConfigError:
        kind = ""
    if kind in TRAINED:
        return _of_checkpoint(reference, key, config, session.store)
    if kind in _DELIVERED:
        return _of_path(text, _folder_of(session.store, reference), key, config)
    raise ConfigError(
        f"{key}={text} is no path and no model of {session.store.uri}; expected a Hugging Face folder, a .gguf file, "
        f"{', '.join(f'{kind}/<name>' for kind in (*_DELIVERED, *TRAINED))}; there are: {_models(session.store)}"
    )


def _of_path(text: str, path: Path, key: str, config: ChatConfig) -> Model:
    if not path.exists():
        raise ConfigError(f"{key}={text}: there is no such file; expected a Hugging Face folder or a .gguf file")
    able = [row for row in RUNTIMES.values() if row.takes(path)]
    chosen = [row for row in able if config.program in (None, row.name)]
    if not chosen:
        if able:
            names = " or ".join(row.name for row in able)
            raise ConfigError(f"program={config.program} does not read {text}; {names} does: leave program out")
        raise ConfigError(
            f"{key}={text} holds no model that a runtime reads; expected a folder with config.json (transformers), or "
            "a .gguf file or a folder that holds one (llama.cpp)"
        )
    ready = [row for row in chosen if config.serve or row.missing() is None]
    if not ready:
        raise ConfigError(f"{text} needs {chosen[0].name}, which is not installed: {chosen[0].missing()}")
    return Model(text, path, runtime=ready[0])


def _of_checkpoint(reference: str, key: str, config: ChatConfig, store: ArtifactStore) -> Model:
    if config.serve:
        raise ConfigError(
            f"{key}={reference} is a checkpoint, and a server reads a file: python -m workflows.export "
            f"parent={reference} format=gguf"
        )
    if config.program not in (None, "transformers"):
        raise ConfigError(
            f"{key}={reference} is a checkpoint, which transformers runs; for {config.program} export it: python -m "
            f"workflows.export parent={reference} format=gguf"
        )
    checkpoint = open_run(store, reference)
    source = Source(checkpoint, tokens_of(store, checkpoint))
    tokenizer_settings(source)
    return Model(source.name, None, source)


def _folder_of(store: ArtifactStore, reference: str) -> Path:
    """The local folder of a delivered model, every file compared with its checksum."""
    artifact = store.get(reference)
    paths = [artifact.path(file) for file in artifact.manifest["files"]]
    folders = {path.parent for path in paths if path.name == "config.json" or path.suffix == ".gguf"}
    if len(folders) != 1:
        raise ArtifactError(f"{reference} holds no model that a program loads, neither config.json nor a .gguf file")
    return folders.pop()


def _models(store: ArtifactStore) -> str:
    """What the store holds that could answer."""
    names = [
        "/".join(name.split("/")[:2])
        for kind in (*_DELIVERED, *TRAINED)
        for name in sorted(store.storage.keys(kind))
        if name.count("/") == 2 and name.endswith("/manifest.json")
    ]
    return ", ".join(names) or "none"


# ── Loading and serving ───────────────────────────────────────────────────────────────────────────────────────────────


def load(model: Model, config: ChatConfig, draft: bool = False) -> Loaded:
    """The model in its runtime. A draft has all the positions that it was trained with."""
    context = None if draft else config.context
    settings = LoadSettings(threads=config.threads, dtype=config.dtype, context=context, at_most=_MOST_POSITIONS)
    if model.source is not None:
        source = model.source
        return in_memory(
            llama_config(source.model, "float32"),
            fold(source.weights(verify=True), source.model),
            guarded(source.tokens.path(TOKENIZER).read_text(encoding="utf-8")),
            TEMPLATE,
            EOS,
            settings,
            model.name,
        )
    assert model.runtime is not None
    return model.runtime.load(model.place, settings)


def serve(config: ChatConfig, model: Model, session: Session) -> None:
    """Start a server, say how to ask it, and wait until it or this command is ended."""
    assert model.runtime is not None
    port, token = usable_port(config.port), new_token()
    name = config.model.of.removesuffix(".gguf").rpartition("/")[2] or "model"
    serving = Serving(port=port, token=token, name=name, context=config.context, threads=config.threads)
    server = model.runtime.serve(model.place, serving)
    announce("serve", {"model": model.name, "program": server.program, "address": f"http://127.0.0.1:{port}/v1"})
    if config.dry_run:
        raise DryRun
    with running(server, port) as process:
        line = curl_line(port, token, name, asked_first(config, session))
        say(f"   token    {token}\n   it answers; ask it:\n\n{line}\n")
        if server.page is not None:
            say(f"   a page to chat: http://127.0.0.1:{port}{server.page} (it asks for the token)")
        say("   Ctrl-C ends it")
        try:
            code = process.wait()
        except KeyboardInterrupt:
            say("\n   ended")
            return
    raise ConfigError(f"the server ended by itself (exit code {code}): start it again")


def asked_first(config: ChatConfig, session: Session) -> str:
    """What the server may be asked: held-out text of the model's own data, where the store knows which that is."""
    with contextlib.suppress(TrunklineError):  # a path, or its parent is gone
        reference = session.resolve(config.model.of)
        if Reference.parse(reference).kind in _DELIVERED:
            source = open_source(session.store, session.store.get(reference).statistics["parent"])
            return sample_question(source.tokens, lineage(session.store, source.run.artifact)).text
    return "your question"


def written_out(words: Sequence[str]) -> list[str]:
    """`model=export/demo` as `model={of: …}`: Hydra would look for conf/model/export/demo.yaml."""
    written = []
    for word in words:
        key, equals, value = word.partition("=")
        if key.lstrip("+") == "model" and equals and not value.startswith("{"):
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            word = f"model={{of: '{quoted}'}}"
        written.append(word)
    return written


def main() -> None:
    """As `entry` says, with the model in the form in which Hydra takes it."""
    sys.argv[1:] = written_out(sys.argv[1:])
    entry(ChatConfig, run, "chat", uses_store=False)()


if __name__ == "__main__":
    main()
