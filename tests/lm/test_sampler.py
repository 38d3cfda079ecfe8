"""Generation: against step-by-step evaluation without a cache, whatever stands beside a prompt, and its limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.sampler import Completion, generate
from tests.lm.made_parts import stirred
from tests.lm.models import toy_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [8, 8]]
# Lengths in one piece and in several, caches of one capacity and of several, and prompts that leave little room
LENGTHS = (1, 3, 15, 16, 17, 40, 60, 70, 117, 127)
CONTEXT, BUDGET, STOP = 128, 12, 7


def decided(**shape: object) -> torch.nn.Module:
    """A toy model whose distributions are far from uniform."""
    model = toy_model(seed=4, **shape)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    return model


MODEL = decided(context=CONTEXT)
GIVEN = [[(7 * length + 3 * place) % 261 for place in range(length)] for length in LENGTHS]
ALONE = [generate(MODEL, [prompt], BUDGET, 0.0, STOP, 0)[0] for prompt in GIVEN]
mixes = st.lists(st.sampled_from(range(len(GIVEN))), min_size=1, max_size=300)


def greedy_without_cache(model, prompt: list[int], budget: int, stop_id: int) -> list[int]:
    ids = list(prompt)
    for _ in range(budget):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == stop_id:
            break
    return ids[len(prompt) :]


def test_greedy_equals_decoding_without_cache_or_batch() -> None:
    model = toy_model(seed=4)
    stop = greedy_without_cache(model, PROMPTS[0], 4, -1)[-1]  # so that rows stop at different times
    expected = [greedy_without_cache(model, p, 12, stop) for p in PROMPTS]
    for rows in (1, 2, 3, 128):
        got = generate(model, PROMPTS, 12, 0.0, stop, 0, rows)
        assert [c.ids for c in got] == expected
        assert [c.finished for c in got] == [ids[-1] == stop for ids in expected]


def test_the_room_is_that_of_the_prompt_alone() -> None:
    got = generate(MODEL, GIVEN, BUDGET, 0.0, -1, 0)
    assert [len(c.ids) for c in got] == [min(BUDGET, CONTEXT - length) for length in LENGTHS]


@settings(deadline=None, max_examples=12)
@given(mixes)
def test_a_greedy_completion_depends_on_its_prompt_alone(mix: list[int]) -> None:
    """To the last bit of its log-probabilities."""
    assert generate(MODEL, [GIVEN[i] for i in mix], BUDGET, 0.0, STOP, 0) == [ALONE[i] for i in mix]


@settings(deadline=None, max_examples=10)
@given(mixes, st.integers(0, 2**40), st.data())
def test_a_sampled_completion_depends_on_its_prompt_and_place(mix: list[int], seed: int, data: st.DataObject) -> None:
    def sampled(among: list[int]) -> list[Completion]:
        return generate(MODEL, [GIVEN[i] for i in among], BUDGET, 1.0, STOP, seed)

    place = data.draw(st.integers(0, len(mix) - 1))
    others = data.draw(st.lists(st.sampled_from(range(len(GIVEN))), min_size=place, max_size=300))
    others[place : place + 1] = [mix[place]]
    assert sampled(others)[place] == sampled(mix)[place]


def test_log_probabilities_are_those_of_the_model() -> None:
    model = decided()
    for temperature in (1.0, 0.7):
        for prompt, c in zip(PROMPTS, generate(model, PROMPTS, 8, temperature, 4, 5), strict=True):
            ids = torch.tensor([prompt + c.ids])
            with torch.no_grad():
                logps = (model(ids)[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
            expected = logps.gather(1, torch.tensor(c.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(c.logps), expected, rtol=0, atol=1e-4)


def test_samples_follow_the_distribution() -> None:
    model = decided()
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6]]))[0, -1].softmax(-1)
    drawn = torch.tensor([c.ids[0] for c in generate(model, [[5, 6]] * 4000, 1, 1.0, 4, 0)])
    for token in expected.topk(3).indices.tolist():
        share, spread = (drawn == token).float().mean(), (expected[token] * (1 - expected[token]) / 4000).sqrt()
        assert abs(share - expected[token]) < 4 * spread  # 4 standard deviations: fails by chance once in 5,000 seeds


def test_the_draws_of_a_row_are_independent() -> None:
    # a uniform distribution over 256 tokens: of 4000 pairs of tokens that follow each other 4000 / 256 are equal
    model = toy_model(vocab_size=256)
    with torch.no_grad():
        model.embedding.weight.zero_()
    drawn = torch.tensor([c.ids for c in generate(model, [[5]] * 1000, 5, 1.0, -1, 0)])
    assert abs(int((drawn[:, 1:] == drawn[:, :-1]).sum()) - 4000 / 256) < 4 * (4000 / 256) ** 0.5
    assert abs(int((drawn[1:] == drawn[:-1]).sum()) - 4995 / 256) < 4 * (4995 / 256) ** 0.5


def test_reproducible_from_the_seed() -> None:
    model = toy_model()
    once, again, other = (generate(model, PROMPTS, 9, 1.0, 4, seed) for seed in (1, 1, 2))
    assert once == again and once != other


def test_stops_at_the_context_and_refuses_what_does_not_fit() -> None:
    model = toy_model()
    assert len(generate(model, [[7] * 45], 99, 1.0, -1, 0)[0].ids) == 3
    for bad in ([[]], [[7] * 48]):
        with pytest.raises(ValueError, match="1 to 47 tokens"):
            generate(model, bad, 5, 1.0, 4, 0)
    assert generate(model, [], 5, 1.0, 4, 0) == []


def test_with_experts_a_completion_depends_on_its_prompt_alone_to_rounding() -> None:
    """A product has as many rows as tokens chose the expert, and with their number its sums change their order."""
    shape = {"context": CONTEXT, "width": 64, "ffn_width": 96, "feed_forward": {"name": "experts"}}
    model = stirred(toy_model(seed=4, **shape)).eval()
    for prompt, beside in zip(GIVEN[:6], GIVEN[1:7], strict=True):
        ((alone,), (other, _)) = (generate(model, prompts, 6, 0.0, -1, 0) for prompts in ([prompt], [prompt, beside]))
        assert other.ids == alone.ids
        # 1e-5: fp32 sums of 64 to 96 in another order, of logits of the order of 10
        assert other.logps == pytest.approx(alone.logps, rel=0, abs=1e-5)
