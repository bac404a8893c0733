"""From `-m` to the turns of a sweep: every combination of the values that a command line lists, composed and named.

Enters: what was typed, e.g. `steps=60,160 schedule.peak_lr=range(0.01,0.04,0.01)`. Leaves: a `Turn` for each
combination, its config composed and parsed; or one ConfigError that tells the mistakes of all turns. Nothing is started
here, and nothing is read but YAML files: `workflows.submit` does the same before it sends a sweep.

Hydra reads the values (`a,b`, `choice()`, `range()`, `glob()`); it does not run the turns. Its own launcher would start
the first before it has looked at the second.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.display.progress import Progress
from pipelines.errors import ConfigError, TrunklineError
from pipelines.identity import fingerprint
from workflows.command_line.composing import (
    command_of,
    composed,
    config_loader,
    explained,
    hand_on,
    parse_composed,
    resolved,
    with_overlay,
)
from workflows.command_line.typed import check_keys

MOST = 1000  # turns; more is a slip of the finger: range(1,100000)
SWEEPS = ("-m", "--multirun")
_SHOWING = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--version")  # Hydra shows something, and runs nothing
_CUT = 40  # characters of a value
_LONGEST = 120  # characters of a name
_FEW = 20  # turns that are composed without a word
# what turns of one sweep cannot have each for itself: they run in one session
_ONE_FOR_ALL = ("store", "dry_run", "share", "tracking", "cluster.address")
_REFERENCE = re.compile(r"[a-z_]+/[\w.-]+(@[\w-]+)?")  # of an artifact that is read
_NOT_NAMED = "auto"  # of workflows that name what they leave after what they read


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a sweep.

    Attributes:
        number: of the turn, from 1. count: how many there are.
        config: composed and parsed, with the turn's own name.
        base: the name before what varies was added to it.
        command: that makes the same by itself.
        overrides: key -> value as typed, without signs before the key.
        varied: those of them that differ between the turns.
    """

    number: int
    count: int
    config: Any
    base: str
    command: str
    overrides: Mapping[str, str]
    varied: Mapping[str, str]

    @property
    def label(self) -> str:
        """E.g. `2/4 steps=160`."""
        return label(self.number, self.count, self.varied)


def asks_for_sweep(typed: Sequence[str]) -> bool:
    """Whether a command line has `-m`, and runs something."""
    return any(word in SWEEPS for word in typed) and not any(word.partition("=")[0] in _SHOWING for word in typed)


def compose_turns(workflow: str, config_class: type, typed: Sequence[str]) -> list[Turn]:
    """All turns of a sweep. Args: typed, with or without the `-m` itself.

    Raises: ConfigError for what is no sweep, or with the mistakes of all turns.
    """
    rows = split(workflow, config_class, [word for word in typed if word not in SWEEPS])
    every = [pairs(row) for row in rows]
    keys = varied_keys(every)
    varied = [{key: overrides.get(key, "") for key in keys} for overrides in every]
    progress = Progress("compose", len(rows), "turns") if len(rows) > _FEW else None
    choices: list[Any] = []
    mistakes: dict[int, TrunklineError] = {}
    for i, row in enumerate(rows):
        try:
            handed = hand_on(config_class, row)
            choices.append(composed(workflow, config_class, handed))
            parse_composed(config_class, resolved(choices[-1]), [with_overlay(word, workflow) for word in handed])
        except TrunklineError as error:
            mistakes[i] = error
        except Exception as error:  # Hydra's, OmegaConf's, and the ValueErrors that they raise as well
            mistakes[i] = explained(error, workflow, config_class, row)
        if progress is not None:
            progress.update()
    tell_all(mistakes, varied)
    bases = [str(choice.name) for choice in choices]
    names = names_of(bases, every)
    turns = []
    for i, (row, choice, name) in enumerate(zip(rows, choices, names, strict=True)):
        command = command_of(workflow, row)
        if name != bases[i]:
            read = _read_by_name(choice, every[i])
            for key, reference in read.items():
                choice[key] = reference
            choice.name = name  # before anything is resolved: other values may be made of it
            kept = [word for word in row if word.lstrip("+").partition("=")[0] != "name"]
            inputs = [f"{key}={reference}" for key, reference in read.items()]
            command = command_of(workflow, [*kept, *inputs, f"name={name}"])
        try:
            config: Any = parse_composed(config_class, resolved(choice), row)
            turns.append(Turn(i + 1, len(rows), config, bases[i], command, every[i], varied[i]))
        except TrunklineError as error:
            mistakes[i] = error
    tell_all(mistakes, varied)
    _check_one_for_all(turns)
    return turns


def split(workflow: str, config_class: type, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each turn, the last key varying fastest.

    Raises: ConfigError where nothing varies, where Hydra's own machinery is chosen, and for more turns than are meant.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [word for word in overrides if word[0:1] != "-"]
    check_keys(config_class, words)
    if strange := [word for word in overrides if word not in words]:
        raise ConfigError(f"{strange[0]}: a sweep takes key=value beside -m, and no other option")
    try:
        with config_loader() as loader:
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
            lists: list[list[str]] = []
            for override in parsed:
                if not override.is_sweep_override():
                    lists.append([str(override.input_line)])
                    continue
                if not override.is_discrete_sweep():
                    raise ConfigError(
                        f"{override.input_line}: an interval has no list of values; a sweep takes key=a,b, "
                        "choice(a,b), range(first,end,step) or glob(*): for a search within an interval see "
                        "workflows.sandbox (search:)"
                    )
                key = override.get_key_element()
                try:
                    values = list(itertools.islice(override.sweep_string_iterator(), MOST + 1))
                except ValueError as error:  # range(1,5,0)
                    raise ConfigError(
                        f"{override.input_line}: {error}: expected range(first,end,step) with a step that is not 0"
                    ) from error
                if not values:
                    there = loader.get_group_options(override.key_or_group)
                    raise ConfigError(
                        f"{override.input_line}: it stands for no value: "
                        + (f"there are {', '.join(sorted(there))}" if there else "list the values, key=a,b")
                    )
                lists.append([f"{key}={value}" for value in values])
    except HydraException as error:
        raise explained(error, workflow, config_class, words) from error
    if not any(override.is_sweep_override() for override in parsed):
        raise ConfigError(
            "-m runs a sweep, and no key has several values: write key=a,b (or choice(), range(), glob()), or leave "
            "-m out for one run"
        )
    if (count := math.prod(map(len, lists))) > MOST:
        raise ConfigError(f"this sweep has {count:,} turns or more; {MOST:,} are taken: list fewer values")
    return [list(row) for row in itertools.product(*lists)]


def pairs(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides as key -> value, without signs before the key."""
    parts = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in parts}


def varied_keys(every: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose values differ between turns, in the order in which they were typed."""
    keys = dict.fromkeys(key for overrides in every for key in overrides)
    return [key for key in keys if len({overrides.get(key) for overrides in every}) > 1]


def names_of(bases: Sequence[str], every: Sequence[Mapping[str, str]]) -> list[str]:
    """What each turn is called. Args: bases, the names as composed; every, the overrides of each turn.

    Who names the turns is followed. Turns that would have one name are called after the keys that vary among them.
    Raises: ConfigError for two turns that were given one name.
    """
    same = (
        {base for base in bases if bases.count(base) > 1 and base != _NOT_NAMED}
        if len(set(bases)) < len(bases)
        else set()
    )
    if not same:
        return list(bases)
    clashing = [
        [overrides for base, overrides in zip(bases, every, strict=True) if base == name] for name in sorted(same)
    ]
    keys = varied_keys(every)
    if "name" in keys:
        raise ConfigError(
            f"two turns of this sweep would make {sorted(same)[0]}: leave one out, give each another name, or leave "
            "name= out, and each is called after what varies"
        )
    keys = [key for key in keys if any(key in varied_keys(group) for group in clashing)]
    names = [
        _name("-".join([base, *(f"{short(key, keys)}-{overrides.get(key, 'none')}" for key in keys)]))
        if base in same
        else base
        for base, overrides in zip(bases, every, strict=True)
    ]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"two turns of this sweep would make {twice}: leave out a value that is listed twice, or vary name too"
        )
    return names


def _read_by_name(choice: Any, typed: Mapping[str, str]) -> dict[str, str]:
    """What a turn reads under names made of its own, `data: mixture/${name}`: key -> the reference of before.

    The name that a sweep gives a turn is of what the turn leaves. Nobody made a mixture for it.
    """
    from omegaconf import OmegaConf

    raw: Any = OmegaConf.to_container(choice, resolve=False)
    made_of_name = [key for key, value in raw.items() if isinstance(value, str) and "${name}" in value]
    values = {str(key): str(choice[key]) for key in made_of_name if key not in typed}
    return {key: value for key, value in values.items() if _REFERENCE.fullmatch(value)}


def _name(text: str) -> str:
    text = re.sub(r"(\de)\+(\d)", r"\1\2", text)  # 1e+30 is not 1e-30
    name = re.sub(r"[^\w.]+", "-", text).strip("-.")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 17].rstrip('-.')}-{fingerprint(name)}"


def short(key: str, keys: Sequence[str]) -> str:
    """The last word of a key; all of it where two that vary end alike."""
    last = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == last for other in keys) > 1 else last


def group_of(workflow: str, turns: Sequence[Turn]) -> str:
    """What MLflow calls the runs of a sweep together: of workflow, name and varied keys, so that the same sweep with
    more values is the same group.
    """
    keys, bases = list(turns[0].varied), [turn.base for turn in turns]
    typed = turns[0].overrides.get("name", "")
    if len(set(bases)) > 1 and "name" not in keys and typed:  # name='study-${seed}'
        base = re.sub(r"\$\{[^}]*\}", "", typed)
    else:
        alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*bases, strict=False))
        base = "".join(letters[0] for letters in alike)
    shorts = [short(key, keys) for key in keys if key != "name"]
    return _name("-".join(filter(None, [workflow, _name(base), *shorts])))


def label(number: int, count: int, varied: Mapping[str, str]) -> str:
    """E.g. `2/4 steps=160`."""
    return " ".join([f"{number}/{count}", *(f"{key}={shown(value)}" for key, value in varied.items())])


def shown(value: str, longest: int = _CUT) -> str:
    """A value as people read it: without the quotes that Hydra wants, and not too long."""
    value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    return value if len(value) <= longest else f"{value[: longest - 1]}…"


def tell_all(mistakes: Mapping[int, TrunklineError], varied: Sequence[Mapping[str, str]]) -> None:
    """Raise one error for the mistakes of some turns, by number; none where there is none.

    The same words of several turns are said once.
    """
    if not mistakes:
        return
    count = len(varied)
    turns_by_text: dict[str, list[int]] = {}
    for i, error in sorted(mistakes.items()):
        turns_by_text.setdefault(str(error), []).append(i)
    first = mistakes[min(mistakes)]
    if len(turns_by_text) == 1 and len(mistakes) == count:
        raise first
    lines = []
    for text, numbers in turns_by_text.items():
        if len(numbers) > 3:
            who = f"{label(numbers[0] + 1, count, varied[numbers[0]])} and {len(numbers) - 1} more"
        else:
            who = ", ".join(label(i + 1, count, varied[i]) for i in numbers)
        lines.append(f"\n  {who}: " + text.replace("\n", "\n    "))
    told = f"{len(mistakes)} of {count} turns cannot be run, so none was started:" + "".join(lines)
    error = type(first)(told)
    raise error from first


def _check_one_for_all(turns: Sequence[Turn]) -> None:
    for key in _ONE_FOR_ALL:
        values = [_at(turn.config, key) for turn in turns]
        if different := next((value for value in values if value != values[0]), None):
            raise ConfigError(
                f"{key} varies ({values[0]}, {different}), and the turns of a sweep run in one session, on one store, "
                f"with one MLflow and one Ray: give {key} one value, and run a sweep for each"
            )


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name, None)
    return config
