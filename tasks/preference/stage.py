"""Preference optimization: of two answers to a prompt, the better one becomes likelier than the worse."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.checkpoint import device, save_model
from lm.config import choice
from lm.model import Decoder
from lm.model_folder import read_model
from lm.pairs.recipe import PairsRecipe
from lm.pairs.table import SIDES, PairTable
from lm.prompts.base import put_prompt
from lm.tokenizer import Tokenizer
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import collate, places, sample_indices
from lm.training.loop import train
from lm.training.precision import autocast
from lm.training.prefetch import Prefetcher
from lm.training.prompted import Prompted
from lm.transfer import Tensors
from tasks.core.config import StartModel
from tasks.core.log import Log
from tasks.core.tables import write_table
from tasks.preference import losses
from tasks.preference.held_out import metrics_after, metrics_before
from tasks.preference.logps import answer_logps
from tasks.preference.prepared import prepared
from tasks.preference.step import loss_of


class PreferenceConfig(PairsRecipe, Prompted):
    model: StartModel
    loss: choice(losses)


class Learning:
    """How a model learns from pairs."""

    def __init__(self, config: PreferenceConfig, model: Decoder, tokenizer: Tokenizer, found: PairTable) -> None:
        self._config, self._model, self._tokenizer, self._pairs = config, model, tokenizer, found
        self._learned = found.places(held_out=False)
        reference_2N = torch.stack([found.logps(f"reference_{side}") for side in SIDES])
        self._reference_N2 = reference_2N.T.contiguous()
        self._other_N2 = torch.stack([found.logps(f"other_{side}") for side in SIDES]).T.contiguous()

    def chosen_at(self, step: int) -> list[int]:
        """Rows of the table that a step learns from."""
        config = self._config
        return [self._learned[i] for i in sample_indices(step, config.batch, len(self._learned), config.seed)]

    def step_data(self, step: int) -> list[Any]:
        """Everything that decides a step, given the weights: the conversations, and what the start model makes of them."""
        rows = self.chosen_at(step)
        answers = [self._pairs.conversation(side, place) for place in rows for side in SIDES]
        crossed = self._crossed(rows) if self._config.loss.needs_point else []
        return [answers, crossed, self._reference_N2[rows], self._other_N2[rows]]

    def fetch(self, step: int) -> Tensors:
        """ids_RN, mask_RT, reference_R, places of the predictions that count among all R x T, and each row's tokens: the chosen
        and the rejected answer of each pair, one after the other."""
        rows = self.chosen_at(step)
        conversations = [self._pairs.conversation(side, place) for place in rows for side in SIDES]
        ids_RN, mask_RT = collate(conversations, self._tokenizer.pad_id)
        tokens = torch.tensor(sum(map(len, conversations)))
        return ids_RN, mask_RT, self._reference_N2[rows].flatten(), places(mask_RT), mask_RT.sum(1), tokens

    def batch_of(self, step: int, host: Tensors, here: Tensors) -> Batch:
        """The step's batch, whose pairs are never parted."""
        ids, mask, reference, host_K, _, tokens = host
        ids_RN, _, reference_R, places_K, tokens_R, _ = here
        config, model, T = self._config, self._model, mask.shape[1]
        point = self._point(step) if config.loss.needs_point else 0.0
        content = (ids, mask, reference, torch.tensor(point))

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            """The host knows which positions count, so that it need not ask the device."""
            first, end = torch.searchsorted(host_K, torch.tensor([rows.start * T, rows.stop * T])).tolist()
            kept_K = places_K[first:end] - rows.start * T
            rows_of = ids_RN[rows], kept_K, tokens_R[rows], reference_R[rows]
            return loss_of(config.loss, model, *rows_of, point, config.batch)

        metrics: Metrics = {"point": point} if config.loss.needs_point else {}
        return Batch(len(ids), T, int(tokens), loss, metrics, content=content, together=len(SIDES))

    def _crossed(self, rows: list[int]) -> list[Any]:
        context = self._model.config.context
        return [self._pairs.swapped_conversation(side, context, place) for place in rows for side in SIDES]

    def _point(self, step: int) -> float:
        """Mean of log(model / start model) over the step's answers behind other prompts, and 0 where that is negative."""
        rows = self.chosen_at(step)
        crossed = self._crossed(rows)
        logps = answer_logps(self._model, [len(c) for c in crossed], crossed.__getitem__, self._tokenizer.pad_id)
        return max(0.0, (logps - self._other_N2[rows].flatten()).mean().item())


def run(config: PreferenceConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/preference. Loss: mean over the step's pairs. Beside the model stand the pairs, with what the start
    model made of them, and what was no pair."""
    model, tokenizer = read_model(data / config.model)
    model.to(device())
    model.low_stream = config.stream == "bf16"  # the start model is read as the one that learns will be
    with autocast(config.precision, device()):
        found = prepared(config, model, tokenizer, log)
    put_prompt(model, config.soft_prompt)  # the start model is the one without
    learning = Learning(config, model, tokenizer, found)
    trunks = log.trunks(config, config.steps, [model], [tokenizer.to_json()], learning.step_data)
    with Prefetcher(learning.fetch, learning.batch_of, config.steps, model.embedding.weight.device) as batch_at:
        train(model, config, config.steps, batch_at, log, trunks)
    with autocast(config.precision, device()):
        now = metrics_after(found, config.loss, model, tokenizer)
    save_model(data / "preference", model, tokenizer)
    found.write(data / "preference", write_table)
    reasons = found.reasons()
    return {
        "steps": config.steps,
        "pairs": len(found.places(held_out=False)),
        **metrics_before(found),
        **now,
        "quarantined": sum(reasons.values()),
        **{f"quarantined_{reason}": count for reason, count in reasons.items()},
    }
