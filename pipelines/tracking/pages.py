"""MLflow's pages for a person: the one that compares the runs at hand, and those to begin with.

Enters: where a command tracks. Leaves: addresses; the views that they open are saved at the server first.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError, TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.storage import FolderStorage
from pipelines.tracking import ablation
from pipelines.tracking.account import GROUP
from pipelines.tracking.errors import told
from pipelines.tracking.links import UI_PORT, address, view_page
from pipelines.tracking.place import database_of
from pipelines.tracking.records import run_at
from pipelines.tracking.tracker import client_at

_ARTIFACT = "trunkline.artifact"  # a tag: what a run made
_MOST_NAMED = 12
_MOST_SETS = 5  # held-out sets, of which the evaluations have a page each


@dataclass(frozen=True)
class Comparison:
    """A page that compares runs.

    Attributes: served, whether a server has it now; otherwise the command `ui` begins one. order, in words.
    """

    url: str
    title: str
    arms: int
    order: str
    served: bool


@dataclass(frozen=True)
class Asked:
    """What is to be compared: the runs beside that of an artifact, the arms of a sweep, or what evaluations are of."""

    folder: str | None = None
    group: str | None = None
    evaluations: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.folder or f"group {self.group}"


def comparison(
    config: TrackingConfig,
    store: ArtifactStore,
    asked: Asked,
    port: int = UI_PORT,
    measures: Mapping[str, ablation.Measure] | None = None,
) -> Comparison | None:
    """The page that compares the arms; None where there is nothing to compare, or MLflow has no pages.

    Args: measures, by which evaluated runs of a kind are ranked; others are by bits per byte.
    Raises: ConfigError where the server does not answer, or has not heard of it.
    """
    uri, client = client_at(config, store)
    base = address(uri, port)
    if base is None:
        return None
    finder = ablation.Finder(client, lambda folder: run_at(store.storage, folder, uri), measures or {})
    try:
        if asked.folder is not None:
            run_id = run_at(store.storage, asked.folder, uri)
            if run_id is None:
                there = _named(asked.folder, ablation.known(client, _experiment(client, config, uri), _ARTIFACT))
                raise ConfigError(
                    f"MLflow at {uri} has no run of {asked.folder}: was it made with tracking.enabled? It has {there}"
                )
            run = client.get_run(run_id)
            experiment_id, compared = run.info.experiment_id, finder.of_run(run)
        elif asked.evaluations:
            experiment_id = _experiment(client, config, uri)
            run_ids = [run_at(store.storage, folder, uri) for folder in asked.evaluations]
            compared = finder.of_evaluations(experiment_id, [one for one in run_ids if one is not None])
        else:
            experiment_id = _experiment(client, config, uri)
            compared = finder.of_group(experiment_id, asked.group or "")
            groups = ablation.known(client, experiment_id, GROUP) if compared is None else []
            if compared is None and asked.group not in groups:
                raise ConfigError(
                    f"MLflow at {uri} has no group {asked.group or repr('')} in its experiment {config.experiment}; it "
                    f"has {_named(asked.group or '', groups)}"
                    + ("" if groups else ": a sweep (-m) makes one, under the name that its table has")
                )
        if compared is None:
            return None
        view = ablation.view_of(compared, ablation.curves_of(client, compared.arms))
        ablation.colour(client, compared.arms)
        key = ablation.save(client, experiment_id, view)
    except TrunklineError:
        raise
    except Exception as error:
        raise ConfigError(told(uri, error)) from error
    return Comparison(
        url=view_page(base, experiment_id, key, charts=True),
        title=compared.title,
        arms=len(compared.arms),
        order=ablation.told_apart(compared),
        served=database_of(uri) is None,
    )


def opening_pages(config: TrackingConfig, store: ArtifactStore, port: int = UI_PORT) -> list[tuple[str, str]]:
    """What to look at first, the most useful first: label and address of each page.

    Raises: ConfigError where the server does not answer, or nothing was tracked yet.
    """
    if not config.uri and isinstance(store.storage, FolderStorage) and not store.storage.root.exists():
        raise ConfigError(f"there is no store {store.uri}, so nothing was tracked there: set store= or tracking.uri=")
    uri, client = client_at(config, store)
    base = address(uri, port)
    if base is None:
        raise ConfigError(f"MLflow at {uri} has no pages that a browser can open: set tracking.uri=http://…")
    try:
        experiment_id = _experiment(client, config, uri)
        tree = ablation.save(client, experiment_id, ablation.training_view())
        pages = [("training runs", view_page(base, experiment_id, tree, charts=False))]
        evaluations = client.search_runs(
            [experiment_id], f"tags.`{ablation.KIND}` = 'evaluate'", order_by=["attributes.start_time DESC"]
        )
        sets = dict.fromkeys(
            run.data.tags[ablation.HELDOUT] for run in evaluations if ablation.HELDOUT in run.data.tags
        )
        replaced = [run.info.run_id for run in evaluations if ablation.REPLACED in run.data.tags]
        for heldout in list(sets)[:_MOST_SETS]:
            key = ablation.save(client, experiment_id, ablation.evaluations_view(heldout, replaced))
            pages.append((f"evaluations on {heldout}", view_page(base, experiment_id, key, charts=False)))
        if client.search_registered_models(max_results=1):
            pages.append(("exported models", f"{base}/#/models"))
    except TrunklineError:
        raise
    except Exception as error:
        raise ConfigError(told(uri, error)) from error
    return pages


def _named(name: str, known: Sequence[str]) -> str:
    """The names that are known, those first that are most like one."""
    near = difflib.get_close_matches(name, known, n=_MOST_NAMED, cutoff=0.3)
    names = [*near, *(other for other in known if other not in near)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (", ".join(names[:_MOST_NAMED]) or "none") + more


def _experiment(client: Any, config: TrackingConfig, uri: str) -> str:
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        raise ConfigError(
            f"MLflow at {uri} has no experiment {config.experiment}, since nothing was tracked there yet: run a "
            "command first, or set store=, tracking.uri= or tracking.experiment="
        )
    return str(experiment.experiment_id)
