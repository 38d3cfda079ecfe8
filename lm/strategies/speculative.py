"""A small model proposes, and the model looks at all proposals in one pass: speculative decoding, Leviathan et al. 2023
(arXiv:2211.17192), at temperature 0, where it is the greedy case of blockwise decoding, Stern et al. 2018 (arXiv:1811.03115).

Letters: R rows, T tokens of a pass, V vocabulary, D width.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lm.config import ConfigError
from lm.decoding import Rows
from lm.mixers.attention import RoundedKeysAndValues
from lm.model import Decoder
from lm.quantized.inputs import is_rounding
from lm.sampler import capacity_of, generate, prompts_at_once, whole_pieces
from lm.softcap import capped
from lm.strategies.assistants import Assistant, assistant
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, as_decoded_answer

# Rows of a pass, always as many, so that no answer depends on the others
ROWS = 32
# Units in the last place of the largest product that a token of this length of x could have with a row of the head, by which
# the two likeliest tokens must differ. One pass over several tokens differs from one over each in the last bits, so that of two
# that are closer either may be the greedy one; tests/lm/test_decoding_speculative.py finds differences below a sixteenth of
# this.
UNITS = 64


def nearly_equal(x_RTD: Tensor, head_VD: Tensor, top_RT2: Tensor) -> Tensor:
    """close_RT: whether the two highest logits of x_RTD differ by no more than another order of additions may change."""
    head_VD = head_VD.detach()
    reach_RT = x_RTD.float().norm(dim=-1) * head_VD.float().norm(dim=1).max()
    return top_RT2[..., 0] - top_RT2[..., 1] <= UNITS * torch.finfo(head_VD.dtype).eps * reach_RT


def check_exact(model: Decoder) -> None:
    """Raises ConfigError for a model that rounds what it makes while it runs: a last bit, which is one in a pass over several
    tokens and another in one over each, may become a whole step there, which is far more than UNITS."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    for slot, rounds in (("cache", model.cache_rounding is not None), ("activation", any(map(is_rounding, hooks)))):
        if rounds:
            raise ConfigError(
                f"speculative: the model computes in whole numbers (quantize.{slot}), in which several tokens at once may "
                "differ from one after the other: take greedy"
            )


def _slots(state: Any) -> int:
    """Tokens of a row whose keys and values a layer's state has room for; 0 where it keeps none."""
    if isinstance(state, RoundedKeysAndValues):
        return state.codes_2BKCE.shape[3]
    kept = getattr(state, "keys_BKCE", None)
    return 0 if kept is None else int(kept.shape[2])


class Passes(Rows):
    """Rows that read several tokens in one pass, and may take some of them back."""

    def check(self) -> None:
        """Raises ConfigError where a layer forgets tokens for newer ones, which then cannot be taken back."""
        for state in self.cache.states:
            if _slots(state) < self.cache.capacity:
                raise ConfigError(
                    "speculative: a layer of this model forgets tokens, and cannot take proposals back: take greedy"
                )

    def after(self, ids_RT: Tensor, lengths_R: Tensor) -> tuple[Tensor, Tensor]:
        """(ids_RT, close_RT): the likeliest token behind each of these, which follow the first lengths_R tokens of each row,
        and whether another is as likely but for rounding."""
        self.cache.lengths_B.copy_(lengths_R)
        x_RTD = self._model.hidden(ids_RT, self.cache)
        logits_RTV = capped(F.linear(x_RTD.to(self._head_VD.dtype), self._head_VD), self._model.config.logit_softcap)
        top_RT2, found_RT2 = logits_RTV.float().topk(2)
        return found_RT2[..., 0], nearly_equal(x_RTD, self._head_VD, top_RT2)


@dataclass
class _Row:
    """An answer on its way. unsure: two tokens were nearly equal, so it is written anew, token by token."""

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    asked: int = 0
    passes: int = 0
    done: bool = False
    unsure: bool = False

    def take(self, token: int, close: bool, most: int, stop_id: int) -> None:
        """Write the model's own token."""
        if close:
            self.unsure = self.done = True
            return
        self.ids.append(token)
        self.done = token == stop_id or len(self.ids) == most


class Speculative(Strategy):
    """The greedy answers, in fewer passes: the model in the folder `draft` of data/assistants writes `ahead` tokens, one pass
    of the model tells its own token behind each, and those are taken up to the first that differs from the draft, and that one
    too.

    No token differs from `greedy`: where the two likeliest tokens are so close that a pass over several tokens might order them
    otherwise than one over each, and for prompts of one token or so long that proposals have no room, the answer is written by
    `greedy`, and both are paid for. How close that is was measured, not proven (UNITS). Differs from the papers: all of that,
    which they do not have; temperature 0 alone; `tokens` counts the places at which the model was asked, refused proposals
    included, and not the draft's own. A model that rounds its inputs or what it keeps is refused; a draft may."""

    name: Literal["speculative"] = "speculative"
    draft: Assistant
    ahead: int = Field(4, gt=0, description="tokens that the draft proposes at once")

    @property
    def assistants(self) -> list[str]:
        return [self.draft]

    @torch.inference_mode()
    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        check_exact(model)
        draft, context = assistant(self.draft, model, asked.tokenizer), model.config.context
        most, end = asked.max_new_tokens, asked.tokenizer.end_id
        needed = most + self.ahead + 1
        rows = [_Row(prompt) for prompt in asked.prompts]
        alike: dict[tuple[int, int], list[_Row]] = defaultdict(list)
        for row in rows:
            row.unsure = not 2 <= len(row.prompt) <= context - needed
            if not row.unsure:
                capacity = capacity_of(len(row.prompt), needed, context, gpu=False)
                alike[capacity, whole_pieces(len(row.prompt), context)].append(row)
        for (capacity, length), every in sorted(alike.items()):
            both = [Passes(one, ROWS, capacity, 1, None) for one in (model, draft)]
            for passes in both:
                passes.check()
            for first in range(0, len(every), ROWS):
                self._write(both[0], both[1], every[first : first + ROWS], length, most, end)
        found = [DecodedAnswer(row.ids, row.asked, row.passes) for row in rows]
        unsure = [place for place, row in enumerate(rows) if row.unsure]
        again = generate(model, [asked.prompts[place] for place in unsure], most, 0.0, end, 0)
        for place, completion in zip(unsure, again, strict=True):
            plain, before = as_decoded_answer(completion), found[place]
            found[place] = replace(plain, tokens=plain.tokens + before.tokens, passes=plain.passes + before.passes)
        return found

    def _write(self, model: Passes, draft: Passes, rows: list[_Row], length: int, most: int, stop_id: int) -> None:
        """Write these answers until all are done."""
        at_once = prompts_at_once(ROWS)
        for first in range(0, len(rows), at_once):
            some = [row.prompt for row in rows[first : first + at_once]]
            filled = some + some[:1] * (at_once - len(some))
            for passes in (model, draft):
                passes.read(filled, length, list(range(first, first + len(some))), list(range(len(some))))
        device = model.cache.lengths_B.device
        while not all(row.done for row in rows):
            # of each row its last two tokens, and how many there are: both are read again, since the draft may not have read
            # them
            ends = [[0, 0] if row.done else [*row.prompt, *row.ids][-2:] for row in rows]
            counts = [2 if row.done else len(row.prompt) + len(row.ids) for row in rows]
            ends += [[0, 0]] * (ROWS - len(rows))
            counts += [2] * (ROWS - len(rows))
            last_R2, counts_R = torch.tensor(ends, device=device), torch.tensor(counts, device=device)
            proposed_R1 = draft.after(last_R2, counts_R - 2)[0][:, -1:]
            given_RT = torch.cat((last_R2[:, 1:], proposed_R1), 1)
            for more in range(self.ahead - 1):
                proposed_R1 = draft.after(proposed_R1, counts_R + more)[0]
                given_RT = torch.cat((given_RT, proposed_R1), 1)
            own_RT, close_RT = model.after(given_RT, counts_R - 1)
            for row, given, own, close in zip(
                rows, given_RT.tolist(), own_RT.tolist(), close_RT.tolist(), strict=False
            ):
                if row.done:
                    continue
                row.asked, row.passes = row.asked + self.ahead + 1, row.passes + 1
                for place, token in enumerate(own):
                    row.take(token, close[place], most, stop_id)
                    if row.done or place == self.ahead or token != given[place + 1]:
                        break
