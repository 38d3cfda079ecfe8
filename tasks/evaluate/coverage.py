"""How many unseen problems a model answers if it may try several times: pass@N."""

from lm.intervals import wilson
from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import ROWS, generate
from lm.strategies.base import number_of
from lm.tokenizer import Tokenizer


def sampled_scores(
    model: Decoder,
    tokenizer: Tokenizer,
    verifier,
    examples: list[Example],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    progress,
    batch: int = 4 * ROWS,
) -> list[list[Score]]:
    """Verdicts on so many sampled answers to each problem, in the order of the examples; of one whose prompt leaves no room in
    the context on empty answers. The draws of an answer are of its problem's id and of its number: no other problem changes
    them."""
    prompts = [tokenizer.chat(e.prompt) for e in examples]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) < model.config.context]
    scores = [[verifier.score(e, "")] * samples for e in examples]
    at_once = max(1, batch // samples)
    for start in range(0, len(fits), at_once):
        asked = [(i, sample) for i in fits[start : start + at_once] for sample in range(samples)]
        draws = [number_of(examples[i].id, sample) for i, sample in asked]
        written = generate(
            model, [prompts[i] for i, _ in asked], max_new_tokens, temperature, tokenizer.end_id, 0, draws=draws
        )
        for (i, sample), completion in zip(asked, written, strict=True):
            if not sample:
                scores[i] = []
            scores[i].append(verifier.score(examples[i], tokenizer.decode(completion.ids)))
        progress(start + len(asked) // samples, len(fits), "problem tried several times")
    return scores


def coverage(scores: list[list[Score]]) -> dict[str, float]:
    """pass_at_n: the share of problems that some of their N answers is right of, with its 95% interval (Wilson); pass_at_1, the
    mean score of an answer. An answer without a verdict is none; a problem without any is not counted."""
    valid = [[score.value for score in some if score.valid] for some in scores]
    counted = [some for some in valid if some]
    if not counted:
        return {"pass_at_1": 0.0, "pass_at_n": 0.0, "pass_at_n_low": 0.0, "pass_at_n_high": 1.0}
    reached = sum(max(some) for some in counted)
    low, high = wilson(reached, len(counted))
    return {
        "pass_at_1": sum(sum(some) / len(some) for some in counted) / len(counted),
        "pass_at_n": reached / len(counted),
        "pass_at_n_low": low,
        "pass_at_n_high": high,
    }
