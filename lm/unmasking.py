"""Writing with a model of masked diffusion: all tokens of an answer are masked, and in each of some steps a share is unmasked.

Of each masked token the model's prediction is taken, the likeliest or a drawn one; those that stay unmasked are the most
confident, and all others are masked again (low-confidence remasking: Chang et al. 2022, MaskGIT, arXiv:2202.04200, section 3.2;
Nie et al. 2025, LLaDA, arXiv:2502.09992, algorithm 5), or random ones (LLaDA, algorithm 4).
guidance: Nie et al. 2024, SMDM (arXiv:2410.18514), section 5.1: unsupervised classifier-free guidance, logits
(1 + w) log p(x | prompt) - w log p(x | masked prompt).
Differs from LLaDA: an answer is not written in blocks; a prediction is never the mask.
Differs from MaskGIT: as many tokens in every step, no cosine; a token's confidence is its probability at temperature 1, without
noise of its own.

Letters: P prompts, L tokens of a prompt and its answer, V vocabulary, K tokens of an answer.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.pick import pick
from lm.config import ConfigError
from lm.model import Decoder
from lm.softcap import capped

Order = Literal["confidence", "random"]
# Answers written together. Rows are filled up to it, so that what is written depends on no other prompt
ROWS = 8


def shares_of(tokens: int, steps: int) -> list[int]:
    """How many tokens each step unmasks: as many in each, the first ones taking what is left over."""
    return [tokens // steps + (step < tokens % steps) for step in range(steps)]


def logits_of(model: Decoder, ids_PL: Tensor, answer: slice, guidance: float) -> Tensor:
    """logits_PKV of the answers, over all tokens but the mask."""
    head_VD, mask_id = model.head_weight[: model.config.mask_id], model.config.mask_id

    def of(ids: Tensor) -> Tensor:
        return capped(F.linear(model.hidden(ids)[:, answer], head_VD).float(), model.config.logit_softcap)

    logits_PKV = of(ids_PL)
    if not guidance:
        return logits_PKV
    blind_PL = ids_PL.clone()
    blind_PL[:, : answer.start] = mask_id
    return (1 + guidance) * logits_PKV.log_softmax(-1) - guidance * of(blind_PL).log_softmax(-1)


def unmask_step(
    ids_PK: Tensor, logits_PKV: Tensor, mask_id: int, share: int, temperature: float, points_2PK: Tensor, order: Order
) -> Tensor:
    """The answers with `share` more tokens unmasked in each. points_2PK: fp64 in [0, 1), of tokens that are drawn, and of a
    random order."""
    P, K, V = logits_PKV.shape
    masked_PK = ids_PK == mask_id
    found_N, _ = pick(logits_PKV.reshape(P * K, V), temperature, points_2PK[0].flatten())
    found_PK = found_N.view(P, K)
    if order == "random":
        rank_PK = points_2PK[1]
    else:
        rank_PK = logits_PKV.log_softmax(-1).gather(-1, found_PK[..., None])[..., 0].double()
    rank_PK = rank_PK.masked_fill(~masked_PK, -torch.inf)
    # stable: of equally confident ones the first
    taken_PK = rank_PK.argsort(dim=1, descending=True, stable=True)[:, :share]
    chosen_PK = torch.zeros_like(masked_PK).scatter(1, taken_PK, True)
    return torch.where(chosen_PK & masked_PK, found_PK, ids_PK)


@torch.inference_mode()
def unmask(
    model: Decoder,
    prompts: Sequence[list[int]],
    new_tokens: int,
    steps: int,
    seed: int,
    *,
    temperature: float = 0.0,
    order: Order = "confidence",
    guidance: float = 0.0,
    rows: int = ROWS,
) -> list[list[int]]:
    """An answer of `new_tokens` tokens to each prompt, or of as many as its context leaves, in so many steps, or one for each
    token where it has fewer. temperature 0 takes the likeliest token; else an answer's draws are of the seed and its place.

    An answer depends on the model, its prompt, its place and these numbers, never on the other prompts: on a CPU to the last
    bit. Raises ConfigError for a causal model, ValueError for a prompt that leaves no room and for no step.
    """
    if model.config.causal:
        raise ConfigError("a causal model writes token after token: only a model of masked diffusion is unmasked")
    if steps < 1:
        raise ValueError(f"{steps} steps unmask nothing: give 1 or more")
    context, mask_id, device = model.config.context, model.config.mask_id, model.embedding.weight.device
    if wrong := [len(prompt) for prompt in prompts if len(prompt) >= context]:
        raise ValueError(f"prompts must have up to {context - 1} tokens; one has {wrong[0]}")
    alike: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        alike[len(prompt)].append(place)
    answers: list[list[int]] = [[] for _ in prompts]
    for length, places in alike.items():
        K = min(new_tokens, context - length)
        shares = shares_of(K, min(steps, K)) if K > 0 else []
        for start in range(0, len(places), rows):
            group = places[start : start + rows]
            filled = group + group[:1] * (rows - len(group))
            made = [np.random.Generator(np.random.Philox(key=[seed, place])) for place in filled]
            ids_PL = torch.tensor([prompts[place] + [mask_id] * K for place in filled], device=device)
            for share in shares:
                points_P2K = np.stack([each.random((2, K)) for each in made])
                points_2PK = torch.tensor(points_P2K, device=device).transpose(0, 1).contiguous()
                logits_PKV = logits_of(model, ids_PL, slice(length, length + K), guidance)
                ids_PL[:, length:] = unmask_step(
                    ids_PL[:, length:], logits_PKV, mask_id, share, temperature, points_2PK, order
                )
            for place, ids in zip(group, ids_PL[:, length:].tolist(), strict=False):
                answers[place] = ids
    return answers


def truncate_at_stop(ids: list[int], stop_id: int) -> list[int]:
    """An answer up to its first stop token, and with it."""
    return ids[: ids.index(stop_id) + 1] if stop_id in ids else ids
