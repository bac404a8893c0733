"""Sample completions: what the model makes of a few prompts, for people to read. No number comes of it."""

from __future__ import annotations

import torch

from pipelines.config import Amount, Count, config_class
from pipelines.data.tokens.chat import EOS_ID
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ArtifactError, ConfigError
from pipelines.train.network.model import Transformer
from pipelines.train.tasks.generate import complete
from pipelines.train.tasks.task import TOKENIZER, Measured, Sample, Subject, Task, TaskPlan, TaskSettings

_SMALL = 50_000_000  # parameters, below which a second thread costs a token more than it gives


@config_class
class Prompt:
    """What a sample completion continues."""

    text: str
    chat: bool = False  # a question in the chat format, instead of text to go on with


@config_class
class CompletionSettings(TaskSettings):
    """Which prompts, and how they are continued."""

    prompts: tuple[Prompt, ...] = ()  # empty: none, and no tokenizer is needed
    max_new_tokens: Count = 48
    temperature: Amount = 0.0  # 0: greedy

    def __post_init__(self) -> None:
        """Raises: ConfigError for a prompt without text."""
        if empty := [place for place, prompt in enumerate(self.prompts) if not prompt.text.strip()]:
            raise ConfigError(
                f"tasks.completions.prompts[{empty[0]}].text is empty; expected text to go on with, or a question "
                "(chat: true)"
            )


def plan_completions(subject: Subject, settings: CompletionSettings) -> TaskPlan:
    """Raises: ArtifactError where there are prompts and no tokenizer."""
    if settings.prompts and TOKENIZER not in subject.tokens.manifest["files"]:
        raise ArtifactError(
            f"{subject.tokens.folder} holds no tokenizer ({TOKENIZER}), so prompts cannot be encoded: pass "
            "tasks.completions.prompts=[] to go without sample completions, or tokens=tokens/<name> of one that has it"
        )
    drawn = f"temperature {settings.temperature:g}" if settings.temperature else "greedy"
    return TaskPlan(announcement=f"{len(settings.prompts)}, {drawn}", samples=len(settings.prompts))


def measure_completions(model: Transformer, subject: Subject, settings: CompletionSettings) -> Measured:
    """Continue every prompt."""
    if not settings.prompts:
        return Measured()
    encoder = Encoder(subject.tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)
    prompts = [
        encoder.encode_prompt([{"role": "user", "content": prompt.text}])
        if prompt.chat
        else encoder.encode([prompt.text])[0]
        for prompt in settings.prompts
    ]
    threads = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < _SMALL
    torch.set_num_threads(1 if small else threads)
    try:
        made = complete(model, prompts, settings.max_new_tokens, EOS_ID, settings.temperature, subject.seed)
    finally:
        torch.set_num_threads(threads)
    samples = (
        Sample(
            prompt=prompt.text,
            note="question in the chat format" if prompt.chat else "text to go on with",
            text=encoder.decode(ids),
            tokens=len(ids),
        )
        for prompt, ids in zip(settings.prompts, made, strict=True)
    )
    return Measured(samples=tuple(samples))


COMPLETIONS = Task(
    Settings=CompletionSettings,
    plan_task=plan_completions,
    measure=measure_completions,
    title="Sample completions",
    reading="What the model writes; no number comes of it.",
)
