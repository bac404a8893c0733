"""A folder for configs of your own, with comments to begin with, and the commands that run with it.

    trunkline new lab                            lab/, with README.md and conf/: corpus, mixture, model, experiment
    trunkline new lab ~/work/ours                the same in another folder

Enters: a name, and a folder that is not there yet or is empty. Leaves: YAMLs that state only what is different from
`+experiment=own`, each with what it is for; with the text that the corpus begins with all commands run at once. Nothing
that is there is changed.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from pipelines.display.progress import reopen_closed_streams, reword, say
from pipelines.errors import ConfigError, StorageError, TrunklineError
from workflows.command_line import places
from workflows.command_line.commands import as_typed, program

_README = """\
# {name}: configs of our own for Trunkline

`conf/` adds to Trunkline's own configs, and replaces none of them. Every command takes `--config-dir {conf}`, or once
for a shell `export TRUNKLINE_CONF=$PWD/{conf}`. `conf/experiment/{name}/` states what is different from
`+experiment=own`. Point `conf/corpus/{name}.yaml` at your data; until then a megabyte of code and problems stands in:

    trunkline corpus +experiment={name} --config-dir {conf}
    trunkline tokenize +experiment={name} --config-dir {conf}
    trunkline mixture +experiment={name} --config-dir {conf}
    trunkline pretrain +experiment={name} --config-dir {conf}
    trunkline anneal +experiment={name} --config-dir {conf}
    trunkline export +experiment={name} --config-dir {conf}

Each ends by naming the next; `dry_run=true` shows what it would do. `name=wide` at a stage is one more run on the same
data, beside the first. All in turn, to an exported model and a report:

    trunkline recipe +experiment={name} --config-dir {conf}
"""

_CORPUS = """\
# The corpus of {name}: where documents come from. Command: trunkline corpus +experiment={name} --config-dir {conf}
# conf/corpus/own_data.yaml, which Trunkline brings, shows every kind of source and what else may be set.
defaults:
  - rules@_here_: standard   # every threshold of cleaning and deduplication
  - _self_

sources:
  # These two stand in for your data: take them away.
  code:
    language: code
    content: code
    licence: PSF-2.0
    max_bytes: 600_000
    heldout: 0.1             # this share is kept out of training, to measure on
    reader: {{type: standard_library}}
  problems:
    language: en
    content: math
    licence: Apache-2.0
    duplicates: exact
    heldout: 0.05
    reader: {{type: generated, generator: english_problems, count: 1200, seed: 11}}

  # texts:                   # a name of your own: lower case, digits, - and _
  #   language: auto         # en, zh, ... or auto: detected for each document
  #   content: prose         # notes: lists, tables, how-tos, mails, diaries; the rules of prose drop most of them
  #   licence: CC-BY-4.0     # an SPDX name, or "unclear-upstream (why)"
  #   heldout: 0.02
  #   # a folder, a file or a glob, from where the command runs; or s3://bucket/prefix
  #   reader: {{type: files, path: data/texts}}
  # chats:
  #   kind: conversations
  #   language: en
  #   licence: CC-BY-4.0
  #   heldout: 0.05
  #   # lines of {{"messages": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]}}
  #   reader: {{type: files, path: data/chats.jsonl, record: messages}}
piece_bytes: 1_000_000       # of raw input for each task
"""

_MIXTURE = """\
# The mixture of {name}: how much of each source is read.
# Command: trunkline mixture +experiment={name} --config-dir {conf}
# As it stands, all sources are read equally often; weights of your own are their shares of the tokens.
defaults:
  - own_stable@_here_
  - _self_

name: {name}
# weights: {{code: 0.4, problems: 0.6}}
"""

_MODEL = """\
# A model of {name}'s own shape, for model={name}. Without it the largest is taken that the hours and the data allow.
defaults:
  - demo@_here_
  - _self_

layers: 4
d_model: 128                 # divisible by heads, and by dim_model_base for muP's scalings
d_ff: 320
heads: 4
kv_heads: 2
# vocabulary: 4096           # as many ids as the tokenizer of tokens/{name} has
"""

# workflow -> what it makes, entries of its defaults list, keys. What a stage reads is named, so that `name=wide` is one
# more run on the same data
_OVERLAYS = {
    "corpus": ("the corpus conf/corpus/{name}.yaml", ["override /corpus: {name}"], ""),
    "tokenize": (
        "corpus/{name} as tokens",
        [],
        "data: corpus/{name}\n# tokenizer: {{vocabulary_size: 4096}}   # else what the text can teach\n",
    ),
    "mixture": (
        "the mixture conf/mixture/{name}.yaml of tokens/{name}",
        ["override /mixture: {name}"],
        "tokens: tokens/{name}\n",
    ),
    "pretrain": (
        "the trunk",
        [],
        "data: mixture/{name}           # name=wide trains one more run on it\n"
        "hours: 0.05                  # model, batch and steps are what these and the data allow\n"
        "# schedule: {{peak_lr: 0.01}}\n",
    ),
    "anneal": (
        "the decay, off the trunk's last checkpoint",
        [],
        "parent: pretrain/{name}@latest\ndata: mixture/{name}\n",
    ),
    "sft": (
        "answers, learnt from the conversations of tokens/{name}",
        [],
        "parent: anneal/{name}\ndata: tokens/{name}\n# epochs: 3\n",
    ),
    "dpo": (
        "what is preferred, learnt from the pairs of tokens/{name}",
        [],
        "parent: sft/{name}\ndata: tokens/{name}\n",
    ),
    "evaluate": ("what is known of held-out documents, by source", [], ""),
    "quantize": (
        "the model in 4 bits, and what that costs",
        [],
        "parent: anneal/{name}\n# calibration: {{rows: 32}}\n",
    ),
    "export": ("a folder that transformers loads", [], "parent: anneal/{name}\n"),
    "recipe": ("all of these in turn, where there is data for them", [], "experiment: {name}\n"),
}
_OVERLAY = """\
# @package _global_
# Purpose: {purpose}.
# Command: trunkline {workflow} +experiment={name} --config-dir {conf}
defaults:
{defaults}
  - _self_

{keys}"""


def files(name: str, conf: str) -> dict[str, str]:
    """Path -> content of what a folder begins with. Args: conf, how commands name its folder of configs."""
    texts = {
        "README.md": _README,
        f"conf/corpus/{name}.yaml": _CORPUS,
        f"conf/mixture/{name}.yaml": _MIXTURE,
        f"conf/model/{name}.yaml": _MODEL,
    }
    made = {path: text.format(name=name, conf=conf) for path, text in texts.items()}
    for workflow, (purpose, overrides, keys) in _OVERLAYS.items():
        entries = [f"/experiment/own/{workflow}", *(override.format(name=name) for override in overrides)]
        own = f"parent: anneal/{name}\n" if workflow == "evaluate" else f"name: {name}\n"
        made[f"conf/experiment/{name}/{workflow}.yaml"] = _OVERLAY.format(
            purpose=purpose.format(name=name), workflow=workflow, name=name, conf=conf,
            defaults="\n".join(f"  - {entry}" for entry in entries), keys=own + keys.format(name=name),
        )  # fmt: skip
    return made


def make(name: str, folder: Path) -> list[str]:
    """Write the folder. Returns: the paths of its files.

    Raises: ConfigError for a name or a folder that will not do.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise ConfigError(
            f"new {name}: expected a name of lower-case letters, digits, _ and -, which becomes the name of an "
            f"experiment, e.g. {program('new')} lab"
        )
    ours = [f"conf/{kind}/{name}.yaml" for kind in ("corpus", "mixture", "model") if name in places.choices(kind)]
    if name in places.experiments():
        ours.append(f"conf/experiment/{name}")
    if ours:
        raise ConfigError(f"new {name}: Trunkline has {' and '.join(ours)} itself: choose another name")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            there = "is a file" if not folder.is_dir() else f"holds {_some(folder)}"
            raise ConfigError(f"new {name}: {folder} {there}: expected a folder that is not there yet, or is empty")
        made = files(name, shlex.quote(str(folder / "conf")))
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"new {name}: cannot write to {folder}: {error.strerror or error}") from error
    return list(made)


def _some(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def main() -> None:
    """`new NAME [FOLDER]`."""
    reopen_closed_streams()
    reword(as_typed)
    words = sys.argv[1:]
    try:
        if {"-h", "--help"} & set(words):
            say((__doc__ or "").strip())
            return
        if not words or len(words) > 2 or any(word.startswith("-") or "=" in word for word in words):
            came = " ".join(words) or "nothing"
            raise ConfigError(
                f"new {came}: expected a name, and a folder if it is another: {program('new')} lab [FOLDER]"
            )
        name = words[0].rstrip("/")
        folder = Path(words[1] if len(words) > 1 else name).expanduser()
        for path in make(name, folder):
            say(f"   {folder / path}")
        conf = shlex.quote(str(folder / "conf"))
        say(f"   {folder / 'README.md'} says how it goes on from there")
        say(f"   next: python -m workflows.corpus +experiment={name} --config-dir {conf}")
    except TrunklineError as error:
        print(f"error: {as_typed(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
