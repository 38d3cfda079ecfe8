"""Unmasking: shares and orders by hand, answers that depend on their prompt alone, and a pattern that a small model has learned."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.averages import Last
from lm.config import ConfigError
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.batch import Batch
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.unmasking import logits_of, shares_of, truncate_at_stop, unmask, unmask_step
from tasks.core.log import Log
from tasks.pretrain.objectives import MaskedDiffusion
from tasks.pretrain.objectives.base import LossPosition
from tests.lm.made_parts import stirred
from tests.lm.models import toy_model

M = 9


def small(seed: int = 1) -> Decoder:
    return stirred(toy_model(seed=seed, causal=False, vocab_size=M + 1, context=16)).eval()


@given(st.integers(1, 60), st.integers(1, 60))
def test_shares_unmask_all_and_as_many_each_time(tokens: int, steps: int) -> None:
    found = shares_of(tokens, steps)
    assert sum(found) == tokens and len(found) == steps and max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


def log_odds(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([[list(row) for row in rows]]).log()


HALF = torch.full((2, 1, 4), 0.5, dtype=torch.float64)
# the likeliest token and its probability: 0 by 0.5, 1 by 0.8, 2 by 0.6, 0 by 0.9
LOGITS = log_odds((0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.3, 0.1, 0.6), (0.9, 0.05, 0.05))


def test_the_most_confident_are_unmasked_and_what_is_written_stays() -> None:
    ids = torch.tensor([[M, M, M, 7]])
    assert unmask_step(ids, LOGITS, M, 1, 0.0, HALF, "confidence").tolist() == [[M, 1, M, 7]]
    assert unmask_step(ids, LOGITS, M, 2, 0.0, HALF, "confidence").tolist() == [[M, 1, 2, 7]]
    assert unmask_step(ids, LOGITS, M, 4, 0.0, HALF, "confidence").tolist() == [[0, 1, 2, 7]]


def test_a_random_order_goes_by_its_own_draws() -> None:
    points = torch.tensor([[[0.5] * 4], [[0.9, 0.1, 0.4, 0.95]]], dtype=torch.float64)
    ids = torch.tensor([[M, M, M, 7]])
    assert unmask_step(ids, LOGITS, M, 1, 0.0, points, "random").tolist() == [[0, M, M, 7]]
    assert unmask_step(ids, LOGITS, M, 2, 0.0, points, "random").tolist() == [[0, M, 2, 7]]


def test_tokens_are_drawn_where_their_points_fall_and_confidence_is_of_those_drawn() -> None:
    points = torch.tensor([[[0.6, 0.95, 0.35, 0.0]], [[0.5] * 4]], dtype=torch.float64)
    ids = torch.full((1, 4), M)
    # drawn: 1 by 0.3, 2 by 0.1, 1 by 0.1, 0 by 0.9
    assert unmask_step(ids, LOGITS, M, 2, 1.0, points, "confidence").tolist() == [[1, M, M, 0]]
    assert unmask_step(ids, LOGITS, M, 4, 1.0, points, "confidence").tolist() == [[1, 2, 1, 0]]


def test_guidance_goes_away_from_what_it_would_say_without_a_prompt() -> None:
    model, ids, answer = small(), torch.tensor([[1, 2, 3, M, M]]), slice(3, 5)
    with torch.no_grad():
        plain = logits_of(model, ids, answer, 0.0).log_softmax(-1)
        blind = logits_of(model, torch.full((1, 5), M), answer, 0.0).log_softmax(-1)
        torch.testing.assert_close(logits_of(model, ids, answer, 2.0), 3 * plain - 2 * blind)
    assert plain.shape == (1, 2, M)


def test_logits_are_capped_where_the_model_s_are() -> None:
    model, ids, answer = small(), torch.tensor([[1, 2, M, M]]), slice(2, 4)
    with torch.no_grad():
        plain = logits_of(model, ids, answer, 0.0)
        model.config = model.config.model_copy(update={"logit_softcap": 0.1})
        torch.testing.assert_close(logits_of(model, ids, answer, 0.0), 0.1 * torch.tanh(plain / 0.1))


PROMPTS = [[1, 2], [3], [4, 4], [], [5, 6], [1, 2], [0] * 15]


@pytest.mark.parametrize("order", ["confidence", "random"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_hangs_on_its_prompt_and_place_alone(order: str, temperature: float) -> None:
    model = small()
    how = {"temperature": temperature, "order": order}
    together = unmask(model, PROMPTS, 6, 4, 0, **how)
    assert [len(ids) for ids in together] == [6] * 6 + [1] and all(0 <= i < M for ids in together for i in ids)
    some = unmask(model, PROMPTS[:3], 6, 4, 0, **how)
    assert some == together[:3]
    assert (together[0] == together[5]) == (temperature == 0 and order == "confidence")
    again = unmask(model, PROMPTS, 6, 4, 1, **how)
    assert (again == together) == (temperature == 0 and order == "confidence")
    assert unmask(model, PROMPTS, 0, 4, 0) == [[]] * len(PROMPTS)


def test_fewer_steps_are_fewer_passes_and_other_answers() -> None:
    model, passes = small(), []
    model.norm.register_forward_hook(lambda *_: passes.append(1))
    answers = []
    for steps, expected in ((1, 1), (3, 3), (8, 8), (20, 8)):
        passes.clear()
        answers.append(unmask(model, [[1, 2]], 8, steps, 0))
        assert len(passes) == expected
    assert answers[0] != answers[2] and answers[2] == answers[3]


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match="writes token after token"):
        unmask(toy_model(), [[1]], 4, 4, 0)
    with pytest.raises(ValueError, match="0 steps unmask nothing"):
        unmask(small(), [[1]], 4, 0, 0)
    with pytest.raises(ValueError, match="up to 15 tokens; one has 16"):
        unmask(small(), [[1], [1] * 16], 4, 4, 0)
    assert truncate_at_stop([1, 2, 3, 2], 2) == [1, 2] and truncate_at_stop([1, 3], 2) == [1, 3]


@pytest.fixture(scope="module")
def counting() -> Decoder:
    """A model that has learned 0 1 ... 7 0 1 ..., from any of them on."""
    model = toy_model(seed=0, causal=False, vocab_size=9, context=16)
    recipe = Recipe(optimizer=AdamW(lr=5e-3), schedule=Cosine(), average=Last(), clip=1.0)
    objective = MaskedDiffusion(low_discrepancy=True)

    def batch_at(step: int) -> Batch:
        first = torch.randint(0, 8, (32, 1), generator=torch.Generator().manual_seed(step))
        tokens = (first + torch.arange(13)) % 8
        return Batch(32, 12, 384, lambda rows: objective(model, tokens[rows], None, 384, at=LossPosition(0, step, 400)))

    train(model, recipe, 400, batch_at, Log())
    return model.eval()


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_a_trained_model_writes_its_pattern(counting: Decoder, steps: int, order: str) -> None:
    prompts = [[3, 4], [7, 0], [5, 6]]
    for temperature in (0.0, 0.3) if order == "confidence" else (0.0,):
        found = unmask(counting, prompts, 10, steps, 0, order=order, temperature=temperature)
        assert found == [[(prompt[-1] + 1 + n) % 8 for n in range(10)] for prompt in prompts]


def test_a_trained_model_writes_one_of_its_patterns_from_nothing(counting: Decoder) -> None:
    """Token after token, the most confident first: which of eight begins is drawn, and what follows agrees."""
    found = unmask(counting, [[]] * 8, 12, 12, 0, temperature=1.0)
    right = [ids for ids in found if all((b - a) % 8 == 1 for a, b in zip(ids, ids[1:], strict=False))]
    assert len(right) >= 6 and len({ids[0] for ids in right}) > 1
