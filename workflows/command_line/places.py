"""Where the YAMLs of all commands lie: ours, and beside them a lab's own.

Enters: a command line and its environment. Leaves: folders in the order in which Hydra looks, and what is in them. A
lab's folder is laid out as ours is (`model/`, `mixture/`, `corpus/`, `experiment/<name>/<workflow>.yaml`) and adds to
it: a file of the lab's may not have the path of one of ours, which would leave one of the two unread.

    --config-dir lab/conf              for one command; may be given several times
    TRUNKLINE_CONF=lab/conf            for all of a shell's, several with : between them
    hydra.searchpath=[file://lab/conf] Hydra's own way

`begin` takes the first and the last out of the command line: Hydra is told of them by one override (`override`), so
that whoever composes (a command, a recipe's stages, a study) looks in the same places. A printed command repeats what
was typed (`words`).
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import ConfigError

_HERE = Path(__file__).absolute().parents[1]
# in a clone it stands beside the packages, in an installed wheel within this one
SHIPPED = next((path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir()), _HERE.parent / "conf")
VARIABLE = "TRUNKLINE_CONF"
_OPTIONS = ("--config-dir", "-cd")
_labs: tuple[Path, ...] = ()
_typed: tuple[str, ...] = ()


def begin(arguments: Sequence[str]) -> list[str]:
    """Look from now on where a command line and the environment say. Returns: the command line without that.

    Raises: ConfigError for a folder that is none, or holds a file under the path of another.
    """
    rest, folders = _taken(arguments)
    named = [(part, VARIABLE) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    use([*folders, *named])
    global _typed
    _typed = tuple(folder for folder, _ in folders)
    return rest


def use(folders: Iterable[tuple[str, str]]) -> None:
    """Look in these folders beside our own. Args: each with what named it, for the complaint. Raises: ConfigError."""
    global _labs, _typed
    _labs, _typed = (), ()
    for folder, named_by in folders:
        path = Path(folder).expanduser().absolute()
        if path.resolve() in {known.resolve() for known in all_folders()}:
            continue
        _check_folder(path, f"{named_by}={folder}" if named_by == VARIABLE else f"{named_by} {folder}")
        _labs = (*_labs, path)


def all_folders() -> tuple[Path, ...]:
    """Ours, then the lab's."""
    return (SHIPPED, *_labs)


def labs() -> tuple[Path, ...]:
    """The lab's folders alone."""
    return _labs


def words() -> list[str]:
    """What a printed command needs to look in the same places: what was typed, not what the environment says."""
    return [word for folder in _typed for word in ("--config-dir", folder)]


def written_to() -> Path:
    """Where a config that a command writes belongs: the lab's folder, else ours, in a clone.

    Raises: ConfigError where ours is inside an installed package, which the next installation replaces.
    """
    if not _labs and SHIPPED.parent == _HERE:
        raise ConfigError(
            f"into=conf would write among the installed configs of {SHIPPED}: name a folder of your own, "
            "--config-dir lab/conf"
        )
    return _labs[0] if _labs else SHIPPED


def override() -> list[str]:
    """What tells Hydra of the lab's folders."""
    quoted = ["'file://{}'".format(str(path).replace("\\", "\\\\").replace("'", "\\'")) for path in _labs]
    return [f"hydra.searchpath=[{','.join(quoted)}]"] if _labs else []


# ── What lies there ───────────────────────────────────────────────────────────────────────────────────────────────────


def find(relative: str) -> Path | None:
    """The file of that path, e.g. `model/demo.yaml`; None where no folder has one."""
    return next((folder / relative for folder in all_folders() if (folder / relative).is_file()), None)


def choices(group: str, deep: bool = False) -> list[str]:
    """The names that `group=` takes, in order. Args: deep, those in folders of the group as well."""
    names = set()
    for folder in all_folders():
        root = folder / group
        files = root.rglob("*.yaml") if deep else root.glob("*.yaml")
        names |= {str(path.relative_to(root).with_suffix("")) for path in files}
    return sorted(names)


def elsewhere(name: str) -> str:
    """The file of a lab's that has the name of a choice, for a complaint that its group has none; "" for none."""
    files = (
        path
        for folder in _labs
        for path in sorted(folder.rglob(f"{glob.escape(name)}.yaml"))
        if "experiment" not in path.relative_to(folder).parts
    )
    return next((shown(path) for path in files), "")


def groups() -> list[str]:
    """Names of the folders of choices, `experiment` among them."""
    folders = (path for folder in all_folders() for path in folder.iterdir() if path.is_dir())
    return sorted({path.name for path in folders} - {"__pycache__", ".git"})


def workflows() -> list[str]:
    """The commands that have a YAML."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def experiments(workflow: str | None = None) -> list[str]:
    """Names of experiments; of those with an overlay for the workflow."""
    return sorted(
        {path.parent.name for folder in all_folders() for path in folder.glob(f"experiment/*/{workflow or '*'}.yaml")}
    )


def overlay(experiment: str, workflow: str) -> Path | None:
    """The overlay of an experiment for a workflow, None where it has none."""
    return find(f"experiment/{experiment}/{workflow}.yaml")


def overlays(experiment: str) -> list[str]:
    """The workflows for which an experiment has an overlay."""
    return sorted({path.stem for folder in all_folders() for path in folder.glob(f"experiment/{experiment}/*.yaml")})


def shown(path: Path) -> str:
    """A path as a person would name it: from where they stand, ours as conf/…"""
    if path.is_relative_to(SHIPPED):
        return f"conf/{path.relative_to(SHIPPED)}"
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


# ── What may be wrong there ───────────────────────────────────────────────────────────────────────────────────────────


def place_of(key: str, overlay: Path) -> str:
    """` (file:line)` of a key's first word in an overlay, for a complaint; "" where it does not stand there."""
    first = re.split(r"[.\[]", key)[0]
    lines = enumerate(overlay.read_text(encoding="utf-8").splitlines(), 1)
    number = next((n for n, line in lines if re.match(rf"{re.escape(first)}\s*:", line)), None)
    return "" if number is None else f" ({shown(overlay)}:{number})"


def check_overlay(path: Path, workflow: str) -> None:
    """Raises: ConfigError, with the file and the line, for an overlay that would not do what it says."""
    text = _text(path)
    values = _mapping(path, text)
    if text.startswith("\ufeff"):
        raise ConfigError(
            f"{shown(path)}:1: begins with a byte order mark, behind which `# @package _global_` is not read: save it "
            "as UTF-8 without one"
        )
    if "hydra" in values:
        raise ConfigError(
            f"{shown(path)}:{_line(text, 'hydra')}: Hydra's own settings are left alone: leave hydra out (a folder of "
            "configs is named by --config-dir)"
        )
    header = [line.strip() for line in text.splitlines()]
    for line in header:
        if line and not line.startswith("#"):
            header = []
            break
        if re.fullmatch(r"#\s*@package\s+_global_", line):
            break
    else:
        header = []
    if not header:
        raise ConfigError(
            f"{shown(path)}:1: an overlay begins with the line `# @package _global_`, without which its keys would lie "
            "under `experiment` and be read by nobody: put it first"
        )
    defaults = values.get("defaults", [])
    strange = [entry for entry in defaults if not isinstance(entry, (str, dict))] if isinstance(defaults, list) else []
    if strange or not isinstance(defaults, list):
        came = strange[0] if strange else "empty" if defaults is None else type(defaults).__name__
        raise ConfigError(
            f"{shown(path)}:{_line(text, 'defaults')}: defaults is {came}; expected a list, e.g. "
            "`defaults: [{override /model: demo}]`"
        )
    _check_defaults(path, text, defaults, workflow)


def _check_defaults(path: Path, text: str, defaults: list[Any], workflow: str) -> None:
    """The entries of a defaults list. Raises: ConfigError."""
    overridden: set[str] = set()
    for entry in defaults:
        at = f"{shown(path)}:{_line(text, entry if isinstance(entry, str) else next(iter(entry), ''))}"
        if isinstance(entry, str):
            if entry == "_self_" and defaults.count(entry) > 1:
                raise ConfigError(f"{at}: _self_ stands {defaults.count(entry)} times in defaults: keep one")
            if entry.startswith("override "):
                group, _, choice = entry.removeprefix("override ").strip().partition(":")
                raise ConfigError(f"{at}: `{entry}` has no space behind its colon: write `override {group}: {choice}`")
            if not entry.startswith(("_self_", "optional ")) and "${" not in entry:
                _check_built_on(path, at, entry)
            if entry != "_self_" and overridden:
                raise ConfigError(
                    f"{at}: `{entry}` stands behind `{min(overridden)}`: overrides come last, but for _self_"
                )
            continue
        for key, choice in entry.items():
            _check_choice(path, text, str(key), choice, workflow)
            if str(key) in overridden:
                raise ConfigError(f"{at}: `{key}` stands twice in defaults, with two choices: keep one")
            if str(key).startswith("override "):
                overridden.add(str(key))


def _check_built_on(path: Path, at: str, entry: str) -> None:
    """An overlay that another builds on is there, and does not build on that in turn. Raises: ConfigError."""
    # what is named, and the files that lead to it: one may be built on in two ways
    waiting: list[tuple[str, tuple[Path, ...]]] = [(entry, (path,))]
    while waiting:
        named, trail = waiting.pop()
        base, named = trail[-1], named.split("@")[0].removesuffix(".yaml")
        folder = next(folder for folder in all_folders() if base.is_relative_to(folder))
        relative = named[1:] if named[:1] == "/" else str(base.parent.relative_to(folder) / named)
        built_on = find(f"{relative}.yaml")
        if built_on is None and base == path:
            group, _, _ = relative.rpartition("/")
            near = [f"/experiment/{name}" for name in choices("experiment", deep=True)]
            close = difflib.get_close_matches(f"/{relative}", near, n=1)
            raise ConfigError(
                f"{at}: `{entry}`: there is no {relative}.yaml"
                + (f": did you mean {close[0]}?" if close else f"; expected a file of {group or 'experiment'}/")
            )
        if built_on is None:
            continue
        if built_on in trail:
            raise ConfigError(
                f"{at}: `{entry}` leads back to {shown(built_on)} itself: name the overlay that this one builds on, "
                f"e.g. /experiment/own/{path.stem}"
            )
        inner = _mapping(built_on, _text(built_on)).get("defaults") or []
        if isinstance(inner, list):
            waiting += [(one, (*trail, built_on)) for one in inner if isinstance(one, str) and one[:1] == "/"]


def read(path: Path) -> dict[str, Any]:
    """What a YAML says. Raises: ConfigError, with the file and the line, for what is none."""
    return _mapping(path, _text(path))


def with_package() -> str:
    """What is said of a lab's choice that begins as an overlay does; "" where there is none."""
    for folder in _labs:
        for group in groups():
            for path in sorted((folder / group).rglob("*.yaml")) if group != "experiment" else ():
                if re.search(r"^#\s*@package\s+_global_", _text(path), re.MULTILINE):
                    return (
                        f"{shown(path)}: a choice of {group} lies under {group} by itself: leave the line "
                        "`# @package _global_` out"
                    )
    return ""


def mistake() -> str | None:
    """The first thing wrong with any of the lab's files, in a sentence: asked when composing has failed."""
    for folder in _labs:
        for group in groups():
            for path in sorted((folder / group).rglob("*.yaml")):
                try:
                    _mapping(path, _text(path))
                except ConfigError as error:
                    return str(error)
    return None


def _check_choice(path: Path, text: str, key: str, choice: object, workflow: str) -> None:
    """One `group: choice` of a defaults list."""
    said = key.removeprefix("override ").strip()
    group = said.lstrip("/").split("@")[0]
    at = f"{shown(path)}:{_line(text, key)}"
    if group not in groups() and not any((folder / group).is_dir() for folder in all_folders()):
        close = difflib.get_close_matches(group, groups(), n=1)
        raise ConfigError(
            f"{at}: `{key}: {choice}`: there is no group {group}; there are {', '.join(groups())}"
            + (f": did you mean {close[0]}?" if close else "")
        )
    if not said.startswith("/"):
        raise ConfigError(
            f"{at}: `{key}: {choice}` would be looked for beside the overlay: write `override /{group}: {choice}`"
        )
    if not key.startswith("override ") and group in chosen_by(workflow):
        raise ConfigError(
            f"{at}: {workflow} has chosen its {group} already, so that `{key}: {choice}` would be a second: write "
            f"`override /{group}: {choice}`"
        )
    for name in choice if isinstance(choice, list) else [choice]:
        if isinstance(name, str) and "${" not in name and find(f"{group}/{name}.yaml") is None:
            there = choices(group) or choices(group, deep=True)
            close = difflib.get_close_matches(name, there, n=1)
            raise ConfigError(
                f"{at}: there is no {group} {name}; there are {', '.join(there)}"
                + (f": did you mean {close[0]}?" if close else "")
            )


def chosen_by(workflow: str) -> set[str]:
    """Groups of which a workflow's YAML makes a choice, those of the YAMLs that it builds on among them."""
    chosen: set[str] = set()
    waiting = [workflow]
    while waiting:
        path = find(f"{waiting.pop()}.yaml")
        for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}).get("defaults") or []:
            if isinstance(entry, str):
                waiting += [entry] if entry != "_self_" else []
            else:
                chosen |= {str(key).removeprefix("override ").lstrip("/").split("@")[0] for key in entry}
    return chosen


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown(path)}: no UTF-8 ({error.reason} at byte {error.start}): save it so") from error
    except OSError as error:
        raise ConfigError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise ConfigError(f"{shown(path)}:{number}: begins with a tab; YAML is indented with spaces: replace it")
    return text


class _Once(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, as Hydra's loader does, and one that is empty, as it does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As `SafeLoader`. Raises: MarkedYAMLError, at the second of the two."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name} stands twice: keep one", problem_mark=key.start_mark)
            if key.tag.endswith(":null"):
                raise yaml.MarkedYAMLError(problem="a key is empty: give it a name", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _mapping(path: Path, text: str) -> dict[str, object]:
    try:
        values = yaml.load(text, _Once)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{shown(path)}:{mark.line + 1 if mark else 1}: no YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown(path)}: no YAML: {str(error).splitlines()[0]}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{shown(path)}:1: holds {type(values).__name__}, and a config is a mapping: write `key: value` lines"
        )
    return values


def _line(text: str, key: str) -> int:
    """The line in which a key or an entry of a list stands, 1 where it is not to be found."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()[:1] not in ("", "#")]
    return next((n for n, line in lines if f"{key}:" in line or line == f"- {key}"), 1)


def _taken(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """A command line without its folders of configs, and these with what named them."""
    rest: list[str] = []
    folders: list[tuple[str, str]] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        option, equals, value = word.partition("=")
        if option in _OPTIONS:
            if not equals:
                if not waiting or waiting[0].startswith(("-", "+")):
                    raise ConfigError(f"{word} names no folder: write --config-dir lab/conf")
                value = waiting.pop(0)
            folders.append((value, "--config-dir"))
        elif option.lstrip("+") == "hydra.searchpath":
            folders += [(folder, "--config-dir") for folder in _searched(word, value)]
        else:
            rest.append(word)
    return rest, folders


def _searched(word: str, value: str) -> list[str]:
    """The folders of a `hydra.searchpath=[…]`."""
    parts = [part.strip().strip("'\"") for part in value.strip().strip("[]").split(",")]
    if strange := [part for part in parts if "://" in part and not part.startswith("file://")]:
        raise ConfigError(
            f"{word}: {strange[0]} is no folder of this machine; expected hydra.searchpath=[file:///path/to/conf], or "
            "--config-dir path/to/conf"
        )
    return [part.removeprefix("file://") for part in parts if part]


def _check_folder(path: Path, said: str) -> None:
    """Raises: ConfigError for what is no folder of configs, and for a file that has the path of another."""
    if not path.is_dir():
        raise ConfigError(
            f"{said}: {path} is {'no folder' if path.exists() else 'not there'}; expected a folder with experiment/, "
            f"model/, mixture/ and the like in it ({shlex.join(['trunkline', 'new', 'lab'])} makes one)"
        )
    ours = [group for group in groups() if (path / group).is_dir()]
    inner = path / "conf"
    if not ours and any((inner / group).is_dir() for group in groups()):
        raise ConfigError(f"{said}: {path} holds no configs itself, but its folder conf does: name {said}/conf")
    whole = next(
        (above for above in (path.parent, path.parent.parent) if path.relative_to(above).parts[0] in groups()), None
    )
    if not ours and whole is not None:
        key, sign, folder = re.split("([ =])", said, maxsplit=1)
        up = "/".join([".."] * len(path.relative_to(whole).parts))
        raise ConfigError(
            f"{said}: {path} is a folder of choices, and the folder of configs is around it: name "
            f"{key}{sign}{os.path.normpath(os.path.join(folder, up))}"
        )
    for file in sorted(path.glob("*.yaml")):
        if find(file.name) is not None:
            raise ConfigError(
                f"{said}: {shown(file)} has the name of {shown(find(file.name) or file)}, which would stay in force: "
                f"what is different for your lab goes into experiment/<name>/{file.name}"
            )
    for group in ours:
        if other := next(iter(sorted((path / group).rglob("*.yml"))), None):
            raise ConfigError(f"{said}: {shown(other)} is not read: name it {other.stem}.yaml")
    for group in ours:
        for file in sorted((path / group).rglob("*.yaml")):
            relative = str(file.relative_to(path))
            if (other := find(relative)) is not None:
                theirs = "Trunkline's own" if other.is_relative_to(SHIPPED) else f"{shown(other)}, another lab's"
                raise ConfigError(
                    f"{said}: {shown(file)} has the name of {theirs}, and one of the two would be left unread: "
                    "give yours another name"
                )
