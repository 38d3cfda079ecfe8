"""Batched generation with a KV cache. Letters as in lm/model.py."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm.model import Cache, Decoder


@dataclass
class Completion:
    """The tokens that followed a prompt, with the log-probability (nats) of each under the sampled distribution.

    `finished` is true when the stop token came; it is then the last token. Else the budget or the context ran out.
    """

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False


def pick(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Next tokens (B) and their log-probabilities (B); temperature 0 takes the most likely, lowest id first."""
    logps_BV = (logits_BV / temperature if temperature > 0 else logits_BV).log_softmax(-1)
    if temperature > 0:
        ids_B = torch.multinomial(logps_BV.exp(), 1, generator=generator)[:, 0]
    else:
        ids_B = logps_BV.argmax(-1)
    return ids_B, logps_BV.gather(1, ids_B[:, None])[:, 0]


@torch.inference_mode()
def generate(
    model: Decoder, prompts: list[list[int]], max_new_tokens: int, temperature: float, stop_id: int, seed: int
) -> list[Completion]:
    """One completion a prompt, in their order. Reproducible from the seed for the same list of prompts.

    Raises ValueError for an empty prompt or one that leaves no room in the context.
    """
    if not prompts or max_new_tokens < 1:
        return [Completion() for _ in prompts]
    longest, context = max(map(len, prompts)), model.config.context
    if min(map(len, prompts)) == 0 or longest >= context:
        raise ValueError(
            f"prompts must have 1 to {context - 1} tokens; these have {min(map(len, prompts))} to {longest}"
        )
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    budget = min(max_new_tokens, context - longest)
    padding_B = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    ids_BT = torch.tensor([[stop_id] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    cache = Cache(model.config, padding_B, longest + budget)
    completions = [Completion() for _ in prompts]
    running = list(range(len(prompts)))
    for _ in range(budget):
        ids_B, logps_B = pick(model(ids_BT, cache)[:, -1], temperature, generator)
        for row, token, logp in zip(running, ids_B.tolist(), logps_B.tolist(), strict=True):
            if not completions[row].finished:
                completions[row].ids.append(token)
                completions[row].logps.append(logp)
                completions[row].finished = token == stop_id
        ids_BT = ids_B[:, None]
        alive = [place for place, row in enumerate(running) if not completions[row].finished]
        if not alive:
            break
        if len(alive) <= len(running) // 2:  # halving: at most log2(B) copies of the cache
            rows = torch.tensor(alive, device=device)
            cache.select(rows)
            ids_BT, running = ids_BT[rows], [running[place] for place in alive]
    return completions
