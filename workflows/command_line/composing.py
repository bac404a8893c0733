"""From a command line to a config: what Hydra composes, and what it is told.

Enters: the overrides as typed (`name=x`, `+experiment=demo`). Leaves: the config dataclass, or a ConfigError that names
the key; the arguments that Hydra's own parser takes; the command to record with what is made.

The recipe composes the configs of its stages by the same way (`compose_config`), so a stage within it and the stage's
own command read their keys alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipelines.config import WorkflowConfig, parse
from pipelines.errors import ConfigError
from pipelines.store.disk import temporary_folder
from workflows.command_line import foreign, places
from workflows.command_line.explain import explain, follow_all
from workflows.command_line.typed import check_keys

C = TypeVar("C", bound=WorkflowConfig)
# the artifact keeps the resolved config, so Hydra's own output folders and log files are not wanted
_HYDRA = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]


def compose_config(workflow: str, config_class: type[C], overrides: Sequence[str]) -> C:
    """Another workflow's config, composed as its own command line would: how the recipe configures its stages."""
    return parse_composed(config_class, composed_values(workflow, config_class, overrides), overrides)


def composed_values(workflow: str, config_class: type, overrides: Sequence[str]) -> Any:
    """The same before it is parsed: plain values, in which a study sets keys of its own."""
    try:
        return resolved(composed(workflow, config_class, overrides))
    except ConfigError:
        raise
    except Exception as error:  # an interpolation that leads nowhere
        raise explained(error, workflow, config_class, overrides) from error


def resolved(choices: Any) -> Any:
    """Plain values of what Hydra composed."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(choices, resolve=True)


def composed(workflow: str, config_class: type, overrides: Sequence[str]) -> Any:
    """The same before its interpolations are resolved: a sweep sets the name of a turn first.

    Raises: ConfigError for whatever was typed, or written in a YAML, that does not compose.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    check_keys(config_class, overrides)
    register_resolvers()
    GlobalHydra.instance().clear()
    overlaid = [with_overlay(override, workflow) for override in hand_on(config_class, overrides)]
    try:
        with initialize_config_dir(str(places.SHIPPED), version_base=None):
            return compose(workflow, [*places.override(), *overlaid])
    except Exception as error:  # Hydra's, OmegaConf's, YAML's, and ValueErrors that these let through
        raise explained(error, workflow, config_class, overrides) from error


@contextlib.contextmanager
def config_loader() -> Iterator[Any]:
    """Hydra's loader of configs, which knows the choices of each group."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(places.SHIPPED), version_base=None):
        yield GlobalHydra.instance().config_loader()


def explained(error: Exception, workflow: str, config_class: type, overrides: Sequence[str]) -> ConfigError:
    """What Hydra or OmegaConf raised while it composed, as a mistake of the command line."""
    mistyped = follow_all(config_class, overrides)
    said = mistyped or explain(
        error, config_class, lambda where: keys_under(workflow, overrides, where), overrides, workflow
    )
    for word in overrides:  # a place in the list of words that are handed on is told as what was typed there
        place = re.match(rf"{re.escape(word.partition('=')[0])}\[(\d+)\]", said) if word in _handed else None
        if place is not None:
            said = _handed[word][int(place[1])].partition("=")[0] + said[place.end() :]
    return ConfigError(said)


def parse_composed(config_class: type[C], values: Any, overrides: Sequence[str]) -> C:
    """The config; an unknown first key of an override is told with groups and experiments beside the config's own
    keys.
    """
    try:
        return parse(config_class, values)
    except ConfigError as error:
        unknown = re.match(r"unknown key ([^;]+);", str(error))
        typed = unknown and "." not in unknown[1] and follow_all(config_class, overrides)
        said = (unknown and (foreign.ours(config_class, unknown[1]) or _of_a_file(unknown[1]))) or error
        raise ConfigError(typed or f"{said}{_in_overlay(unknown[1], overrides) if unknown else ''}") from error


def _of_a_file(key: str) -> str:
    """What is said of a key that nobody types: one of a YAML that is no overlay, or takes another's place."""
    if key == "experiment":
        return (
            "experiment is no key of an overlay: it builds on another by a line in its defaults, `- /experiment/own/…`"
        )
    group, _, inner = key.partition(".")
    if inner and any((folder / group / inner).is_dir() for folder in places.all_folders()):
        return (
            f"unknown key {key}; choices of {group}/{inner} lie beside the other keys where the defaults of a YAML say "
            f"`{inner}@_here_: {'|'.join(places.choices(f'{group}/{inner}'))}`"
        )
    return "" if inner else places.with_package()


def _in_overlay(key: str, overrides: Sequence[str]) -> str:
    """Where an experiment's overlay, one of a lab's, states the key that is refused; "" where it was typed."""
    if any(word.lstrip("+~").partition("=")[0] == key for word in overrides):
        return ""
    named = (word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("experiment="))
    overlays = (places.find(f"experiment/{name}.yaml") for name in named)
    return next((said for path in overlays if path and (said := places.place_of(key, path))), "")


_handed: dict[str, list[str]] = {}  # such a list -> the words that are in it, for the command to record


def hand_on(config_class: type, typed: Sequence[str]) -> list[str]:
    """The words with those that are not the workflow's own in a list under `HANDS_ON`, for the workflows that it runs.

    So `corpus=mine` of a recipe reaches its corpus, and Hydra does not take it for a choice of the recipe's own.
    """
    key: str | None = getattr(config_class, "HANDS_ON", None)
    if key is None:
        return list(typed)
    own = {"experiment", *(field.name for field in dataclasses.fields(config_class))}
    words: list[str] = []
    handed: list[str] = []
    for word in typed:
        first = re.split("[.=@/]", word.lstrip("+~"))[0]
        mine = word[0:1] == "-" or ("=" not in word and word[0:1] != "~") or first in own or first == "hydra"
        (words if mine or not first else handed).append(word)
    if handed:
        quoted = ("'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'" for word in handed)
        words.append(f"{key}=[{','.join(quoted)}]")
        _handed[words[-1]] = handed
    return words


def hydra_arguments(typed: Sequence[str]) -> list[str]:
    """Overrides before options: Hydra's argparse takes one unbroken row of overrides and no second."""
    overrides = [argument for argument in typed if argument[0:1] != "-" and ("=" in argument or argument[0:1] == "~")]
    options = [argument for argument in typed if argument not in overrides]
    sweeps = str(temporary_folder() / "trunkline-sweeps").replace("\\", "\\\\").replace("'", "\\'")
    return [*_HYDRA, *places.override(), f"hydra.sweep.dir='{sweeps}'", *overrides, *options]


def experiment_named(arguments: Sequence[str]) -> str | None:
    """`demo` when the command line says `+experiment=demo`."""
    named = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith("experiment=")]
    return named[-1].split("/")[0] if named else None


def with_overlay(argument: str, workflow: str) -> str:
    """`+experiment=demo` as `+experiment=demo/pretrain`: an experiment is a folder with one overlay per workflow."""
    key, _, name = argument.partition("=")
    if key.lstrip("+") != "experiment" or "/" in name:
        return argument
    if "," in name:  # a sweep over experiments
        each = (with_overlay(f"{key}={part.strip()}", workflow) for part in name.strip("'\"").split(","))
        return f"+experiment={','.join(overlay.partition('=')[2] for overlay in each)}"
    there = places.experiments()
    if name not in there:
        if (flat := places.find(f"experiment/{name}.yaml")) is not None:
            raise ConfigError(
                f"{argument}: {places.shown(flat)} is a file, and an experiment is a folder with an overlay for each "
                f"command: move it to experiment/{name}/{workflow}.yaml"
            )
        close = difflib.get_close_matches(name, there, n=1)
        raise ConfigError(
            f"{argument}: no such experiment; there are {', '.join(there)}"
            + (f": did you mean {key}={close[0]}?" if close else "")
        )
    overlay = places.overlay(name, workflow)
    if overlay is None:
        where = next((folder for folder in places.labs() if (folder / "experiment" / name).is_dir()), None)
        write = f", or write {places.shown(where / 'experiment' / name / workflow)}.yaml" if where else ""
        raise ConfigError(
            f"{argument} has no overlay for {workflow}; it has {', '.join(places.overlays(name))}: leave it out{write}"
        )
    places.check_overlay(overlay, workflow)
    return f"+experiment={name}/{workflow}"


def _dashed(text: str) -> str:
    """A name made of a reference. What is none becomes a name too, so that it is refused as what it is."""
    return re.sub(r"[^\w.-]+", "-", str(text)).strip("-.") or "none"


def register_resolvers() -> None:
    """`${dashes:pretrain/demo@step-240}` in a YAML is `pretrain-demo-step-240`: a name made of a reference."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("dashes", _dashed, replace=True)


def command_typed(workflow: str) -> str:
    """The command that Hydra composed: what makes the same artifact again, but for `on_change=`."""
    from hydra.core.hydra_config import HydraConfig

    return command_of(workflow, HydraConfig.get().overrides.task)


def command_of(workflow: str, overrides: Iterable[str]) -> str:
    """The command that makes what these overrides make.

    Nothing of `tracking.` is in it: an address may hold a password, and it decides nothing of the artifact. Nor is
    where a run once went back to: who makes it anew does not go there.
    """
    given = [
        re.sub(r"^(\+?experiment=[^/]+)/.*", r"\1", override)
        for word in overrides
        for override in _handed.get(word, [word])
        if not override.lstrip("+~").startswith(("on_change=", "dry_run=", "share=", "tracking.", "checkpoint.resume="))
    ]
    return shlex.join(["python", "-m", f"workflows.{workflow}", *places.words(), *given])


def keys_under(workflow: str, arguments: Sequence[str], where: str) -> list[str]:
    """The keys that the composed config has under a dotted path, without the overrides of what is under it; none where
    it fails.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    under = (f"{where}.", f"{where}=", "hydra")
    kept = [argument for argument in arguments if argument[0:1] != "-" and not argument.startswith(under)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(places.SHIPPED), version_base=None):
            return list(OmegaConf.select(compose(workflow, [*places.override(), *kept]), where) or ())
    except Exception:  # another mistake on the same command line
        return []
