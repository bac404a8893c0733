"""What Hydra says of an override that it cannot take, in one paragraph for the one who typed it.

Enters: Hydra's exception and the dataclass that the config is for. Leaves: what came, what is accepted there, what to
write. The key is followed through the types of the dataclass: fields, entries of a mapping (`corpus.sources.mine.…`),
items of a list.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, Union

from pipelines.config import Chosen, hints, meant, parts_of, paths_to, type_name
from pipelines.train.stages import STAGES
from workflows.command_line import foreign, places
from workflows.command_line.typed import bad_word

_ADDED = re.compile(r"Could not append to config. An item is already at '(?P<key>[^']*)'")
_REMOVED = re.compile(r"Could not delete from config. '(?P<key>[^']*)' does not exist")
_CHOSEN = re.compile(
    r"Multiple values for (?P<group>[^.\s]+)\. To override a value use 'override [^:]*: (?P<choice>[^']*)'"
)
_TWICE = re.compile(r"(?P<group>\S+) appears more than once in the final defaults list")
_OTHER_VALUE = re.compile(
    r"Could not delete from config\. The value of '(?P<key>[^']*)' is (?P<value>.*) and not (?P<came>.*)\."
)
_NOT_CHOSEN = re.compile(r"Could not delete '(?P<key>[^']*)'\. No match in the defaults list")
# a choice of a group; of a list of choices
_ABSENT = re.compile(r"Could not (find|load) '(?P<path>[^']*)'")
_NOT_OVERRIDDEN = re.compile(r"In '(?P<file>[^']*)': Could not override '(?P<group>[^']*)'")
_NOT_MERGED = re.compile(r"In '(?P<file>[^']*)': .*Cannot merge")
_MERGED = re.compile(r"Error merging override (?P<key>[^=\s]+)=")
# by kind of artifact: a field that those configs have which read it as `data`
_READERS = {"corpus": "tokenizer", "mixture": "schedule"}
Names = Callable[[str], Iterable[str]]


def explain(
    error: Exception,
    config_class: type,
    names: Names = lambda where: (),
    typed: Sequence[str] = (),
    workflow: str = "",
) -> str:
    """The complaint, with the accepted neighbours of an unknown key.

    Args: names, the keys that the composed config has under a dotted path, where that is known; typed, the command
        line.
    """
    if broken := places.mistake():
        return broken
    text = _first_line(error.__cause__ or error)
    first = _first_line(error) or text  # Hydra's error may be empty around the one that says what it is
    if absent := _ABSENT.search(first):
        wanted = absent["path"].split("/")
        depth = 1
        while depth < len(wanted) - 1 and _is_folder("/".join(wanted[: depth + 1])):
            depth += 1
        group, choice = "/".join(wanted[:depth]), "/".join(wanted[depth:])
        choices = places.choices(group)
        if depth > 1 or not choices:  # a file of a folder of the group, sandbox=laptop/lr: so it is typed
            group, choice = wanted[0], "/".join(wanted[1:])
            inside = "/".join(wanted[1:depth]) if depth > 1 else choice
            every = places.choices(group, deep=True)
            choices = [name for name in every if name.startswith(f"{inside}/")] or every
        if not choices and not _is_folder(group):
            return f"{group}={choice}: there is no group {group}; there are {', '.join(places.groups())}"
        if lies := places.elsewhere(choice.rsplit("/", 1)[-1]):
            return f"{group}={choice}: {lies} is of that name, and choices of {group} lie in a folder {group}/: move it"
        close = difflib.get_close_matches(choice, choices, n=1)
        meant = f": did you mean {group}={close[0]}?" if close else _elsewhere(config_class, group, choice)
        return f"{group}={choice}: no such choice; there are {', '.join(choices)} (conf/{group}){meant}"
    if "override_grammar" in str(error):  # Hydra's link for what it cannot read
        return bad_word(first, typed)
    if first.startswith("Config group override must be"):
        return _no_choice(typed) or f"{first}: expected group=choice"
    if first.startswith(("Ambiguous value", "Sweep parameters")):
        word = first.split("'")[1]
        if word.lstrip("+").startswith("experiment="):
            return (
                f"{re.sub(r'/[a-z_]+(?=,|$)', '', word)}: a command takes one experiment; several are a sweep, with -m"
            )
        hint = hint_at(config_class, word.lstrip("+").partition("=")[0])
        takes_list = hint is None or any(typing.get_origin(one) in (list, tuple) for one in _options(hint))
        if not takes_list:
            return f"{word}: this key takes one value; several are a sweep, with -m"
        return f"{word}: several values are a list, 'key=[a,b]', or a sweep, with -m"
    if match := _TWICE.search(first):
        group = match["group"]
        choice = next((value for key, value in _given(typed) if key == group), "<name>")
        return f"{group} is chosen already: write {group}={choice} without the +"
    if (match := _NOT_MERGED.search(first)) and (said := _other_shape(match["file"], config_class)):
        return said
    if match := _NOT_OVERRIDDEN.search(first):
        chosen = ", ".join(sorted(places.chosen_by(workflow))) or "none"
        return (
            f"{match['file']}.yaml overrides {match['group']}, of which {workflow} makes no choice; it has chosen "
            f"{chosen}: leave `override /{match['group']}: …` out"
        )
    if match := _OTHER_VALUE.search(first):
        key = match["key"]
        return f"~{key}={match['came']}: {key} is {match['value']}: write ~{key} to leave it out, whatever it is"
    if interpolated := _interpolated(str(error).strip() or str(error.__cause__)):
        return interpolated
    if match := _ADDED.search(first):
        return f"{match['key']} is set already: write {match['key']}=… without the +, or ++{match['key']}=… for either"
    if match := _REMOVED.search(first):
        return follow(config_class, match["key"]) or f"~{match['key']}: it is not set, so there is nothing to leave out"
    if match := _CHOSEN.search(first):
        if match["group"] == "experiment":
            return "experiment is given twice; a command takes one: leave one of them out"
        return f"{match['group']} is chosen already: write {match['group']}={match['choice']} without the +"
    if match := _NOT_CHOSEN.search(first):
        return f"~{match['key']}: it is not chosen, so there is nothing to leave out"
    if match := _MERGED.search(first):
        return follow(config_class, match["key"]) or _whole(match["key"], text, config_class, typed)
    if not first.startswith("Could not override '"):
        return f"{first} ({text})" if text != first else first
    key = first.split("'")[1]
    inner = re.search(r"full_key: (\S+)", str(error.__cause__))  # of a mapping that was given, an entry
    return (
        follow(config_class, key)
        or (inner and follow(config_class, inner[1]))
        or _missing(key, str(error.__cause__), config_class, names, typed, workflow)
    )


def _other_shape(file: str, config_class: type) -> str:
    """What is said of an overlay that sets a list where a mapping belongs; "" where it does not."""
    overlay = places.find(f"{file}.yaml")
    for key, value in (places.read(overlay) if overlay else {}).items():
        hint = hint_at(config_class, key) if isinstance(value, list) else None
        if overlay and hint is not None and all(typing.get_origin(one) not in (list, tuple) for one in _options(hint)):
            return f"{key} is a list; expected {type_name(hint)}{places.place_of(key, overlay)}"
    return ""


def _first_line(error: BaseException) -> str:
    """A first line that ends with a colon takes the next with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines and lines[0].endswith(":") else next(iter(lines), "")


def follow(config_class: type, key: str, value: str = "<name>") -> str | None:
    """Why the config has no such key; None when its types have a place for it. Args: value, what it was to be set
    to.
    """
    hint: Any = config_class
    parts = re.sub(r"\[(\w+)\]", r".\1", key).split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth])
        options = _options(hint)
        fields = {name: field for option in options for name, field in parts_of(option).items()}
        mappings = [
            typing.get_args(option)[1]
            for option in options
            if typing.get_origin(option) is dict and not parts_of(option)
        ]
        lists = [typing.get_args(option)[0] for option in options if typing.get_origin(option) in (list, tuple)]
        if part in fields:
            hint = fields[part]
        elif mappings:
            hint = mappings[0]
        elif lists and part.isdigit():
            hint = lists[0]
        elif Any in options:
            return None
        elif fields and not depth:
            return _unknown_first(parts, config_class, value)
        elif fields and (said := foreign.ours(config_class, key, value)) is not None:
            return said
        elif fields:
            close = difflib.get_close_matches(part, fields, n=1)
            near = [".".join([*parts[:depth], close[0], *parts[depth + 1 :]])] if close else []
            moved = [".".join([here, path]) for option in options for path in _paths(option, parts[-1])]
            said = meant([] if near else moved, near)
            hint_text = f": {said}" if said else ""
            return f"unknown key {'.'.join(parts[: depth + 1])}; accepted there: {', '.join(fields)}{hint_text}"
        elif lists:
            return f"{key}: {here} is a list: give the whole of it, '{here}=[…]'"
        else:
            taken = " or ".join(type_name(option) for option in options)
            return f"{key}: {here} is {taken}, and nothing is inside it: write {here}=…"
    return None


def _unknown_first(parts: list[str], config_class: type, value: str) -> str:
    """What is said of a key whose first part is no field: the same key elsewhere, similar fields, `+experiment`, and
    groups of other workflows are looked at.
    """
    part, fields = parts[0], list(parts_of(config_class))
    accepted = [*fields, *(() if "experiment" in fields else ("+experiment",))]
    said = f"unknown key {part}; accepted there: {', '.join(accepted)}"
    if (ours := foreign.ours(config_class, ".".join(parts), value)) is not None:
        return ours
    if _is_folder(part):
        read = f": to read {part}/<name>, write data={part}/<name>" if _READERS.get(part) in fields else ""
        return f"{said}; conf/{part} holds choices of other workflows{read}"
    close = difflib.get_close_matches(part, [*fields, "experiment"], n=1)
    similar = [".".join([name, *parts[1:]]) if name in fields else f"+experiment={value}" for name in close]
    moved = [".".join([path, *parts[1:]]) for path in paths_to(config_class, part)]
    return f"{said}: {meant(moved, similar) or 'remove it'}"


def _paths(option: Any, name: str) -> list[str]:
    return paths_to(option, name) if isinstance(option, type) else []


def hint_at(config_class: type, key: str) -> Any:
    """The type of a key, by the types of the config; None where there is no such key, or nobody knows."""
    hint: Any = config_class
    for part in key.split("."):
        inside = {name: field for option in _options(hint) for name, field in parts_of(option).items()}
        entries = [typing.get_args(one)[1] for one in _options(hint) if typing.get_origin(one) is dict]
        if (hint := inside.get(part, entries[0] if entries and not inside else None)) is None:
            return None
    return hint


def follow_all(config_class: type, overrides: Iterable[str]) -> str | None:
    """`follow` for the first of some overrides that the config has no place for; of a config group nothing is known
    here.
    """
    given = (override.lstrip("+~").partition("=") for override in overrides if "=" in override or override[0:1] == "~")
    said = (
        follow(config_class, key, value)
        for key, _, value in given
        if key
        and "/" not in key
        and not key.startswith(("hydra", "-"))
        and key != "experiment"
        and key not in getattr(config_class, "GROUPS", ())
    )
    return next((line for line in said if line), None)


def _missing(key: str, cause: str, config_class: type, names: Names, typed: Iterable[str], workflow: str) -> str:
    """The types have a place for the key, but the YAML does not set it."""
    value = next((value for name, value in _given(typed) if name == key), "…")
    if key.split(".")[0] == "model" and workflow in STAGES and not STAGES[workflow].parents:
        return (
            f"{key}: no model is chosen, and its shape comes of the data and hours=: choose one to change it, e.g. "
            f"model=demo {key}={value}; there are {', '.join(places.choices('model'))} (conf/model)"
        )
    if key.split(".")[0] == "model" and {"model", "parent"} <= set(parts_of(config_class)):
        return (
            f"{key}: this stage takes its model from its parent, as it is: leave model out (a new shape is a new "
            "trunk, workflows.pretrain; rope_base and batch.sequence_length give it more positions)"
        )
    absent = re.search(r"full_key: (\S+)", cause)
    where, _, name = (absent[1] if absent else key).rpartition(".")
    if absent and where == key:  # a whole mapping, of which Hydra merges each entry
        others = ", ".join(sorted(names(where)))
        if not others:
            return f"{key} is empty, and a mapping is merged into it key by key: write +{absent[1]}=…"
        return (
            f"{key}={{…}} is merged into what is there ({others}), and {name} is not there; to replace all of it: "
            f"'~{key}' '+{key}={{{name}: …}}'; to add to it: +{absent[1]}=…"
        )
    if key == (absent[1] if absent else key) or not _is_mapping(config_class, where):
        there = sorted(names(where)) if where and _is_mapping(config_class, where) else []
        close = difflib.get_close_matches(name, there, n=1)
        has = f"{where} has {', '.join(there)}" + (f": did you mean {where}.{close[0]}?" if close else "")
        added = shlex.quote(f"+{key}={value}") if value != "…" else f"+{key}=…"
        return f"{key} is not set in the YAML: write {added} to add it" + (f"; {has}" if there else "")
    there = sorted(names(where))
    close = difflib.get_close_matches(name, there, n=1)
    has = f"; it has {', '.join(there)}" if there else ""
    meant = f": did you mean {key.replace(f'{where}.{name}', f'{where}.{close[0]}', 1)}?" if close else ""
    return (
        f"{where} has no {name}{has}{meant or f': add a whole one, `+{where}.{name}={{…}}`, or name one that is there'}"
    )


def _whole(key: str, text: str, config_class: type, typed: Iterable[str]) -> str:
    """A value of another shape than what it is merged into: a list for a mapping, an entry of a list."""
    hint = hint_at(config_class, key)
    if hint is not None and all(typing.get_origin(option) not in (list, tuple) for option in _options(hint)):
        value = next((value for name, value in _given(typed) if name == key), "a list")
        return f"{key} is {value}; expected {type_name(hint)}: write {key}.<key>=… for one of them"
    where = key.rpartition(".")[0] or key
    return f"{key} cannot be set ({text}): give the whole of {where}, '{where}=[…]'"


def _given(typed: Iterable[str]) -> list[tuple[str, str]]:
    """The overrides as key and value."""
    parts = (word.lstrip("+~").partition("=") for word in typed if word[:1] != "-")
    return [(key, value) for key, _, value in parts]


def _no_choice(typed: Iterable[str]) -> str:
    """What is said of a group that was given a value which is no name of a choice; "" where none is to be seen."""
    there = set(places.groups())
    plain = ("null", "~", "true", "false")
    for group, value in _given(typed):
        if group in there and (value.lower() in plain or re.fullmatch(r"[-+\d.e_]+", value)):
            off = ", or tracking.enabled=false to do without it" if group == "tracking" else ""
            names = places.choices(group) or places.choices(group, deep=True)
            return f"{group}={value}: expected the name of a choice; there are {', '.join(names)} (conf/{group}){off}"
    return ""


def _interpolated(text: str) -> str | None:
    """What is said of a `${…}` that leads nowhere; None for other errors."""
    lines = [line.strip() for line in text.splitlines()]
    key = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
    where = f"{key}: " if key else ""
    if match := re.search(r"Environment variable '([^']*)' not found", text):
        return (
            f"{where}the environment variable {match[1]} is not set: set it, or write "
            f"${{oc.env:{match[1]},…}} with what is taken without it"
        )
    if match := re.search(r"Interpolation key '([^']*)' not found", text):
        return f"{where}${{{match[1]}}} names a key that is not there: write the whole path of a key, e.g. ${{name}}"
    if match := re.search(r"Unsupported interpolation type (\S+)", text):
        return (
            f"{where}${{{match[1]}:…}} is no way to work a value out; there are ${{<key>}}, "
            "${oc.env:VARIABLE,default} and ${dashes:<reference>}"
        )
    if where and re.match("no viable alternative|missing |mismatched input|extraneous input|token recogn", lines[0]):
        return f"{where}{lines[0]}: write ${{<key>}} or ${{oc.env:VARIABLE,default}}, and \\${{ for the letters ${{"
    if "Recursive interpolation" in text:
        return f"{where}${{…}} leads back to itself: name another key in it"
    return (
        f"{where}{lines[0]}: write ${{<key>}} or ${{oc.env:VARIABLE,default}}" if "nterpolation" in lines[0] else None
    )


def _elsewhere(config_class: type, group: str, choice: str) -> str:
    """What a choice that its group does not have may be: a value of one of the group's keys, a model of elsewhere."""
    if group == "model" and ("/" in choice or os.path.exists(choice)):
        return (
            "; a fresh run takes its shape from there and begins with random weights, and other programs' weights are "
            "not trained on: chat and cost take a model by its path"
        )
    if (
        group == "corpus"
        and (os.path.exists(choice) or choice.split("/")[0] not in ("rule", "rules"))
        and ("/" in choice or os.path.exists(choice))
    ):
        return (
            "; files are named by a source of a choice: copy conf/corpus/own_data.yaml and set its reader's path to "
            f"{choice}, or `trunkline new lab` writes one to begin with"
        )
    inside = parts_of(hints(config_class)[group]) if group in hints(config_class) else {}
    of = [f"{group}.{key}={choice}" for key, hint in inside.items() if choice in _literals(hint)]
    return f": did you mean {' or '.join(of)}?" if of else ""


def _literals(hint: Any) -> list[str]:
    """The words that a value of this hint may be one of."""
    return [str(one) for option in _options(hint) if typing.get_origin(option) is Literal
            for one in typing.get_args(option)]  # fmt: skip


def _is_folder(group: str) -> bool:
    return any((folder / group).is_dir() for folder in places.all_folders())


def _is_mapping(config_class: type, where: str) -> bool:
    """Whether any name may be a key under `where`."""
    return bool(where) and follow(config_class, f"{where}.any-name") is None


def _options(hint: Any) -> list[Any]:
    """The types that a value of this hint may have, without null; all of a table, where a key of the value picks one of
    it.
    """
    if typing.get_origin(hint) is Annotated:
        base, *marks = typing.get_args(hint)
        choice = next((mark for mark in marks if isinstance(mark, Chosen)), None)
        return _options(base) if choice is None else list(choice.settings().values())
    if typing.get_origin(hint) in (Union, types.UnionType):
        options = (option for option in typing.get_args(hint) if option is not type(None))
        return [inner for option in options for inner in _options(option)]
    return [hint]
