"""What a strategy of decoding gets right, and what it spends on that: a point of the curve of accuracy against tokens."""

from typing import Any

from lm.intervals import wilson
from lm.model import Decoder
from lm.problems.example import Example
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy
from lm.tokenizer import Tokenizer

# Tables of data/evaluate/<model>, which no task may be called as: of each answer, and of each strategy
ANSWERS, CURVE = "decoded", "decoding"


def decode_all(
    strategy: Strategy, model: Decoder, tokenizer: Tokenizer, verifier, examples: list[Example], max_new_tokens: int
) -> list[dict[str, Any]]:
    """A row for each example, in their order: the strategy's answer, its score, and what it took. A row depends on its own
    problem alone. A prompt that leaves no room in the context has an empty answer, which takes nothing."""
    prompts = [tokenizer.chat(example.prompt) for example in examples]
    fits = [place for place, prompt in enumerate(prompts) if len(prompt) < model.config.context]

    def score(place: int, text: str) -> float | None:
        found = verifier.score(examples[fits[place]], text)
        return found.value if found.valid else None

    names = [examples[place].id for place in fits]
    asked = PromptBatch(tokenizer, [prompts[place] for place in fits], names, max_new_tokens, score=score)
    found = [DecodedAnswer([], 0, 0)] * len(examples)
    for place, answer in zip(fits, strategy(model, asked), strict=True):
        found[place] = answer
    rows = []
    for example, answer in zip(examples, found, strict=True):
        text = tokenizer.decode(answer.ids)
        scored = verifier.score(example, text)
        rows.append(
            {
                "strategy": strategy.metric_label,
                "id": example.id,
                "completion": text,
                "score": scored.value,
                "valid": scored.valid,
                "tokens": answer.tokens,
                "passes": answer.passes,
            }
        )
    return rows


def point_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A strategy's point of the curve: the share of problems that its answers are right of, with its 95% interval (Wilson), of
    those that have a verdict, and tokens and passes a problem, of all."""
    valid = [row["score"] for row in rows if row["valid"]]
    low, high = wilson(sum(valid), len(valid))
    return {
        "strategy": rows[0]["strategy"],
        "accuracy": sum(valid) / len(valid) if valid else 0.0,
        "accuracy_low": low,
        "accuracy_high": high,
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "passes": sum(row["passes"] for row in rows) / len(rows),
        "problems": len(rows),
        "invalid": len(rows) - len(valid),
    }


def curve_metrics(curve: list[dict[str, Any]]) -> dict[str, float]:
    """Metrics of every point, each behind the name of its strategy."""
    names = ("accuracy", "accuracy_low", "accuracy_high", "tokens", "passes")
    return {f"{CURVE}_{point['strategy']}_{name}": point[name] for point in curve for name in names}
