"""From a study to its trials: each a chain of stage configs that its own command would take.

Enters: a `StudyConfig`, and a function that composes a stage's values once for each choice of config groups. Leaves:
trials, of which every key was checked. Dotted keys are set in the composed values, so a thousand trials take seconds.

A key belongs to the only stage that trains; where a chain has several stages it is prefixed with one's label
(`anneal.data`). Three keys are no keys of a config: `tokens` and `tokens_per_parameter` become steps, `batch_tokens`
becomes a global batch.

A run is named by what decides it (`d64L4-lr0.01-b2048-t1.05M-s0-1f3a9c`), not by its study: two studies that ask for
the same run share it, in one command or in two.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import WorkflowConfig, default_of, is_config, parse, plain
from pipelines.display.progress import human
from pipelines.errors import ConfigError
from pipelines.identity import fingerprint, identity
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.sandbox.axes import label_of, read_axis
from pipelines.train.sandbox.config import MIXTURE, SandboxConfig, StudyConfig, StudyStage
from pipelines.train.sandbox.space import outermost
from pipelines.train.spec import TrainConfig

# one for all trials of a sandbox, which says it at its top
SHARED = ("name", "store", "on_change", "dry_run", "cluster", "tracking")
_TOKENS, _TOKENS_PER_PARAMETER, _BATCH_TOKENS = PSEUDO = ("tokens", "tokens_per_parameter", "batch_tokens")
_MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Composed:
    """A stage as Hydra composes it: the class of its config, and its values."""

    config_class: type[WorkflowConfig]
    values: Mapping[str, Any]


# composes a stage with further choices of config groups, e.g. ("optimizer=muon",). Raises: ConfigError
Compose = Callable[[StudyStage, tuple[str, ...]], Composed]


@dataclass(frozen=True)
class TrialStage:
    """One command of a trial."""

    workflow: str
    config: Any  # a TrainConfig; of a mixture its workflow's own


@dataclass(frozen=True)
class Trial:
    """A trial before it is run.

    Attributes:
        study: its name. name: within the study, readable. settings: as `TrialResult` has them.
        seed_place: of the seed, among the study's.
        stages: in order.
        round: 0 of the YAML; 1, asked for by the study. number: of the proposal, in a search.
    """

    study: str
    name: str
    settings: Mapping[str, Any]
    seed: int
    seed_place: int
    stages: tuple[TrialStage, ...]
    round: int = 0
    number: int | None = None

    @property
    def trained(self) -> list[TrialStage]:
        """Its stages without mixtures."""
        return [stage for stage in self.stages if stage.workflow != MIXTURE]

    @property
    def key(self) -> str:
        """What decides it, in a few digits: equal trials of two studies have one."""
        return fingerprint([f"{stage.workflow}/{stage.config.name}" for stage in self.trained])


class Expander:
    """Makes the trials of one study."""

    def __init__(
        self, name: str, study: StudyConfig, sandbox: SandboxConfig, compose: Compose, groups: Collection[str]
    ):
        """Args: groups, of conf/, whose choices a key may name. Raises: ConfigError."""
        self.name, self.study, self.sandbox, self._compose, self._groups = name, study, sandbox, compose, groups
        self.axes = [read_axis(axis, form, f"studies.{name}.vary.{axis}") for axis, form in study.vary.items()]
        if not self.axes and study.search is None:
            raise ConfigError(
                f"studies.{name} varies nothing: give it `vary` (a key and its values) or `search`, or take it out"
            )
        self._by_name = {axis.name: axis for axis in self.axes}
        self._bases: dict[tuple[int, tuple[str, ...]], Composed] = {}
        self._routes: dict[str, tuple[int, str]] = {}

    def trials(self) -> list[Trial]:
        """Every combination, with every seed. Raises: ConfigError naming the key."""
        if self.study.search is not None:
            return []  # its trials are proposed one by one
        count = len(self.study.seed_list)
        for axis in self.axes:
            count *= len(axis.options)
        if count > _MOST_TRIALS:
            raise ConfigError(
                f"studies.{self.name}.vary makes {count:,} trials; expected at most {_MOST_TRIALS:,}: "
                "vary less at a time"
            )
        trials = [self.trial(settings, seed) for settings in self.combinations() for seed in self.study.seed_list]
        return trials

    def probes(self) -> list[Trial]:
        """Trials at the ends of each search's space: what stands for proposals before there are any.

        Raises: ConfigError for a key or a value that no stage takes.
        """
        if self.study.search is None:
            return []
        seed = self.study.seed_list[0]
        return [
            self.trial({**combination, **values}, seed)
            for combination in self.combinations()
            for values in outermost(self.study.search)
        ]

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Settings of `vary`, each combination once; an empty one where nothing varies."""
        for options in itertools.product(*(axis.options for axis in self.axes)):
            yield {axis.name: option.value for axis, option in zip(self.axes, options, strict=True)}

    def trial(self, settings: Mapping[str, Any], seed: int, round: int = 0, number: int | None = None) -> Trial:
        """One trial. Args: settings, axis or key -> value; an axis of bundles takes a label. Raises: ConfigError."""
        keys, labels = self._keys_of(settings)
        proposal = [] if number is None else [f"#{number}"]
        name = " ".join([*proposal, *self._parts_of_name(labels), f"seed={seed}"]) + (
            " (second round)" if round else ""
        )
        try:
            stages = self._stages(keys, seed)
        except ConfigError as error:
            raise ConfigError(f"study {self.name}, trial {name}: {error}") from error
        seeds = self.study.seed_list
        place = seeds.index(seed) if seed in seeds else 0
        return Trial(self.name, name, dict(settings), seed, place, tuple(stages), round, number)

    # ── settings to keys ──────────────────────────────────────────────────────────────────────────────────────────────

    def _keys_of(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Keys of the stages with their values, and a label for each setting."""
        keys: dict[str, Any] = {}
        labels: dict[str, str] = {}
        for name, value in settings.items():
            axis = self._by_name.get(name)
            option = next((option for option in axis.options if option.value == value), None) if axis else None
            if option is None and axis is not None and axis.name not in axis.options[0].keys:
                accepted = ", ".join(option.label for option in axis.options)
                raise ConfigError(f"study {self.name}: {name} is {value!r}; expected one of {accepted}")
            labels[name] = label_of(value) if option is None else option.label
            for key, setting in ({name: value} if option is None else option.keys).items():
                if key in keys:
                    raise ConfigError(
                        f"studies.{self.name}.vary sets {key} in two places: keep it in one, e.g. in the bundles"
                    )
                keys[key] = setting
        return keys, labels

    def _parts_of_name(self, labels: Mapping[str, str]) -> list[str]:
        """`d64` of bundles, `peak_lr=0.01` of keys, the whole key where two end alike; nothing of a single value."""
        last = [name.rpartition(".")[2] for name in labels]
        parts = []
        for name, label in labels.items():
            axis = self._by_name.get(name)
            if axis is not None and len(axis.options) == 1:
                continue  # it does not vary
            bundled = axis is not None and name not in axis.options[0].keys
            short = name.rpartition(".")[2]
            parts.append(label if bundled else f"{short if last.count(short) == 1 else name}={label}")
        return parts

    def _route(self, key: str) -> tuple[int, str]:
        """Which stage a key is of, and its name there. Raises: ConfigError."""
        if key not in self._routes:
            self._routes[key] = self._find_route(key)
        return self._routes[key]

    def _find_route(self, key: str) -> tuple[int, str]:
        stages = self.study.stages
        prefix, _, rest = key.partition(".")
        places = [place for place, stage in enumerate(stages) if stage.prefix == prefix and rest]
        if places:
            (place,) = places
            # `mixture.weights.web` of a stage called mixture, whose config has `mixture` as a key of its own
            composed = self._base(place, ())
            whole = rest.split(".")[0] not in composed.values and prefix in composed.values
            place, inner = place, key if whole else rest
        elif len(stages) == 1:
            place, inner = 0, key
        else:
            accepted = ", ".join(f"{stage.prefix}.{key}" for stage in stages)
            raise ConfigError(
                f"the study has {len(stages)} stages, and {key} does not say which it is of: write one of {accepted}"
            )
        first = inner.split(".")[0].split("=")[0]
        if first in SHARED:
            raise ConfigError(f"{key} varies, but all trials of a sandbox share one {first}: set it for the sandbox")
        if inner == "seed":
            raise ConfigError(f"{key} varies, but a study says its seeds by itself: studies.{self.name}.seeds=[…]")
        return place, inner

    # ── keys to configs ───────────────────────────────────────────────────────────────────────────────────────────────

    def _base(self, place: int, choices: tuple[str, ...]) -> Composed:
        """A stage's values, composed once for each choice of groups."""
        if (place, choices) not in self._bases:
            self._bases[place, choices] = self._compose(self.study.stages[place], choices)
        return self._bases[place, choices]

    def base_values(self) -> list[tuple[str, dict[str, Any]]]:
        """Workflow and composed values of each stage, for what decides the study."""
        return [(stage.workflow, dict(self._base(place, ()).values)) for place, stage in enumerate(self.study.stages)]

    def _stages(self, keys: Mapping[str, Any], seed: int) -> list[TrialStage]:
        own: list[dict[str, Any]] = [{} for _ in self.study.stages]
        for key, value in keys.items():
            place, inner = self._route(key)
            own[place][inner] = value
        made: list[TrialStage] = []
        model: ModelConfig | None = None
        for place, stage in enumerate(self.study.stages):
            if stage.workflow == MIXTURE:
                made.append(TrialStage(MIXTURE, self._mixture(place, own[place])))
                continue
            reads = made[-1].config.name if made and made[-1].workflow == MIXTURE else None
            values = self._values(place, own[place])
            if reads is not None:
                values["data"] = f"{MIXTURE}/{reads}"
            values["seed"] = seed
            pseudo = {key: own[place][key] for key in PSEUDO if key in own[place]}
            config = parse(TrainConfig, {**values, "name": "unnamed"})
            model = config.model or model
            if pseudo:
                config = parse(TrainConfig, _with_tokens(plain(config), pseudo, model))
            label = _label(config, model, [*(stage.config.name for stage in made)])
            made.append(TrialStage(stage.workflow, dataclasses.replace(config, name=label)))
        return made

    def _values(self, place: int, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a stage with its keys set, and with what all trials share."""
        choices = tuple(
            f"{key}={value}" for key, value in keys.items() if key in self._groups and isinstance(value, str)
        )
        chosen = {choice.partition("=")[0] for choice in choices}
        values: dict[str, Any] = copy.deepcopy(dict(self._base(place, choices).values))
        for key, value in keys.items():
            if key not in chosen and key not in PSEUDO:
                set_key(values, key, value)
        shared = {key: plain(getattr(self.sandbox, key)) for key in SHARED if key != "name"}
        # a sandbox that is made anew draws from the runs that are there
        change = "keep" if self.sandbox.on_change == "keep" else "refuse"
        return {**values, **shared, "dry_run": False, "on_change": change}

    def _mixture(self, place: int, keys: Mapping[str, Any]) -> Any:
        pseudo = [key for key in PSEUDO[1:] if key in keys]
        if pseudo:
            raise ConfigError(f"{pseudo[0]} is of a stage that trains; a mixture has none")
        composed = self._base(place, ())
        values = self._values(place, {key: value for key, value in keys.items() if key != _TOKENS})
        if _TOKENS in keys:
            values[_TOKENS] = keys[_TOKENS]
        config = parse(composed.config_class, {**values, "name": "unnamed"})
        recipe = values.get("mixture", {}).get("name") or "mixture"
        return parse(composed.config_class, {**values, "name": f"{recipe}-{fingerprint(identity(config))[:6]}"})


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested values. Raises: ConfigError where the way there is no mapping."""
    *parents, leaf = key.split(".")
    scope = values
    for depth, parent in enumerate(parents):
        if scope.get(parent) is None:
            scope[parent] = {}
        scope = scope[parent]
        if not isinstance(scope, dict):
            where = ".".join(parents[: depth + 1])
            raise ConfigError(f"{key} cannot be set: {where} is {scope!r}, and nothing is inside it")
    scope[leaf] = copy.deepcopy(value)


def _with_tokens(values: dict[str, Any], pseudo: Mapping[str, Any], model: ModelConfig | None) -> dict[str, Any]:
    """Steps and batch from the keys that count tokens."""
    for key, value in pseudo.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ConfigError(f"{key} is {value!r}; expected a number above 0")
    length, workers = values["batch"]["sequence_length"], values["cluster"]["workers"]
    if _BATCH_TOKENS in pseudo:
        rows = max(1, round(pseudo[_BATCH_TOKENS] / length / workers)) * workers
        values["batch"] = {
            "sequence_length": length,
            "global_batch": rows,
            "micro_batch": _largest_divisor(rows // workers, values["batch"]["micro_batch"]),
        }
    if _TOKENS in pseudo and _TOKENS_PER_PARAMETER in pseudo:
        raise ConfigError(f"{_TOKENS} and {_TOKENS_PER_PARAMETER} both say how long a run is: keep one")
    tokens = pseudo.get(_TOKENS)
    if _TOKENS_PER_PARAMETER in pseudo:
        if model is None:
            raise ConfigError(f"{_TOKENS_PER_PARAMETER} needs the model, which comes from a parent here: use {_TOKENS}")
        tokens = pseudo[_TOKENS_PER_PARAMETER] * parameter_counts(model)["non_embedding"]
    if tokens is not None:
        steps = round(tokens / (values["batch"]["global_batch"] * length))
        if steps < 1:
            raise ConfigError(
                f"{tokens:,.0f} tokens are less than one step of {values['batch']['global_batch']} × {length}: "
                "give more tokens or a smaller batch"
            )
        values["steps"], values["epochs"] = steps, None
    return values


def _largest_divisor(rows: int, most: int) -> int:
    """The largest micro-batch up to the configured one that divides a worker's rows."""
    return next(size for size in range(min(rows, most), 0, -1) if rows % size == 0)


def _label(config: TrainConfig, model: ModelConfig | None, before: Sequence[str]) -> str:
    """The name of a run: what one looks for first, and digits of all that decides it.

    Also fields that change no more than how a run is computed (`zero`, `compute`, the micro-batch, workers): they
    change its rounding. Args: before, names of the chain's stages until here.
    """
    how = {key: value for key, value in _departures(config).items() if key not in SHARED}
    digits = fingerprint([identity(config), how, config.cluster.workers, list(before)])[:6]
    batch_tokens = config.batch.global_batch * config.batch.sequence_length
    rate = config.schedule.peak_lr
    parts = [
        f"d{model.d_model}L{model.layers}" if model else "",
        f"lr{rate:.3g}".replace("+", "") if rate else "",
        f"b{batch_tokens}",
        f"t{human(batch_tokens * config.steps)}" if config.steps else "",
        f"s{config.seed}",
        digits,
    ]
    return "-".join(part for part in parts if part)


def _departures(value: Any) -> Any:
    """A config without the fields that are at their defaults, so that a field that is added later renames no run."""
    if not is_config(value):
        return plain(value)
    fields = dataclasses.fields(value)
    return {
        field.name: _departures(getattr(value, field.name))
        for field in fields
        if getattr(value, field.name) != default_of(field)
    }
