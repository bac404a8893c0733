"""How far a run has moved each part of the model since initialisation: muP's coordinate check, in the real trainer.

    embedding, attention, feed_forward    outputs of the embedding and of the branches of all blocks
    layer_00/attention, …                 the same of one block
    stream                                what the last block hands on, before the final norm
    final_hidden, all_logits              after the final norm; logits of all ids
    target_logit                          of the id that follows: its mean change, which has a sign
    weights/matrix, weights/layer_00, …   weights by kind; matrices also by layer

Legend: B rows, T tokens, D model width, V vocabulary.

Enters: the engine after a step. Leaves: root mean squares over all tokens and components of value(now) - value(first),
on one fixed batch: the first windows of the run's own stream. Under muP none but the weights depends on the width
(Yang et al., arXiv 2203.03466, appendix D.1); of hidden matrices the change goes like 1/m.

Nothing of the run is touched: rank zero copies the weights into a float32 model of its own, which reads the batch. So
the run's weights must be whole there (ZeRO stages 0 to 2), and its first ones known from its seed (a fresh run).
Memory: 8 bytes for each weight, beside the run. Under bfloat16 both sets of weights are rounded to it; no product here
is in FP8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.config import Count, config_class
from pipelines.errors import ConfigError
from pipelines.train.measures.measure import Measure, MeasureSettings
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import Role, roles
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.run.stream import to_batch
from pipelines.train.update.engine import device

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine

# what grows with the width where the scalings are off, and does not where they are on
PARTS = ("embedding", "attention", "feed_forward", "stream", "final_hidden", "target_logit", "all_logits")
_BRANCHES = ("attention", "feed_forward")


@config_class
class CoordinatesSettings(MeasureSettings):
    """How much the model reads."""

    windows: Count = 4  # the first of the run's stream


def open_coordinates(
    settings: CoordinatesSettings, spec: TrainSpec, store: ArtifactStore
) -> Callable[[Engine, int], Mapping[str, float]]:
    """Make the first weights again, and what they give for the fixed batch.

    Raises: ConfigError for a run whose weights are split, or that begins from a parent.
    """
    check_coordinates(spec.zero.stage, spec.start.mode)
    if dist.get_rank() != 0:
        return lambda engine, step: {}
    opened = OBJECTIVES[spec.objective.name].batches
    stream = opened(store.get(spec.tokens), spec.segments, spec.seed, spec.batch.sequence_length)
    batch = to_batch(stream.read(spec.start.samples + np.arange(settings.windows)))
    # a module draws numbers as it is made, which are the run's
    with torch.random.fork_rng(devices=[]):
        model = Transformer(spec.model).initialise(spec.seed).to(device())
    rounding = getattr(torch, spec.zero.numbers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(rounding))
    return _Coordinates(model, batch).since


def check_coordinates(zero_stage: int, start: str) -> None:
    """Raises: ConfigError for a run whose coordinates cannot be measured. Args: start, a `StartMode`."""
    if zero_stage > 2:
        raise ConfigError(
            f"measures.coordinates reads whole weights, and zero.stage={zero_stage} splits them: set zero.stage to "
            "0, 1 or 2"
        )
    if start != "fresh":
        raise ConfigError(
            f"measures.coordinates compares with the weights of initialisation, and this run begins by {start} from "
            "its parent: measure it in a run of pretrain"
        )


class _Coordinates:
    """A model beside the run, what it gave at first, and its first weights."""

    def __init__(self, model: Transformer, batch: Batch):
        self.model, self.batch = model, batch
        self.roles = roles(model.config)
        self.first_weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.first_outputs = self._outputs()

    def since(self, engine: Engine, step: int) -> Mapping[str, float]:
        """Changes since initialisation. Args: step, which nothing depends on."""
        changes: dict[str, float] = {}
        squares: dict[str, list[Tensor]] = {}
        counts: dict[str, int] = {}
        weights = dict(engine.deepspeed.module.model.named_parameters())
        with torch.no_grad():
            for name, own in self.model.named_parameters():
                own.copy_(weights[name])
                square = (own - self.first_weights[name]).double().square().sum()
                for part in _parts_of(self.roles[name]):
                    squares.setdefault(part, []).append(square)
                    counts[part] = counts.get(part, 0) + own.numel()
        outputs = self._outputs()
        for part, value in outputs.items():
            change = value - self.first_outputs[part]
            mean = change.mean() if part == "target_logit" else change.square().mean().sqrt()
            changes[part] = float(mean)
        for part, summed in squares.items():
            changes[f"weights/{part}"] = float((torch.stack(summed).sum() / counts[part]).sqrt())
        return changes

    @torch.no_grad()
    def _outputs(self) -> dict[str, Tensor]:
        """What each part gives for the batch: branches (blocks, B, T, D), logits (B, T, V)."""
        kept: dict[str, Tensor] = {}
        hooks = [module.register_forward_hook(_keep(kept, part)) for part, module in self._watched()]
        try:
            logits_BTV = self.model.logits(self.model(self.batch))
        finally:
            for hook in hooks:
                hook.remove()
        for branch in _BRANCHES:
            kept[branch] = torch.stack([value for part, value in kept.items() if part.endswith(f"/{branch}")])
        kept["all_logits"] = logits_BTV
        kept["target_logit"] = logits_BTV.gather(2, self.batch.targets[:, :, None])
        return kept

    def _watched(self) -> list[tuple[str, nn.Module]]:
        modules: list[tuple[str, nn.Module]] = [("embedding", self.model.embed_tokens)]
        for number, layer in enumerate(self.model.layers):
            block: Any = layer
            modules += [
                (f"layer_{number:02d}/attention", block.self_attn.o_proj),
                (f"layer_{number:02d}/feed_forward", block.mlp.down_proj),
            ]
        return [*modules, ("stream", self.model.layers[-1]), ("final_hidden", self.model.norm)]


def _keep(kept: dict[str, Tensor], part: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kept[part] = output

    return hook


def _parts_of(role: Role) -> tuple[str, ...]:
    """What a weight's change counts for: its kind; and of matrices their layer."""
    return (role.kind, role.place) if role.kind == "matrix" else (role.kind,)


COORDINATES = Measure(
    Settings=CoordinatesSettings, open=open_coordinates, unit="root mean square of the change since initialisation"
)
