"""What the TAB key completes after `trunkline`: commands, experiments, groups, choices, keys, values.

    eval "$(trunkline completion bash)"          in ~/.bashrc; likewise zsh in ~/.zshrc
    trunkline completion fish | source           in ~/.config/fish/config.fish

Enters: the words of an unfinished command line. Leaves: what may stand in the place of the last. Read from the YAMLs
alone, ours and the lab's (`--config-dir`, TRUNKLINE_CONF): Hydra and torch would take seconds at every TAB. So a key's
values are known where its default is true or false, where it names a table, a group, an artifact or a file.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.display.progress import say
from pipelines.errors import TrunklineError
from workflows.command_line import places
from workflows.command_line.commands import TOOLS, staged, summary

_SCRIPTS = {
    "bash": r"""_trunkline_complete() {
    local IFS=$'\n'
    COMPREPLY=($("$1" completion candidates bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    case ${COMPREPLY[0]-} in *[=./,]) compopt -o nospace 2>/dev/null ;; esac
}
complete -F _trunkline_complete trunkline""",
    "zsh": r"""(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }
_trunkline_complete() {
    local -a found unfinished whole
    found=("${(@f)$(${(Q)words[1]} completion candidates zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    unfinished=(${(M)found:#*[=./,]}) whole=(${found:#*[=./,]})
    (( $#unfinished )) && compadd -Q -S '' -a unfinished
    (( $#whole )) && compadd -Q -a whole
    return 0
}
compdef _trunkline_complete trunkline""",
    "fish": r"""function __trunkline_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    $words[1] completion candidates fish $words[2..-1] "$current" 2>/dev/null
end
complete -c trunkline -f -a '(__trunkline_complete)'""",
}
_OPTIONS = ("--help", "--config-dir", "--cfg", "-m")
_CHANGES = ("refuse", "rebuild", "keep")
_SEPARATE = re.compile(r"([\s'\"$&;|<>(){}\[\]*?\\`!])")
# keys whose values are rows of a table, which is read as text too
_TABLES = {
    ("export", "format"): "pipelines.train.formats",
    ("quantize", "method"): "pipelines.train.quantization",
}
# keys that name an artifact
_REFERENCES = ("data", "parent", "tokens", "model", "known", "tokenizer.reuse", "evaluation")


def main() -> None:
    """`completion SHELL` prints what the shell is to run; `completion candidates SHELL …` answers it."""
    words = sys.argv[1:]
    if words[:1] == ["candidates"]:
        shell = words[1] if len(words) > 1 else ""
        # bash says where it splits words, and the line; others the words
        if shell in _SCRIPTS and (shell != "bash" or len(words) == 4):
            return _answer(shell, words[2:])
    if {"-h", "--help"} & set(words):
        return say((__doc__ or "").strip())
    if len(words) != 1 or words[0] not in _SCRIPTS:
        came = " ".join(words) or "nothing"
        print(
            f"error: completion {came}: expected one of {', '.join(_SCRIPTS)}, the shell that is to complete: "
            'eval "$(trunkline completion bash)"',
            file=sys.stderr,
        )
        sys.exit(2)
    return say(_SCRIPTS[words[0]])


def _answer(shell: str, words: list[str]) -> None:
    """Print the candidates, one a line, as the shell wants them."""
    breaks = ""
    if shell == "bash":  # which splits words at = and : itself, so it says the whole line
        breaks, line = words
        words = _split(line)[1:]
    found = candidates(words)
    cut = max((words[-1].rfind(mark) for mark in "=:" if mark in breaks), default=-1) + 1
    for candidate in found:
        told = f"\t{summary(candidate)}" if shell == "fish" and len(words) == 1 and candidate[0] != "-" else ""
        say((candidate[cut:] if shell == "fish" else _SEPARATE.sub(r"\\\1", candidate[cut:])) + told)


def _split(line: str) -> list[str]:
    """The words of an unfinished line: the last may be empty, or lack its closing quote."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return [*words, ""] if not closing and (not line or line[-1].isspace()) else words
    return line.split()


def candidates(words: list[str]) -> list[str]:
    """What may stand in the place of the last of the words that follow `trunkline`."""
    *before, current = words or [""]
    commands = [name for names in staged().values() for name in names]
    if not before or before == ["help"]:
        return _beginning(current, [*commands, *TOOLS, *(("--help", "--version") if not before else ())])
    workflow, *before = before
    if workflow == "completion":
        return _beginning(current, _SCRIPTS)
    if workflow == "submit":
        cut = [at for at, word in enumerate(before) if word.startswith("workflows.")]
        if cut:  # what is to run there
            workflow, before = before[cut[-1]].removeprefix("workflows."), before[cut[-1] + 1 :]
        elif "--" in before or current.startswith("w"):
            return _beginning(current, [f"workflows.{name}" for name in commands])
    if workflow not in commands:
        return _files(current, folders=True) if workflow == "new" else []
    if before and before[-1] in ("--config-dir", "-cd"):
        return _files(current, folders=True)
    if before and before[-1] in ("--cfg", "-c"):
        return _beginning(current, ["job", "hydra", "all"])
    try:
        typed = places.begin(before)
    except TrunklineError:  # told when the command runs
        typed = before
    if current.startswith("-"):
        return _beginning(current, _OPTIONS)
    config = Composed(workflow, typed)
    key, equals, value = current.partition("=")
    if equals:
        done, comma, last = value.rpartition(",")  # of a sweep, or of a list
        return [f"{key}={done}{comma}{choice}" for choice in config.values(key.lstrip("+~"), last)]
    return config.keys(current)


class Composed:
    """What the command line has chosen so far: keys with their defaults, groups with their choices."""

    def __init__(self, workflow: str, typed: Iterable[str]):
        self.workflow = workflow
        pairs = [word.lstrip("+~").partition("=") for word in typed]
        self.typed = {key: value for key, equals, value in pairs if equals}
        self.groups: set[str] = set()
        self.values_by_key: dict[str, Any] = {}
        self._chosen = {key: value for key, value in self.typed.items() if places.choices(key)}
        overlay = places.overlay(self.typed.get("experiment", ""), workflow)
        entries = _load(overlay).get("defaults") if overlay else None
        for entry in entries if isinstance(entries, list) else ():
            for name, choice in entry.items() if isinstance(entry, dict) else ():
                self._chosen.setdefault(str(name).removeprefix("override ").lstrip("/"), choice)
        self._add(f"{workflow}.yaml", "")
        if overlay:
            self._merge(
                self.values_by_key,
                {key: value for key, value in _load(overlay).items() if key not in ("defaults", "@global")},
            )

    def keys(self, current: str) -> list[str]:
        """Keys that begin as `current` does, to their next dot or their `=`."""
        signs = current[: len(current) - len(current.lstrip("+~"))]
        *path, start = current[len(signs) :].split(".")
        there: Any = self.values_by_key
        for name in path:
            there = there.get(name) if isinstance(there, dict) else None
        found = []
        for name, value in there.items() if isinstance(there, dict) else ():
            dotted = ".".join([*path, str(name)])
            if dotted in self.typed:
                continue
            found += [f"{dotted}."] if isinstance(value, dict) else [f"{dotted}="]
        if not path:
            found += [f"{group}=" for group in self.groups if f"{group}=" not in found and group not in self.typed]
            if "experiment" not in self.typed and places.experiments(self.workflow):
                found.append("experiment=" if signs else "+experiment=")
        return [f"{signs}{name}" for name in sorted(found) if name.startswith(".".join([*path, start]))]

    def values(self, key: str, start: str) -> list[str]:
        """Values that begin as `start` does, of a key."""
        if key == "experiment":
            return _beginning(start, places.experiments(self.workflow))
        if key in self.groups:
            return _beginning(start, places.choices(key) or places.choices(key, deep=True))
        there: Any = self.values_by_key
        for name in key.split("."):
            there = there.get(name) if isinstance(there, dict) else None
        if isinstance(there, bool):
            return _beginning(start, ["true", "false"])
        if key == "on_change":
            return _beginning(start, _CHANGES)
        if table := _TABLES.get((self.workflow, key)):
            from pipelines.store.code import rows

            return _beginning(start, rows(table))
        if isinstance(there, (int, float)):
            return []
        if key in _REFERENCES and (references := self._artifacts(start, there)):
            return references
        return _files(start)

    def _artifacts(self, start: str, default: Any) -> list[str]:
        """The finished artifacts of a store that is a folder; where the default says of which kind, of that kind."""
        store = Path(self.typed.get("store") or os.environ.get("TRUNKLINE_STORE") or "store")
        kind = default.partition("/")[0] if isinstance(default, str) and "/" in default else "*"
        found = (str(path.parent.relative_to(store)) for path in store.glob(f"{kind}/*/manifest.json"))
        return _beginning(start, sorted(found))

    def _add(self, relative: str, package: str) -> None:
        """What a YAML and those that its defaults list name say, under the dotted path that it has in the config."""
        path = places.find(relative)
        if path is None:
            return
        content = _load(path)
        if content.pop("@global", False):
            package = ""
        folder = relative.rpartition("/")[0]
        for entry in content.pop("defaults", None) or []:
            if isinstance(entry, str):
                if entry != "_self_":
                    above = f"{folder}/" if folder and not entry.startswith("/") else ""
                    self._add(f"{above}{entry.lstrip('/').partition('@')[0]}.yaml", package)
                continue
            for name, choice in entry.items() if isinstance(entry, dict) else ():
                self._choose(str(name), choice, folder, package)
        scope = self.values_by_key
        for name in filter(None, package.split(".")):
            scope = _inner(scope, name)
        self._merge(scope, content)

    def _choose(self, name: str, choice: Any, folder: str, package: str) -> None:
        """One `group: choice` of a defaults list."""
        if name.startswith("override "):
            return
        group, at, target = name.lstrip("/").partition("@")
        whole = group if name.startswith("/") or not folder or folder == "base" else f"{folder}/{group}"
        if at:
            under = package if target == "_here_" else "" if target == "_global_" else target
        else:
            under = ".".join(filter(None, [package, whole.replace("/", ".") if not package else group]))
        if not at and "/" not in whole:
            self.groups.add(whole)
        for chosen in choice if isinstance(choice, list) else [choice]:
            self._add(f"{whole}/{self._chosen.get(whole, chosen)}.yaml", under)

    def _merge(self, into: dict[str, Any], content: Mapping[str, Any]) -> None:
        for key, value in content.items():
            if isinstance(value, dict):
                self._merge(_inner(into, key), value)
            elif value is not None or not isinstance(into.get(key), dict):
                into[key] = value


def _inner(scope: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping under a key, in the place of what is no mapping."""
    if not isinstance(scope.get(key), dict):
        scope[key] = {}
    inner: dict[str, Any] = scope[key]
    return inner


def _load(path: Path) -> dict[str, Any]:
    """A YAML's mapping; nothing where it cannot be read, which the command itself tells."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {**content, "@global": True} if "@package _global_" in text.partition("\n\n")[0] else content


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(start)]


def _files(start: str, folders: bool = False) -> list[str]:
    """Files and folders that are there, a folder with its slash; hidden ones where a dot was typed."""
    above, _, name = start.rpartition("/")
    folder = Path(above + "/" if start.startswith("/") or above else ".").expanduser()
    prefix = f"{above}/" if "/" in start else ""
    try:
        there = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        f"{prefix}{path.name}{'/' if path.is_dir() else ''}"
        for path in there
        if path.name.startswith(name) and (name.startswith(".") or not path.name.startswith("."))
        if path.is_dir() or not folders
    ]


if __name__ == "__main__":
    main()
