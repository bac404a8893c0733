"""Typed configuration: YAML chooses, frozen dataclasses define, unknown keys fail.

Enters: the plain dict that a workflow resolved (from Hydra, or from a JSON file under torchrun).
Leaves: frozen dataclasses.

Three kinds of field are no part of the identity (`pipelines/identity.py`), and therefore of no fingerprint. A field
that changes where or how fast a run goes but not its result (workers, store, logging) is declared with `runtime()`. A
field at its default is left out, so that a new field makes nothing stale that was made before it. Where a default
changes later, `changed()` says what it was at first: that value is still what is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from pipelines.errors import ConfigError
from pipelines.uris import gives_password, holds_secret

T = TypeVar("T")
# schemes that nothing of MLflow's is reached by; other unknown ones may be a plugin's, as azureml:
_NOT_TRACKED = "s?ftp|ssh|s3a?|gs|abfss?|hdfs|wss?|hf|ray|redis|mongodb|mlflow"
_LONGEST_EXPERIMENT = 256  # the column in MLflow's database
LONGEST_NAME = 200  # bytes; file systems take 255, and files beside it are called after it
_MOST_MEANT = 3  # places that are named for a key which stands in several


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def config_class(cls: type[T]) -> type[T]:
    """A frozen dataclass with keywords alone, whose values are kept in an artifact's identity.

    Because its values are kept there, the hash of its module leaves its annotated fields out
    (`pipelines/store/draft.py`): to add one changes no fingerprint.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__is_config_class__ = True  # type: ignore[attr-defined]
    return made


def is_config(value: Any) -> bool:
    """Whether `value` is an instance of a `config_class`."""
    return hasattr(type(value), "__is_config_class__")


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a field takes, written beside it: `share: Annotated[float, Range(0, 1)]`; `parse` refuses all
    others.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None  # as low, and not the bound itself
    below: float | None = None  # as high, likewise

    def holds(self, value: float) -> bool:
        """Whether `value` lies within."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """E.g. `of at least 0 and at most 1`."""
        bounds = (("of at least", self.low), ("above", self.above), ("of at most", self.high), ("below", self.below))
        said = (
            (words, bound if isinstance(bound, int) else f"{bound:g}") for words, bound in bounds if bound is not None
        )
        told = " and ".join(f"{words} {bound}" for words, bound in said)
        return told.replace("and of at most", "and at most")


@dataclasses.dataclass(frozen=True)
class Open:
    """Beside a number's type: null is taken as well, and means that planning works the number out before it is read."""


@dataclasses.dataclass(frozen=True)
class Wording:
    """Which texts a field takes, and how a person says so, written beside `str`."""

    pattern: str
    said: str

    def __str__(self) -> str:
        return self.said


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One key of a mapping picks a row of a table, and the row's `Settings` is the config class of that mapping.

    `optimizer: Annotated[OptimizerSettings, Chosen("kind", lambda: OPTIMIZERS)]`: with `optimizer.kind=muon` the
    mapping is parsed as `OPTIMIZERS["muon"].Settings`. Each `Settings` says its own name, `kind: Literal["muon"] =
    "muon"`, and extends the class in the annotation. Where the mapping has no `kind`, that of the field's default is
    taken.
    """

    key: str
    table: Callable[[], Mapping[str, Any]]

    def settings(self) -> dict[str, type]:
        """The config class of each row, by the row's name."""
        return {name: row.Settings for name, row in self.table().items()}

    def pick(self, value: Mapping[str, Any], default: Any, where: str) -> type:
        """The config class for a mapping. Raises: ConfigError for a name that is no row's, or for none at all."""
        settings = self.settings()
        accepted = "one of " + ", ".join(sorted(settings))
        name = value.get(self.key, getattr(default, self.key, None))
        if name is None and self.key not in value:
            raise ConfigError(
                f"missing key {_join(where, self.key)} ({accepted}): set it in the YAML or on the command line"
            )
        if not isinstance(name, str) or name not in settings:
            raise ConfigError(f"{_join(where, self.key)} is {name!r}; expected {accepted}")
        return settings[name]

    def __str__(self) -> str:
        """E.g. `a mapping whose kind is one of adamw, muon`."""
        return f"a mapping whose {self.key} is one of {', '.join(sorted(self.table()))}"


@dataclasses.dataclass(frozen=True)
class ChosenByName:
    """The name under which a value stands picks a row of a table, and the row's `Settings` is the config class of it.

    `tasks: dict[str, Annotated[TaskSettings | None, ChosenByName(lambda: TASKS)]]`: `tasks.text` is parsed as
    `TASKS["text"].Settings`. Each `Settings` extends the class in the annotation.
    """

    table: Callable[[], Mapping[str, Any]]

    def settings(self) -> dict[str, type]:
        """The config class of each row, by the row's name."""
        return {name: row.Settings for name, row in self.table().items()}

    def hints(self, nullable: bool) -> dict[str, Any]:
        """What may stand under each name. Args: nullable, whether null may."""
        return {name: cls | None if nullable else cls for name, cls in self.settings().items()}


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Rows = Annotated[int, Range(1, 2**24)]  # of a batch: a refusal looks for its divisors one by one
Window = Annotated[int, Range(1, 2**31 - 1)]  # tokens; numpy and torch count them, with room for sums
Positive = Annotated[float, Range(above=0)]
Amount = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Momentum = Annotated[float, Range(0, below=1)]  # what a running mean keeps of itself


def runtime(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that does not change the result, so it does not enter the fingerprint."""
    return _field(default, default_factory, {"runtime": True})


def _field(default: Any, default_factory: Any, metadata: dict[str, Any]) -> Any:
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def changed(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING, founding: Any) -> Any:
    """A dataclass field whose default is no longer what it was when the field was added.

    Args:
        default, default_factory: what the field is now where nobody says otherwise.
        founding: what it was at first. What was made with that value has no such field in its identity, so that value
            is still what the identity leaves out, and the default of now is not.
    """
    return _field(default, default_factory, {"founding": founding})


def chosen(cls: type, name: str) -> Chosen | None:
    """How the class of a field's value, or of each in its list or mapping, is picked where a table says so."""
    return _choice(hints(cls)[name])


def _choice(hint: Any) -> Chosen | None:
    marks = (mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Chosen))
    inner = (choice for argument in typing.get_args(hint) if (choice := _choice(argument)) is not None)
    return next(marks, None) or next(inner, None)


def parts_of(hint: Any) -> dict[str, Any]:
    """The keys that stand inside a value of this hint, with their types: fields, or the names of a table's rows.

    Of all types that the value may have, and of all rows that a key of it may choose. Empty for a number, a list, or a
    mapping that takes any name.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and (choice := next((mark for mark in arguments[1:] if isinstance(mark, Chosen)), None)):
        return {name: field for row in choice.settings().values() for name, field in hints(row).items()}
    if origin is Annotated:
        return parts_of(arguments[0])
    if origin is Union or origin is types.UnionType:
        return {name: part for option in arguments for name, part in parts_of(option).items()}
    if origin is dict:
        named = _by_name(arguments[1])
        return {} if named is None else named
    return hints(typing.cast(type, hint)) if dataclasses.is_dataclass(hint) else {}


def paths_to(cls: type, name: str) -> list[str]:
    """Dotted paths of the keys called `name` inside the fields of a config class, those of the class left out."""

    def below(hint: Any, where: str) -> list[str]:
        inside = parts_of(hint)
        here = [_join(where, name)] if where and name in inside else []
        return here + [path for key, part in inside.items() for path in below(part, _join(where, key))]

    return below(cls, "")


def _by_name(hint: Any) -> dict[str, Any] | None:
    """The types that names choose, where the values of a mapping are chosen by their names."""
    if typing.get_origin(hint) is not Annotated:
        return None
    base, *marks = typing.get_args(hint)
    choice = next((mark for mark in marks if isinstance(mark, ChosenByName)), None)
    return None if choice is None else choice.hints(nullable=type(None) in typing.get_args(base))


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The types of a config class's fields, with what `Annotated` says beside them."""
    return typing.get_type_hints(cls, include_extras=True)


def parse(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from `values`.

    Args:
        cls: a dataclass; nested dataclasses, lists, tuples, dicts, Optional and Literal fields are followed.
        values: plain data, as YAML or JSON gives it.
        where: dotted path of `values` in the whole config, for messages.

    Raises:
        ConfigError: an unknown key, a missing key, a value of the wrong type, a number that is none (nan, inf) or lies
        outside
            its field's `Range`; named by its full dotted path.
    """
    if not isinstance(values, Mapping):
        raise _WrongType(f"{where or 'the config'} is {_describe(values)}; expected a mapping with keys {_keys(cls)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise _unknown(str(key), fields, where, [_join(where, path) for path in paths_to(cls, str(key))])
    types_of = typing.get_type_hints(cls, include_extras=True)
    parsed: dict[str, Any] = {}
    for name, field in fields.items():
        default = default_of(field)
        if name in values and values[name] != "???":  # OmegaConf's mark for a key that has to be set
            parsed[name] = _convert(types_of[name], values[name], _join(where, name), default)
        elif default is dataclasses.MISSING or name in values:
            raise ConfigError(
                f"missing key {_join(where, name)} ({type_name(types_of[name])}): set it in the YAML or on the command "
                "line"
            )
    return cls(**parsed)


def meant(moved: Iterable[str], close: Iterable[str]) -> str | None:
    """What to write instead of a key that is not there: `did you mean optimizer.kind?`; None where nothing is like it.

    Args: moved, paths of keys of the very name elsewhere; close, paths of keys of a similar name in the same place.
    """
    paths = list(moved)[:_MOST_MEANT] or list(close)[:1]
    return f"did you mean {' or '.join(paths)}?" if paths else None


def _unknown(key: str, accepted: Iterable[str], where: str, moved: Iterable[str] = ()) -> ConfigError:
    names = list(accepted)
    first, _, inner = key.partition(".")
    if first in names and inner:  # of a YAML, which takes a dot for a letter
        return ConfigError(f"unknown key {_join(where, key)}; write {first}: and in the next line, indented, {inner}:")
    close = [_join(where, name) for name in difflib.get_close_matches(key, names, n=1)]
    hint = meant(moved, close) or "remove it"
    if key == where.rpartition(".")[2]:
        hint = f"what is under {key}: stands there without it"
    return ConfigError(f"unknown key {_join(where, key)}; accepted here: {', '.join(names)}: {hint}")


def default_of(field: dataclasses.Field[Any]) -> Any:
    """What a field is where nobody says otherwise, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@config_class
class ClusterConfig:
    """Where Ray runs and what a training worker gets."""

    address: str | None = None  # null: join the cluster this process is a job of, else start an embedded Ray
    workers: Count = 2  # training processes (ranks)
    cpus_per_worker: Amount = 1.0
    gpus_per_worker: Amount = 0.0
    accelerator: str | None = None  # the kind of GPU to train on, where a Ray cluster has several, e.g. H100
    grows: bool = False  # an autoscaler adds machines: training waits for those that are missing instead of refusing
    max_failures: Whole = 3  # restarts of the whole worker group before the run is FAILED
    shard_retries: Whole = 3  # retries of one data shard whose worker was lost
    price_per_core_hour: Amount | None = None  # in any currency: dry_run=true of a corpus then says what it costs

    def __post_init__(self) -> None:
        """Raises: ConfigError for what Ray takes for no address."""
        if self.address and not re.fullmatch(r"auto|local|(ray://)?[^\s/]+:\d+/?", self.address):
            raise ConfigError(
                f"cluster.address is {self.address!r}; expected host:port of a Ray cluster, e.g. 10.0.0.1:6379, "
                "ray://10.0.0.1:10001, or null (to send a command to a cluster by http://…:8265, see workflows.submit)"
            )


@config_class
class TrackingConfig:
    """Where MLflow keeps its runs."""

    enabled: bool = True
    uri: str | None = None  # null: SQLite beside the store; else e.g. http://mlflow:5000
    experiment: str = "trunkline"
    system_every_seconds: Amount = 10.0  # processors, memory, GPUs of the machine as metrics; 0: never

    def __post_init__(self) -> None:
        """Raises: ConfigError for a URI that holds a password, or an experiment without a name."""
        if self.uri and holds_secret(self.uri):
            raise ConfigError(
                "tracking.uri (or MLFLOW_TRACKING_URI) holds a user's name or password, and a URI is written into "
                "logs and artifacts: give it without them, e.g. http://mlflow:5000, and set MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) in the environment; a database finds its "
                "password in a file, e.g. PGPASSFILE"
            )
        if self.uri and re.fullmatch(r"[\w.-]+:\d+(/.*)?", self.uri):
            raise ConfigError(f"tracking.uri is {self.uri!r}, without a scheme: write tracking.uri=http://{self.uri}")
        if self.uri and (
            re.match(rf"({_NOT_TRACKED}):", self.uri, re.IGNORECASE)
            or not re.match(r"[a-z][a-z0-9+-]*:|databricks$|\.{0,2}/", self.uri)
        ):
            raise ConfigError(
                f"tracking.uri is {self.uri!r}; expected a server or a database, e.g. http://mlflow:5000 or "
                "sqlite:////path/to/mlflow.db, or null for the one beside the store"
            )
        if not self.experiment.strip():
            raise ConfigError("tracking.experiment is empty; expected the name of an MLflow experiment, e.g. trunkline")
        if len(self.experiment) > _LONGEST_EXPERIMENT:
            raise ConfigError(
                f"tracking.experiment has {len(self.experiment):,} characters; MLflow keeps {_LONGEST_EXPERIMENT}: "
                "shorten it"
            )


@config_class
class WorkflowConfig:
    """What every workflow takes; none of it changes the result."""

    name: str = runtime()
    store: str = runtime("store")  # a folder or s3://bucket/prefix
    on_change: Literal["refuse", "rebuild", "keep"] = runtime("refuse")
    dry_run: bool = runtime(False)
    cluster: ClusterConfig = runtime(default_factory=ClusterConfig)
    tracking: TrackingConfig = runtime(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        """Raises: ConfigError for a name that cannot be a folder, or an empty store."""
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(
                f"name is {self.name!r}; expected letters, digits, _, . and -, beginning with none of . and -"
            )
        if (long := len(self.name.encode())) > LONGEST_NAME:
            raise ConfigError(
                f"name has {long} bytes ({self.name[:20]}…); folders of that name are made, which takes {LONGEST_NAME} "
                "at most: shorten it"
            )
        if self.store != self.store.encode(errors="replace").decode():
            raise ConfigError(
                f"store is {self.store!r}, whose name is no UTF-8; artifacts and MLflow write it down as text: give "
                "the folder another name"
            )
        if not self.store.strip():
            raise ConfigError(
                "store is empty; expected a folder or s3://bucket/prefix: is TRUNKLINE_STORE set to nothing?"
            )


def plain(value: Any) -> Any:
    """The JSON-able form of a config value; the inverse of `parse`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    # a store's name has a refusal of its own
    if isinstance(value, str) and where != "store" and any("\ud800" <= one <= "\udfff" for one in value):
        raise _UnfitText(
            f"{where} is {value!a}; expected text in UTF-8, which configs are kept in: name a file of another name by "
            "its folder or by a pattern (`?`, `*`)"
        )
    if hint is Any:
        return value
    if origin is Annotated:
        if choice := next((mark for mark in arguments[1:] if isinstance(mark, Chosen)), None):
            if value is None and type(None) in typing.get_args(arguments[0]):
                return None
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where} is {_describe(value)}; expected {type_name(hint)}")
            return parse(choice.pick(value, default, where), value, where)
        if value is None and any(isinstance(mark, Open) for mark in arguments[1:]):
            return None
        if wording := next((mark for mark in arguments[1:] if isinstance(mark, Wording)), None):
            text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
            if isinstance(text, str) and re.fullmatch(wording.pattern, text):
                return text
            raise _WrongType(f"{where} is {_describe(value)}; expected {wording}")
        whole = isinstance(value, int) and not isinstance(value, bool)
        try:
            number = value if whole else _convert(arguments[0], value, where)
        except _WrongType:
            written = _written(hint, value, where)
            raise _WrongType(f"{where} is {_describe(value)}; expected {type_name(hint)}{written}") from None
        if all(bound.holds(number) for bound in arguments[1:] if isinstance(bound, Range)):
            return _convert(arguments[0], number, where)
        raise _OutOfRange(
            f"{where} is {value}; expected {type_name(hint)}: change it in the YAML or on the command line"
        )
    if origin is Union or origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        failures = []
        for option in (argument for argument in arguments if argument is not type(None)):
            try:
                return _convert(option, value, where)
            except ConfigError as error:
                failures.append(error)
        if unfit := [failure for failure in failures if isinstance(failure, _UnfitText)]:
            raise unfit[0]
        # of another type altogether, it is told with all that are taken, null among them
        if len(failures) == 1 and not isinstance(failures[0], _WrongType):
            raise failures[0]
        # of the right shape, with something wrong inside it
        if inside := [failure for failure in failures if str(failure).startswith((f"{where}.", f"{where}["))]:
            raise inside[0]
        if any(isinstance(failure, _OutOfRange) for failure in failures):
            raise _OutOfRange(
                f"{where} is {value}; expected {type_name(hint)}: change it in the YAML or on the command line"
            )
    elif origin is Literal:
        if value in arguments and type(value) in {type(argument) for argument in arguments}:
            return value
    elif dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where)
    elif origin in (list, tuple):
        if isinstance(value, (list, tuple)):
            if origin is tuple and arguments[-1:] != (Ellipsis,):
                if len(arguments) == len(value):
                    return tuple(
                        _convert(a, item, f"{where}[{i}]")
                        for i, (a, item) in enumerate(zip(arguments, value, strict=True))
                    )
            else:
                return origin(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    elif origin is dict:
        if isinstance(value, Mapping):
            named = _by_name(arguments[1])
            options = dict.fromkeys(map(str, value), arguments[1]) if named is None else named
            for key in value:
                if str(key) not in options:
                    raise _unknown(str(key), options, where)
            return {str(key): _convert(options[str(key)], item, _join(where, str(key))) for key, item in value.items()}
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _finite(value, where)
        if isinstance(value, str):  # YAML 1.1 reads 1e-5 as a string
            try:
                number = float(value)
            except ValueError:
                pass
            else:
                return _finite(number, where)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) < 2**63:  # what numpy, torch and JSON readers take for a whole number
                return value
            raise _OutOfRange(
                f"{where} is {value}; expected a whole number below 2^63: change it in the YAML or on the command line"
            )
        if isinstance(value, float) and value.is_integer():
            raise ConfigError(f"{where} is {value}; expected a whole number: write {value:.0f}")
    elif hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # name=2024 on a command line
    elif isinstance(value, hint):
        # that one has a refusal of its own
        if isinstance(value, str) and where != "tracking.uri" and gives_password(value):
            raise _UnfitText(
                f"{where} holds a password in a URI, and what is in a config is written into logs and artifacts: give "
                "the URI without it, and the password where its program looks for it (for s3:// that is "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )
        return value
    raise _WrongType(f"{where} is {_describe(value)}; expected {type_name(hint)}{_written(hint, value, where)}")


def type_name(hint: Any) -> str:
    """A type of a config as a person says it: `int or null`, `one of refuse, keep`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and (choice := next((mark for mark in arguments[1:] if isinstance(mark, Chosen)), None)):
        return f"{choice} or null" if type(None) in typing.get_args(arguments[0]) else str(choice)
    if origin is Annotated and (wording := next((mark for mark in arguments[1:] if isinstance(mark, Wording)), None)):
        return str(wording)
    if origin is Annotated:
        number = "a whole number" if arguments[0] is int else "a number"
        null = ["or null"] if any(isinstance(mark, Open) for mark in arguments[1:]) else []
        return " ".join([number, *(str(bound) for bound in arguments[1:] if isinstance(bound, Range)), *null])
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is Union or origin is types.UnionType:
        return " or ".join("null" if argument is type(None) else type_name(argument) for argument in arguments)
    if hint is bool:
        return "true or false"
    if origin is dict and (named := _by_name(arguments[1])) is not None:
        return f"a mapping with some of the keys {', '.join(named)}"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with keys {_keys(typing.cast(type, hint))}"
    if origin is dict:
        return f"a mapping of names to {type_name(arguments[1])}"
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        each = list(dict.fromkeys(map(type_name, arguments)))
        return f"a list of {len(arguments)}, {'each ' if len(each) == 1 else ''}{', '.join(each)}"
    if origin is not None:
        return f"a list of {type_name(arguments[0])}"
    plain = {int: "a whole number", float: "a number", str: "text"}
    return plain.get(hint) or str(getattr(hint, "__name__", hint))


def _written(hint: Any, value: Any, where: str) -> str:
    """How a value is written that is nearly of the type: `: write 'known=[corpus/x]'`; "" for what cannot be told.

    Args: value, which the type does not take.
    """
    options = _plain_types(hint)
    one = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""
    lists = [typing.get_args(option)[0] for option in options if typing.get_origin(option) is list]
    lists += [typing.get_args(option)[0] for option in options if typing.get_args(option)[1:] == (Ellipsis,)]
    if one and lists:
        item = _plain_types(lists[0])[0]
        text = ", ".join(part.strip() for part in str(value).split(","))
        if dataclasses.is_dataclass(item):
            first = next((name for name, kind in hints(typing.cast(type, item)).items() if kind is str), None)
            return "" if first is None else f": write '{where}=[{{{first}: \"{value}\"}}]'"
        return f": write '{where}=[{text}]'"
    if isinstance(value, str) and {int, float} & set(options):
        return _number_written(value.strip(), where, whole=float not in options)
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if words and (near := difflib.get_close_matches(str(value).lower(), map(str, words), n=1)):
        return f": did you mean {near[0]}?"
    if options == [bool] and str(value).lower() in _SAID:
        return f": write {where}={_SAID[str(value).lower()]}"
    return ""


def _number_written(text: str, where: str, whole: bool) -> str:
    """How a number is written that came with a unit, with a comma or in another's way."""
    match = re.fullmatch(r"([+-]?\d[\d ,_]*(?:\.\d+)?(?:e\d+)?)\s*([a-zA-Z%]*)", text)
    if match is None:
        return ""
    digits, unit = match[1], match[2].removesuffix("/s").lower()
    comma = re.fullmatch(r"[+-]?\d+,\d{1,2}|[+-]?\d+,\d{4,}", digits)
    number = float(digits.replace(",", "." if comma else "").replace(" ", "").replace("_", ""))
    units = _units_of(where)
    if unit and unit not in units:
        return f": write the number alone, {where}={number:.15g}"
    number *= units[unit] if unit else 1
    return "" if whole and not number.is_integer() else f": write {where}={number:.15g}"


def _units_of(where: str) -> Mapping[str, float]:
    """What the letters behind a number stand for: of a key that ends in `bytes`, in a unit of time, or neither."""
    name = re.split(r"[._]", where)[-1]
    if name == "bytes":
        return _BYTES
    if name not in ("seconds", "minutes", "hours", "days"):
        return _COUNTS
    return {unit: seconds / _SECONDS[name] for unit, seconds in _SECONDS.items()}


_COUNTS = {"k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12, "%": 0.01}
_BYTES = {
    "b": 1,
    **{f"{letter}{b}": 10 ** (3 * n) for n, letter in enumerate("kmgt", 1) for b in ("", "b")},
    **{f"{letter}ib": 2 ** (10 * n) for n, letter in enumerate("kmgt", 1)},
}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
}
_SAID = {"yes": "true", "on": "true", "1": "true", "y": "true", "no": "false", "off": "false", "0": "false",
         "n": "false"}  # fmt: skip


def _plain_types(hint: Any) -> list[Any]:
    """The types that a value of this hint may have, without null and without marks."""
    if typing.get_origin(hint) is Annotated:
        return _plain_types(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Union or typing.get_origin(hint) is types.UnionType:
        return [plain for option in typing.get_args(hint) if option is not type(None) for plain in _plain_types(option)]
    return [hint]


class _WrongType(ConfigError):
    """A value of a type that a field does not take."""


class _UnfitText(ConfigError):
    """Text that no field takes: it is told, whatever else the field would take."""


class _OutOfRange(ConfigError):
    """A number of the right type that a field does not take: it is told, whatever else the field would take."""


def _finite(value: float, where: str) -> float:
    with contextlib.suppress(OverflowError):  # a whole number that no float holds
        if math.isfinite(number := float(value)):
            return number
    raise _OutOfRange(f"{where} is {value}; expected a finite number: change it in the YAML or on the command line")


def _keys(cls: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls))


def _describe(value: Any) -> str:
    """A value as YAML has it, with its type in a person's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "text", int: "a number", float: "a number", dict: "a mapping", list: "a list", tuple: "a list"}
    return f"{value!r} ({kinds.get(type(value), type(value).__name__)})"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
