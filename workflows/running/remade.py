"""Which command makes an artifact that is not there: a clause for the error that misses it.

Enters: `kind/name`, the store, and the experiment of the command that asked. Leaves: a command as it can be typed. A
recipe of the store that read the artifact makes it again, with all it was made of; else an overlay or a choice of
conf/ is called so; else the artifact of the same name is there that it would be made of.
"""

from __future__ import annotations

import shlex

import yaml

from pipelines.store.artifacts import ArtifactStore
from pipelines.store.ways_out import typed_again, workflow_of
from workflows.command_line import places

# by kind: the key that names what it is made of, and of which kind that is
_MADE_OF = {
    "tokens": ("data", "corpus"),
    "mixture": ("tokens", "tokens"),
    "sft": ("data", "tokens"),
    "dpo": ("data", "tokens"),
}


def remade_by(store: ArtifactStore, folder: str, experiment: str | None) -> tuple[str, bool]:
    """The command, and whether it is whole as it stands; else it needs choices that nothing here tells."""
    kind, _, name = folder.partition("/")
    workflow = workflow_of(kind)
    if (typed := _by_recipe(store, folder)) is not None:
        return typed, True
    if (words := _by_configs(workflow, name, experiment)) is not None:
        return _line(workflow, words), True
    key, input_kind = _MADE_OF.get(kind, ("", ""))
    if key and store.storage.exists(f"{input_kind}/{name}/manifest.json"):
        return _line(workflow, [f"{key}={input_kind}/{name}", f"name={name}"]), False
    return _line(workflow, [f"name={name}"]), False


def _by_recipe(store: ArtifactStore, folder: str) -> str | None:
    """The command of a recipe in this store that read the artifact."""
    for name in store.storage.folders("recipe"):
        recipe = store.find(f"recipe/{name}")
        if recipe is None or "command" not in recipe.manifest:
            continue
        read = recipe.manifest.get("identity", {}).get("inputs", {})
        if folder in read:
            return typed_again(recipe.folder, recipe.manifest, store.uri)
    return None


def _by_configs(workflow: str, name: str, experiment: str | None) -> list[str] | None:
    """The words that choose configs under which the workflow leaves this name."""
    experiments = places.experiments(workflow)
    if experiment in experiments:
        experiments = [experiment, *(one for one in experiments if one != experiment)]
    of_group = name in places.choices(workflow)  # e.g. mixture=demo_stable
    for one in experiments:
        overlay = places.overlay(one, workflow)
        values = yaml.safe_load(overlay.read_text(encoding="utf-8")) if overlay is not None else None
        stated = values if isinstance(values, dict) else {}
        if stated.get("name") == name:
            return [f"+experiment={one}"]
        if of_group and "name" not in stated and name.startswith(f"{one}_"):
            return [f"+experiment={one}", f"{workflow}={name}"]
    return [f"{workflow}={name}"] if of_group else None


def _line(workflow: str, words: list[str]) -> str:
    return shlex.join(["python", "-m", f"workflows.{workflow}", *words])
