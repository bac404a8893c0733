"""Completions against a loop that does one prompt, one token at a time."""

import numpy as np
import pytest
import torch

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.tasks.generate import complete

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=64, heads=4, kv_heads=2, vocabulary=50, max_positions=24, dim_model_base=16
)
PROMPTS = [np.array([3, 4, 5], np.uint32), np.array([9], np.uint16), np.array([7, 8, 9, 10, 11, 12, 13])]


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads that wait for each other are slow on a busy machine."""
    torch.set_num_threads(1)


def model():
    return Transformer(MODEL).initialise(1).eval()


@torch.no_grad()
def slowly(network, prompt, count):
    """Greedy, one prompt, nothing padded."""
    ids = [int(i) for i in prompt]
    for _ in range(count):
        hidden = network(ModelInput(inputs=torch.tensor([ids]), positions=torch.arange(len(ids))[None]))
        ids.append(int(network.logits(hidden[0, -1]).argmax()))
    return ids[len(prompt) :]


def test_a_padded_batch_completes_each_prompt_as_alone():
    network = model()
    expected = [slowly(network, prompt, 6) for prompt in PROMPTS]
    assert complete(network, PROMPTS, 6, stop_id=-1) == expected
    assert len({tuple(ids) for ids in expected}) == 3  # or the comparison would say little


def test_a_completion_ends_before_its_stop_id():
    network = model()
    free = slowly(network, PROMPTS[0], 8)
    stop = free[3]
    assert complete(network, PROMPTS[:1], 8, stop_id=stop) == [free[: free.index(stop)]]


def test_a_completion_ends_at_the_last_position():
    long = [np.arange(20), np.arange(24), PROMPTS[1]]
    made = complete(model(), long, 10, stop_id=-1)
    assert [len(ids) for ids in made] == [4, 0, 10]


def test_draws_depend_on_the_seed_and_not_on_the_other_prompts():
    network = model()
    first = complete(network, PROMPTS, 12, stop_id=-1, temperature=1.0, seed=5)
    assert complete(network, PROMPTS, 12, stop_id=-1, temperature=1.0, seed=5) == first
    assert complete(network, PROMPTS[:1], 12, stop_id=-1, temperature=1.0, seed=5) == first[:1]
    assert complete(network, PROMPTS, 12, stop_id=-1, temperature=1.0, seed=6) != first
