"""The words of a command line, before Hydra: what is no override, and what was meant by it.

Enters: the words as typed, and the config class of the command. Leaves: nothing, or a ConfigError that says what to
write. Hydra's own options stay but for those that leave our YAMLs unread; its rerun option has a name of which
`--experiment` is taken for the beginning, so that what is no option is refused here.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.config import hints, parts_of
from pipelines.errors import ConfigError
from workflows.command_line import foreign, places

_FLAGS = ("-m", "--multirun", "--resolve", "--help", "-h", "--version", "--hydra-help", "--run", "-r",
          "--shell-completion", "-sc")  # fmt: skip
_JOB = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# options with a value, and the values; none where any will do
_CHOICES: dict[str, tuple[str, ...]] = {
    "--cfg": _JOB, "-c": _JOB, "--info": _INFO, "-i": _INFO, "--package": (), "-p": (),
}  # fmt: skip
_BARE = ("--info", "-i")  # may do without
_TOLD = "--help, --version, --config-dir lab/conf, --cfg job and -m"
_CONFIG_WORDS = ("config", "config_name", "config_path", "config_file", "cn", "cp", "conf", "yaml", "cfg_file")
# what editors, chats and PDF files make of -
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d"
_QUOTES = {"“": '"', "”": '"', "„": '"', "‟": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'"}


def check_typed(config_class: type, workflow: str, typed: Sequence[str]) -> None:
    """Look at every word. Raises: ConfigError for the first that is no override and no option, with what to write."""
    words = _Words(config_class, workflow, typed)
    place = 0
    while place < len(typed):
        place += words.check(place)


def typed_again(typed: Sequence[str]) -> list[str]:
    """A line for each key that is typed more than once, with other values: Hydra takes the last without a word."""
    values: dict[str, list[str]] = {}
    for word in typed:
        key, equals, value = word.partition("=")
        if equals and key[:1] not in ("-", "~"):
            values.setdefault(key.lstrip("+"), []).append(value)
    return [
        f"{key} is typed {len(given)} times: the last counts, {key}={given[-1]}"
        for key, given in values.items()
        if len(set(given)) > 1
    ]


def check_keys(config_class: type, typed: Sequence[str]) -> None:
    """The same of overrides alone, as a recipe's stages and a study have them. Raises: ConfigError."""
    check_typed(config_class, "", typed)


def quoted(word: str) -> str:
    """An override with its value in the quotes that Hydra needs, as it is typed into a shell."""
    key, _, value = word.partition("=")
    if (quote := value[:1]) in ("'", '"'):
        value = value[1:].removesuffix(quote)
    # a backslash escapes nothing but a quotation mark, and itself before one
    value = re.sub(r'(\\*)("|$)', lambda end: end[1] * 2 + ("\\" + end[2] if end[2] else ""), value)
    text = f'{key.strip()}="{value}"'
    return f"'{text}'" if "'" not in text else '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


class _Words:
    """A command line, of which each word is asked for with its neighbours."""

    def __init__(self, config_class: type, workflow: str, typed: Sequence[str]):
        self.config_class, self.workflow, self.typed = config_class, workflow, typed
        self.fields = {field.name: field.type for field in dataclasses.fields(config_class)}

    def check(self, place: int) -> int:
        """How many words are told by the one at `place`. Raises: ConfigError."""
        word = self.typed[place]
        option, equals, value = word.partition("=")
        if word[:1] and word[0] in _DASHES:
            plain = re.sub(f"^[{_DASHES}]+", lambda dashes: "-" * max(2, len(dashes[0])), word)
            raise ConfigError(
                f"{word}: begins with {word[0]}, which a text editor makes of a dash (-): {self._option(plain, place)}"
            )
        if strange := next((sign for sign in word if sign in _QUOTES), None):
            straight = "".join(_QUOTES.get(sign, sign) for sign in word)
            bare = straight.replace('"', "").replace("'", "")
            raise ConfigError(
                f"{word}: {strange} is a quotation mark of a text editor, not of a shell: write "
                f"{bare if ' ' not in bare else quoted(bare)}"
            )
        if word in _FLAGS:
            return 1
        if option in _CHOICES:
            return self._choice(option, value if equals else None, place)
        if word[:1] == "-":
            raise ConfigError(f"{word}: {self._option(word, place)}")
        if not equals and word[:1] != "~":
            raise ConfigError(self._stray(word, place))
        if not option.strip("+~. "):
            before, after = self._neighbours(place)
            joined = f": write {before}={value or after}" if before and (value or after) else ""
            raise ConfigError(f"{word!r}: expected key=value, without spaces around the ={joined}")
        if option.lstrip("+~").split(".")[0].split("/")[0].strip() == "hydra":
            raise ConfigError(_of_hydra(word))
        if option != option.strip():
            raise ConfigError(f"{word!r}: write {option.strip()}={value.strip()}, without spaces around the =")
        if (meant := self._plainly(option)) is not None:
            raise ConfigError(f"{word}: {option} is no key: did you mean {meant}={value}?")
        return 1

    def _plainly(self, option: str) -> str | None:
        """A key of ours that was written in another's way, `BATCH/micro-batch`; None for what is none, or is right."""
        key = option.lstrip("+~")
        plain = re.sub(r"[/:.]+", ".", key).strip(".,;").replace("-", "_")
        for guess in (plain, plain.lower()):
            if guess != key and "@" not in key and foreign.has(self.config_class, guess):
                return f"{option[: len(option) - len(key)]}{guess}"
        return None

    def _choice(self, option: str, value: str | None, place: int) -> int:
        """An option that takes a value, in its word or in the next."""
        accepted, length = _CHOICES[option], 1
        if value is None:
            following = self.typed[place + 1] if place + 1 < len(self.typed) else ""
            if following and following[0] not in "-+~" and "=" not in following:
                value, length = following, 2
            elif option in _BARE:
                return 1
        if value is None or (accepted and value not in accepted):
            came = "nothing" if value is None else value
            raise ConfigError(f"{option}: {came} came; expected {option} {' or '.join(accepted or ('<key>',))}")
        if not accepted and not value.startswith(("hydra", "_")) and (there := _beside(self.config_class, value)):
            raise ConfigError(
                f"{option}: {value} is no key of {self.workflow}; expected the one to be shown: {', '.join(there)}"
            )
        return length

    def _neighbours(self, place: int) -> tuple[str, str]:
        """The words beside one, "" where there is none, or one that stands for itself."""
        before = self.typed[place - 1] if place else ""
        after = self.typed[place + 1] if place + 1 < len(self.typed) else ""
        return ("" if "=" in before or before[:1] == "-" else before), ("" if "=" in after else after)

    def _option(self, word: str, place: int) -> str:
        """What is said of a word with dashes that is none of the options."""
        key, equals, value = word.lstrip("-").partition("=")
        after = self._neighbours(place)[1]
        if not equals and after[:1] not in ("-", "+", "~", ""):
            value = after
        name = key.replace("-", "_")
        first = name.split(".")[0]
        if name in ("e", "exp") or (name and "experimental_rerun".startswith(name)):
            return f"an experiment is chosen with a + and no dashes: {self._experiment(value)}"
        if name in _CONFIG_WORDS:
            own = f"the command reads conf/{self.workflow}.yaml; what you want otherwise is key=value, or "
            return f"{own}an overlay in a folder of yours: --config-dir lab/conf +experiment=<name>"
        if name.lower() in ("help", "usage", "h", "?"):
            return "write --help"
        if name in ("version", "V"):
            return "write --version"
        if first in self.fields:
            return f"keys are written without dashes: {name}={self._value(first, value)}"
        if (said := foreign.ours(self.config_class, key, value)) is not None:
            return f"keys are written without dashes, and {said}"
        if name in places.experiments():
            return f"did you mean +experiment={name}?"
        known = [*_FLAGS, *_CHOICES, "--config-dir"]
        close = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.75)
        similar = difflib.get_close_matches(name, self.fields, n=1)
        meant = f": did you mean {close[0]}?" if close else f": did you mean {similar[0]}=…?" if similar else ""
        return f"no option; there are {_TOLD}, and keys are written without dashes, key=value{meant}"

    def _stray(self, word: str, place: int) -> str:
        """What is said of a word without = that is no option."""
        before = self.typed[place - 1] if place else ""
        after = self.typed[place + 1] if place + 1 < len(self.typed) else ""
        plain = word.lstrip("+")
        key, colon, value = plain.partition(":")
        if after.startswith("="):  # name = x, name =x
            value = after[1:] or (self.typed[place + 2] if place + 2 < len(self.typed) else "…")
            return f"{word} {after}: expected key=value, without spaces around the =: write {word}={value}"
        if any(before.count(opening) > before.count(closing) for opening, closing in ("[]", "{}")):
            return f"{before} {word}: the shell cuts at a space: put the whole in quotes, '{before} {word} …'"
        if before.endswith("="):
            return f"{before} {word}: expected key=value, without spaces around the =: write {before}{word}"
        if colon and key.strip() in (*self.fields, "experiment"):
            sign = "+" if key.strip() == "experiment" else ""
            return f"{word!r}: keys are written with =: {sign}{key.strip()}={value.strip() or after or '…'}"
        follows = "" if "=" in after or after[:1] in ("-", "+", "~") else after
        if plain == "experiment":
            return f"{word}: which one? {self._experiment(follows)}"
        if plain in ("help", "version"):
            return f"{word}: write --{plain}"
        if plain in self.fields or plain.replace("-", "_") in self.fields:
            name = plain.replace("-", "_")
            return f"{word}: a key takes a value: write {name}={self._value(name, follows)}"
        if word in places.experiments(self.workflow or None):
            return f"{word}: did you mean +experiment={word}?"
        if word.removeprefix("workflows.") in places.workflows() and self.workflow == "submit":
            name = word.removeprefix("workflows.")
            return f"{word}: what is to run there stands behind --: python -m workflows.submit -- workflows.{name} …"
        actions = [str(one) for one in typing.get_args(hints(self.config_class).get("action"))]
        if plain in actions:
            return f"{word}: the command does one of {', '.join(actions)} at a time, the first word behind it"
        if near := difflib.get_close_matches(plain, actions, n=1, cutoff=0.5):
            return f"{word}: did you mean {near[0]}? There are {', '.join(actions)}"
        if word.removeprefix("workflows.") in places.workflows():
            return f"{word} is another command, and one is run at a time: trunkline {word.removeprefix('workflows.')} …"
        if word.endswith((".yaml", ".yml")):
            own = f"no file of configs is named on a command line: {self.workflow} reads conf/{self.workflow}.yaml"
            return f"{word}: {own}; an overlay of yours is chosen with --config-dir lab/conf +experiment=<name>"
        if (said := foreign.ours(self.config_class, plain, follows)) is not None:
            return said
        takes = self._takes(word)
        close = difflib.get_close_matches(plain, places.experiments(self.workflow or None), n=1, cutoff=0.75)
        meant = takes or (f": did you mean +experiment={close[0]}?" if close else "")
        return f"{word!r} is no key=value and no option; expected e.g. +experiment=smoke name=mine{meant}"

    def _takes(self, word: str) -> str:
        """Which key would take a word by itself: a reference, a path, what is to be asked."""
        is_there = bool(word) and os.path.exists(word)  # which takes any length, as Path.exists does not
        if re.fullmatch(r"[a-z_]+/\w[\w.-]*(@[\w-]+)?", word) or is_there:
            of_data = word.split("/")[0] in ("corpus", "tokens", "mixture") or is_there
            order = ("data", "tokens", "file") if of_data else ("parent", "model", "run", "data")
            keys = [key for key in order if key in self.fields]
            return f": did you mean {keys[0]}={word}?" if keys else ""
        if "prompts" in self.fields:
            return f"; to ask one thing: echo {shlex.quote(word)} | trunkline {self.workflow}"
        return ""

    def _experiment(self, value: str) -> str:
        """What to write to choose an experiment."""
        there = places.experiments(self.workflow or None)
        name = value.strip("'\"")
        close = difflib.get_close_matches(name, there, n=1)
        chosen = name if name in there else close[0] if close else "<name>"
        return f"+experiment={chosen}" + (f" (there are {', '.join(there)})" if name not in there else "")

    def _value(self, field: str, value: str) -> str:
        """The value that a key takes, as far as it is known."""
        return value or ("true" if self.fields[field] in (bool, "bool") else "…")


def _beside(config_class: type, path: str) -> list[str]:
    """The keys of which one had to stand where the path has none, by the types; none where it may be right."""
    hint: Any = config_class
    at = ""
    for part in path.split("."):
        parts = parts_of(hint)
        if parts and part not in parts:
            return [f"{at}{name}" for name in difflib.get_close_matches(part, parts, n=3) or parts]
        hint = parts.get(part)
        at += f"{part}."
    return []


def _of_hydra(word: str) -> str:
    """What is said of a setting of Hydra's own: what it was for is done in another way here, or by nobody."""
    key, _, value = word.lstrip("+~").partition("=")
    name = key.replace("/", ".").removeprefix("hydra").lstrip(".")
    instead = next((said for begin, said in _HYDRA.items() if name.startswith(begin)), "")
    if name.startswith("job.name"):
        instead = f"an artifact's name is set by name={value or '…'}"
    return f"{word}: " + (instead or f"Hydra's own settings are left alone{_LEFT_ALONE}")


_LEFT_ALONE = "; of them only hydra.searchpath=[file://lab/conf] is taken, as --config-dir lab/conf"
# the beginning of a name -> what takes its place
_HYDRA = {
    **dict.fromkeys(
        ("launcher",),
        "the arms of a sweep run side by side by themselves, as many as the cluster has room for: "
        "cluster.workers, cluster.cpus_per_worker and cluster.gpus_per_worker say what each takes; leave it out",
    ),
    "sweeper": "a sweep is every combination of the values listed; leave it out (a search by Optuna is a study "
    "of workflows.sandbox, with search:)",
    **dict.fromkeys(
        ("run", "sweep", "output", "job.chdir"),
        "Hydra writes nothing here; what a command makes goes into the store under its name: set store= and name=",
    ),
    "mode": "write -m for a sweep, and nothing for one run",
    **dict.fromkeys(
        ("verbose", "job_logging", "hydra_logging", "help"),
        "what is printed cannot be chosen; dry_run=true prints the plan alone",
    ),
}


def bad_word(text: str, typed: Iterable[str]) -> str:
    """What is said of the override that Hydra cannot read: mostly a value with signs that its grammar keeps for itself.

    Args: text, of its error, told where it is none of the words typed.
    """
    word = next((word for word in typed if "=" in word and word[:1] != "-" and not _readable(word)), "")
    if not word:
        return f"{text}: expected key=value, in quotes where the shell would change it, e.g. 'key=[1,2]'"
    key, _, value = word.partition("=")
    if (bare := value.strip(",;= ")) != value and _readable(f"{key}={bare}"):
        stray = "".join(dict.fromkeys(sign for sign in value if sign in ",;="))
        return f"{word}: {stray} stands there too often: write {key}={bare}"
    if value.count("${") > value.count("}"):
        return f"{word}: ${{ has no }}: write '{word}}}'"
    if (call := re.match(r"(\w+)\(", value)) and _readable(f"{key}={call[1]}"):
        return (
            f"{word}: expected choice(a,b), range(first,end,step) or glob(*), each with -m, or a value without "
            f"brackets; a text with them is written {quoted(word)}"
        )
    for opening, closing in ("[]", "{}", "()"):
        if value.startswith(opening) and value.count(opening) != value.count(closing):
            return f"{word}: {opening} has no {closing}: put the whole in quotes for the shell, '{word}{closing}'"
    if (quote := value[:1]) in ("'", '"') and value.count(quote) % 2:
        return f"{word}: the quotation mark {quote} is not closed: close it, or write {quoted(word)}"
    if value[:1] in ("[", "{"):
        fewer = re.sub(r",(\s*[\]}])", r"\1", re.sub(r"([\[{,]\s*),+", r"\1", value))
        colons = re.sub(r"([\w.-]+)\s*=\s*", r"\1: ", fewer)
        for better in (fewer, colons) if value[:1] == "{" else (fewer,):
            if better != value and _readable(f"{key}={better}"):
                return f"{word}: cannot be read: write '{key}={better}'"
        return (
            f"{word}: cannot be read; a list is 'key=[1,2]' and a mapping 'key={{a: 1}}', a text in them "
            "takes quotes of its own"
        )
    signs = "".join(dict.fromkeys(sign for sign in value if not re.match(r"[\w./:@%+?*\\ -]", sign, re.ASCII)))
    which = f"because of the {signs} in it " if signs else ""
    return f"{word}: {which}the value takes quotes of its own: write {quoted(word)}"


def _readable(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_overrides([word])
    except HydraException:
        return False
    return True
