"""Layer by layer: a stream of a model's weights becomes a stream of a quantized model.

Legend: B rows, T tokens, D model width, O outputs and I inputs of a map.

Enters: weights in Llama's names, scalings folded in (`formats/llama.fold`), and rows of ids to calibrate on. Leaves:
the same names in the same order, matrices as `Quantized`.

Truly sequential: each map sees inputs that went through all quantized maps before it, those of its own block too. A
method that mends errors also needs what the full model computes there; then the rows go through both models side by
side.

Memory: the weights of one layer, the Hessians of one site, and the hidden states of all rows, once for each model and
once more while attention is passed (4 · B · T · D bytes each). Nothing of an earlier layer is kept. A method that looks
at no data quantizes tensor by tensor.

Nothing is drawn here: the same weights and rows give the same codes. Sums of floats depend on the number of threads in
their last digits, so a weight midway between two codes may get the other one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.display.progress import Progress
from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.roles import roles
from pipelines.train.quantization.block import SITES, Chunk, Site, Stream, chunks
from pipelines.train.quantization.contract import (
    CalibrationRows,
    Grid,
    Inputs,
    Method,
    MethodSettings,
    Quantized,
    QuantizedStream,
)
from pipelines.train.quantization.rounding import output_error

EMBEDDING = "model.embed_tokens.weight"
_LAYER = re.compile(r"(model\.layers\.\d+)\.(.+)")


@dataclass
class MapError:
    """How far one map's output moved from what its own weights give, relative to that output's mean square.

    By the inputs that calibration saw. A method that mends errors of earlier maps moves it on purpose.
    """

    parameter: str  # our own name of the matrix that it belongs to
    map: str  # in Llama's names
    error: float


def quantize_stream(
    weights: Iterable[tuple[str, Tensor]], model: ModelConfig, method: Method, settings: MethodSettings,
    grids: Mapping[str, Grid | None], calibration: CalibrationRows | None, scale_dtype: torch.dtype,
    progress: Progress | None = None, tell: Callable[[MapError], None] | None = None,
) -> QuantizedStream:  # fmt: skip
    """Quantize a model.

    Args:
        weights: name and float32 value in Llama's names and order, scalings folded in.
        model: of the checkpoint that they come from.
        grids: by our own names of parameters (`layers.0.self_attn.qkv_proj.weight`); None or absent: it stays as it is.
        calibration: None for a method that looks at no data.
        scale_dtype: of the stored scales.
        progress: is moved on by one for each layer.
        tell: hears the error of each map of a calibrated method.

    Raises: ConfigError for a method that needs data and gets none, before any weight is read.
    """
    if not method.calibrated:
        return _tensor_by_tensor(weights, model, method, settings, grids, scale_dtype, progress)
    if calibration is None:
        raise ConfigError(f"this method ({method.words}) needs calibration rows, and got none: give calibration data")
    walk = _Walk(model, method, settings, grids, calibration, scale_dtype, tell or (lambda _error: None))
    return _layer_by_layer(weights, walk, progress)


def _tensor_by_tensor(
    weights: Iterable[tuple[str, Tensor]], model: ModelConfig, method: Method, settings: MethodSettings,
    grids: Mapping[str, Grid | None], scale_dtype: torch.dtype, progress: Progress | None,
) -> QuantizedStream:  # fmt: skip
    owners = {f"model.{part}": name for name, role in roles(model).items() for part in _parts(name, role.parts)}
    last = f"{SITES[-1].maps[-1]}"
    for name, value in weights:
        grid = grids.get(owners.get(name, ""))
        result = value if grid is None else method.quantize(value, grid, None, scale_dtype, settings)
        del value
        yield name, result
        del result
        if progress is not None and name.endswith(last):
            progress.update()


def _parts(name: str, parts: tuple[tuple[str, int], ...]) -> Iterator[str]:
    return (part for part, _ in parts) if parts else iter((name,))


def _by_layer(
    weights: Iterable[tuple[str, Tensor]], model: ModelConfig
) -> Iterator[tuple[str, Tensor | dict[str, Tensor]]]:
    """Tensors outside of layers one by one, each layer's together under `model.layers.N`, in names without that."""
    expected, layer = len(layer_names(model)), dict[str, Tensor]()
    for name, value in weights:
        match = _LAYER.fullmatch(name)
        if match is None:
            yield name, value
            del value
            continue
        layer[match[2]] = value
        del value
        if len(layer) == expected:
            # the layer is handed over, so that it is given up where it is no longer needed
            handed, layer = layer, {}
            yield match[1], handed
            del handed


def layer_names(model: ModelConfig) -> tuple[str, ...]:
    """Names of a layer's weights in Llama's order, without `model.layers.N.`."""
    first = [(name, role) for name, role in roles(model).items() if role.layer == 0]
    return tuple(part.removeprefix("layers.0.") for name, role in first for part in _parts(name, role.parts))


def _layer_by_layer(weights: Iterable[tuple[str, Tensor]], walk: _Walk, progress: Progress | None) -> QuantizedStream:
    layers = _by_layer(weights, walk.model)
    number = 0
    for name, value in layers:
        if isinstance(value, Tensor):
            if name == EMBEDDING:
                walk.begin(value)
            yield name, value
            del value
            continue
        yield from walk.layer(number, value)  # which empties it
        del value
        number += 1
        if progress is not None:
            progress.update()


@dataclass(frozen=True)
class SiteSeen:
    """What one matrix of the full model reads."""

    parameter: str  # our own name
    weight: Tensor  # its maps, one below the other, (O, I)
    inputs: Inputs


@torch.no_grad()
def watch(
    weights: Iterable[tuple[str, Tensor]], model: ModelConfig, calibration: CalibrationRows,
    progress: Progress | None = None,
) -> Iterator[SiteSeen]:  # fmt: skip
    """Pass rows through the full model, and tell what goes into each matrix, in order. Args: as `quantize_stream`."""
    stream: Stream | None = None
    number = 0
    for name, value in _by_layer(weights, model):
        if isinstance(value, Tensor):
            if name == EMBEDDING:
                stream = Stream(model, F.embedding(calibration.ids, value.float()))
            del value
            continue
        assert stream is not None
        layer = {map_: weight.float() for map_, weight in value.items()}
        del value
        for site in SITES:
            seen = _Seen()
            for chunk in chunks(calibration, model):
                seen.add(_real(stream.inputs(site.name, layer, chunk), chunk))
            weight = torch.cat([layer[map_] for map_ in site.maps])
            yield SiteSeen(f"layers.{number}.{site.parameter}", weight, seen.of(None))
            del seen, weight
            for chunk in chunks(calibration, model):
                stream.pass_site(site.name, layer, chunk)
        number += 1
        if progress is not None:
            progress.update()


@dataclass
class _Walk:
    """The rows on their way, and what is done to each layer."""

    model: ModelConfig
    method: Method
    settings: MethodSettings
    grids: Mapping[str, Grid | None]
    calibration: CalibrationRows
    scale_dtype: torch.dtype
    tell: Callable[[MapError], None]
    delivered: Stream | None = None  # through the layers as they are delivered
    full: Stream | None = None  # through the full model; None: nobody asks

    def begin(self, embedding_VD: Tensor) -> None:
        """Look the rows up in the embedding."""
        self.delivered = Stream(self.model, F.embedding(self.calibration.ids, embedding_VD.float()))
        self.full = self.delivered.copied() if self.method.mends(self.settings) else None

    @torch.no_grad()
    def layer(self, number: int, weights: dict[str, Tensor]) -> QuantizedStream:
        """Quantize one layer, pass the rows through it, and give its weights in order."""
        assert self.delivered is not None
        grids: dict[str, Grid | None] = {
            site.name: self.grids.get(f"layers.{number}.{site.parameter}") for site in SITES
        }
        original = {name: value.float() for name, value in weights.items()}
        weights.clear()
        if self.method.rescale is not None:
            original = self._rescaled(original, grids)
        done: dict[str, Tensor | Quantized] = dict(original)
        values = dict(original)  # as delivered: quantized maps with the values that readers compute with
        for site in SITES:
            grid = grids[site.name]
            if grid is not None:
                # rows are rounded alike whatever stands below them, so the maps of a site go together
                weight = torch.cat([original[map_] for map_ in site.maps])
                inputs = self._observe(site, self.delivered, values, original).of(weight)
                quantized = self.method.quantize(weight, grid, inputs, self.scale_dtype, self.settings)
                parts = _cut(quantized, [len(original[map_]) for map_ in site.maps])
                for map_, part in zip(site.maps, parts, strict=True):
                    done[map_], values[map_] = part, part.values()
                    self._tell(f"layers.{number}.{site.parameter}", number, map_, original[map_], values[map_], inputs)
                del weight, inputs, quantized, parts, part
            self._pass(site, values, original)
        del original, values
        for name in layer_names(self.model):
            yield f"model.layers.{number}.{name}", done.pop(name)

    def _tell(
        self, parameter: str, number: int, map_: str, original: Tensor, delivered: Tensor, inputs: Inputs
    ) -> None:
        error = output_error(delivered - original, inputs.hessian)
        whole = output_error(original, inputs.hessian)
        self.tell(MapError(parameter, f"model.layers.{number}.{map_}", error / max(whole, 1e-30)))

    def _rescaled(self, weights: dict[str, Tensor], grids: Mapping[str, Grid | None]) -> dict[str, Tensor]:
        """The layer's weights as the method scales them, by what goes through the layer before that."""
        assert self.method.rescale is not None
        assert self.delivered is not None
        trial = self.delivered.copied()
        seen: dict[str, Inputs] = {}
        for site in SITES:
            inputs = self._observe(site, trial, weights, None).of(None)
            seen.update(dict.fromkeys(site.maps, inputs))
            for chunk in chunks(self.calibration, self.model):
                trial.pass_site(site.name, weights, chunk)
        by_map = {map_: grid for site in SITES if (grid := grids[site.name]) is not None for map_ in site.maps}
        return dict(self.method.rescale(weights, seen, by_map, self.scale_dtype, self.settings))

    def _observe(
        self, site: Site, stream: Stream, values: Mapping[str, Tensor], original: Mapping[str, Tensor] | None
    ) -> _Seen:
        seen = _Seen()
        for chunk in chunks(self.calibration, self.model):
            inputs_ND = _real(stream.inputs(site.name, values, chunk), chunk)
            seen.add(inputs_ND)
            if self.full is not None and original is not None:
                full_ND = _real(self.full.inputs(site.name, original, chunk), chunk)
                gap_ND = None
                if site.adds:
                    gap_ND = _real(self.full.hidden[chunk.rows] - stream.hidden[chunk.rows], chunk)
                seen.compare(inputs_ND, full_ND, gap_ND)
        return seen

    def _pass(self, site: Site, values: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
        if site.name == "gate_up_proj":  # what it gives is made where down_proj reads it
            return
        streams = [(self.delivered, values), (self.full, original)]
        for stream, weights in streams:
            if stream is None:
                continue
            for chunk in chunks(self.calibration, self.model):
                stream.pass_site(site.name, weights, chunk)
            if site.name == "o_proj":
                stream.attended = None


def _cut(matrix: Quantized, rows: Sequence[int]) -> list[Quantized]:
    """The maps that lie one below the other in a matrix (views)."""
    zeros = [None] * len(rows) if matrix.zeros is None else torch.split(matrix.zeros, list(rows))
    parts = zip(torch.split(matrix.codes, list(rows)), torch.split(matrix.scales, list(rows)), zeros, strict=True)
    return [Quantized(codes, scales, its_zeros, matrix.grid) for codes, scales, its_zeros in parts]


def _real(values_BTX: Tensor, chunk: Chunk) -> Tensor:
    """The tokens that are no filling: (N, X)."""
    return values_BTX.flatten(0, 1)[chunk.real_N]


class _Seen:
    """Sums over what went into a site."""

    def __init__(self) -> None:
        self.rows = 0
        self.squares_II: Tensor | None = None
        self.magnitude_I: Tensor | None = None
        self.lost_II: Tensor | None = None  # (inputs of the full model - inputs)ᵀ inputs
        self.gap_DI: Tensor | None = None  # (stream of the full model - stream)ᵀ inputs, where the site adds to it

    def add(self, inputs_NI: Tensor) -> None:
        """Take the inputs of some tokens in."""
        self.rows += len(inputs_NI)
        self.squares_II = _plus(self.squares_II, inputs_NI.T @ inputs_NI)
        self.magnitude_I = _plus(self.magnitude_I, inputs_NI.abs().sum(0))

    def compare(self, inputs_NI: Tensor, full_NI: Tensor, gap_ND: Tensor | None) -> None:
        """Take in how far the full model is from what the quantized one computes there."""
        self.lost_II = _plus(self.lost_II, (full_NI - inputs_NI).T @ inputs_NI)
        if gap_ND is not None:
            self.gap_DI = _plus(self.gap_DI, gap_ND.T @ inputs_NI)

    def of(self, weight_OI: Tensor | None) -> Inputs:
        """Means, for one map of the site."""
        assert self.squares_II is not None
        assert self.magnitude_I is not None
        shift = None
        if self.lost_II is not None and weight_OI is not None:
            shift = weight_OI @ self.lost_II
            if self.gap_DI is not None:
                shift += self.gap_DI
            shift /= self.rows
        return Inputs(self.squares_II / self.rows, self.magnitude_I / self.rows, self.rows, shift)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total.add_(more)
