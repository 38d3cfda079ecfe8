"""Decoding on a device: the answers of a CPU, and log-probabilities that a training pass agrees with."""

import pytest
import torch

from lm import mixers
from lm.config import Config, methods_of
from lm.sampler import generate
from lm.training.data.conversations import places, token_logps
from tests.gpu.models import CPU, VOCABULARY, Recorder, fit, model_on, recipe

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [8, 8]]
STOP = VOCABULARY - 1


@pytest.mark.parametrize("mixer", methods_of(mixers), ids=lambda method: method.__name__)
def test_greedy_answers_are_those_of_a_cpu(device: torch.device, mixer: type[Config]) -> None:
    models = (model_on(place, mixer=mixer().model_dump()) for place in (device, CPU))
    ours, theirs = (generate(model, PROMPTS, 24, 0.0, STOP, 0) for model in models)
    assert [answer.ids for answer in ours] == [answer.ids for answer in theirs]
    logps = (torch.tensor([x for answer in answers for x in answer.logps]) for answers in (ours, theirs))
    torch.testing.assert_close(*logps, rtol=0, atol=1e-4)


def test_samples_repeat_with_their_seed_and_say_their_log_probabilities(device: torch.device) -> None:
    model = model_on(device)
    once, again, other = (generate(model, [[5, 6]] * 8, 12, 1.0, STOP, seed) for seed in (1, 1, 2))
    assert once == again and once != other
    for answer in once:
        ids = torch.tensor([[5, 6, *answer.ids]], device=device)
        with torch.no_grad():
            logps = token_logps(model, ids, places(torch.ones_like(ids[:, 1:])))[0, 1:]
        torch.testing.assert_close(logps.cpu(), torch.tensor(answer.logps), rtol=0, atol=1e-4)


def test_a_step_learns_in_bf16_from_what_it_has_sampled(device: torch.device) -> None:
    """generate() works in inference mode and within the same autocast, whose cache of weights the loss then meets."""
    log = Recorder()
    fit(device, recipe(precision="bf16"), log, sampled=True)
    assert all(point["gradient_norm"] > 0 for point in log.points.values())
