"""Does a draft pay? Speculative decoding with and without it: acceptance, tokens per second, equal greedy answers.

    python -m benchmarks.speculative model=export/demo draft=export/small [prompts=20] [tokens=64] [threads=1]

Takes what `workflows.chat` takes as `model` and `draft`; a draft with another tokenizer is refused. Each prompt is
answered greedily by the model alone and with the draft, in turns, so that other load on the machine meets both. With
two Hugging Face folders, `generate(assistant_model=…)` of `transformers` is measured beside them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from pipelines.config import parse
from pipelines.display.progress import say, table
from pipelines.errors import ConfigError, TrunklineError
from pipelines.train.formats.questions import prompts as questions
from pipelines.train.runtimes.contract import Loaded, Sampling
from workflows.chat import ChatConfig, find, load
from workflows.running.session import Session

HEADER = ("decoded by", "tokens", "tokens/s", "proposed", "accepted", "share", "equal answers")


def measure(model: Loaded, helped: Loaded, prompts: list[list[int]], tokens: int) -> list[list[Any]]:
    """Rows under `HEADER`: the model alone, and the same model with its draft."""
    sampling = Sampling(temperature=0.0, max_new_tokens=tokens)
    made, seconds = {"alone": 0, "draft": 0}, {"alone": 0.0, "draft": 0.0}
    proposed = accepted = equal = 0
    for ids in prompts:
        answers = []
        for name, loaded in (("alone", model), ("draft", helped)):
            loaded.forget()
            stream, answer = loaded.stream(ids, sampling), []
            answer = [first] if (first := next(stream, None)) is not None else []
            # the prompt is read alike by both, so the clock starts behind it
            began = time.perf_counter()
            answer += stream
            seconds[name] += time.perf_counter() - began
            made[name] += max(0, len(answer) - 1)
            answers.append(answer)
        equal += answers[0] == answers[1]
        assert helped.draft is not None
        proposed, accepted = proposed + helped.draft.proposed, accepted + helped.draft.accepted
    share = accepted / proposed if proposed else 0.0
    return [
        ["the model alone", made["alone"], made["alone"] / seconds["alone"], None, None, None, ""],
        ["with the draft", made["draft"], made["draft"] / seconds["draft"], proposed, accepted, f"{share:.0%}",
         f"{equal} of {len(prompts)}"],
    ]  # fmt: skip


def assisted(model: Path, draft: Path, prompts: list[list[int]], tokens: int, threads: int) -> list[list[Any]]:
    """The same two rows by `generate` of `transformers`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    large, small = (AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval() for path in (model, draft))
    rows, answers = [], []
    for name, extra in (("generate", {}), ("generate, assistant_model", {"assistant_model": small})):
        made, seconds, said = 0, 0.0, []
        for ids in prompts:
            began = time.perf_counter()
            with torch.inference_mode():
                output = large.generate(
                    torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, attention_mask=torch.ones(1, len(ids)),
                    **extra,
                )  # fmt: skip
            seconds += time.perf_counter() - began
            said.append(output[0, len(ids) :].tolist())
            made += len(said[-1])
        answers.append(said)
        rows.append([f"transformers: {name}", made, made / seconds, None, None, None, ""])
    rows[1][-1] = f"{sum(one == two for one, two in zip(*answers, strict=True))} of {len(prompts)}"
    return rows


def main(arguments: list[str]) -> None:
    """Measure, and print a table."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = given.keys() - {"model", "draft", "prompts", "tokens", "threads", "store", "dtype"}
    if unknown or not {"model", "draft"} <= given.keys():
        raise ConfigError(f"expected model=… draft=… [prompts=20] [tokens=64] [threads=1] [store=store]; got {given}")
    count, tokens, threads = (int(given.get(key, default)) for key, default in
                              (("prompts", 20), ("tokens", 64), ("threads", 1)))  # fmt: skip
    config = parse(ChatConfig, {
        "model": {"of": given["model"]}, "draft": given["draft"], "threads": threads,
        "store": given.get("store", "store"), "dtype": given.get("dtype", "auto"),
    })  # fmt: skip
    with Session(config, uses_store=False) as session:
        model, draft = find(config.model.of, "model", config, session), find(given["draft"], "draft", config, session)
        alone, helped = load(model, config), load(model, config)
        helped.draw_on(load(draft, config, draft=True))
        asked = questions()[:count]
        prompts = [alone.encode(text) if isinstance(text, str) else alone.encode_chat(text) for text in asked]
        prompts = [ids for ids in prompts if len(ids) + tokens <= alone.context]
        say(f"   {model.name} with {draft.name}, {alone.runtime}, {len(prompts)} prompts, {threads} threads\n")
        rows = measure(alone, helped, prompts, tokens)
        both = [found for found in (model, draft) if found.path is not None and (found.path / "config.json").exists()]
        if len(both) == 2:
            rows += assisted(model.place, draft.place, prompts, tokens, threads)
        say(table(HEADER, rows))
        alone.close()
        helped.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except TrunklineError as error:
        sys.exit(f"error: {error}")
