"""Supervised fine-tuning: the model learns what assistants say in conversations, and to answer problems from demonstrations."""

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lm import problems
from lm.checkpoint import device, save_model
from lm.config import Seed, choice
from lm.files import write_text
from lm.model_folder import read_model
from lm.prompts.base import put_prompt
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import Conversation, collate, pack, places
from lm.training.loop import train
from lm.training.parallel import parts_of_a_batch
from lm.training.prefetch import Prefetcher
from lm.training.prompted import Prompted
from lm.transfer import Tensors
from tasks.core.config import ConfigError, Conversations, StartModel
from tasks.core.log import Log
from tasks.sft import confidences, corruptions, losses, mixtures, orders
from tasks.sft import sources as every_source
from tasks.sft.data import read_data, reasons
from tasks.sft.step import bounds_within, loss_of

QUARANTINE = "quarantine.jsonl"
BEHIND_A_PROMPT = "each conversation is to begin with the soft prompt, and stands in a row of its own: set it to false"


class SftConfig(Prompted):
    model: StartModel
    steps: int = Field(200, gt=0)
    batch: int = Field(64, gt=0, description="conversations a step")
    sources: list[choice(every_source)] = Field(
        [every_source.Problems()], min_length=1, description="where conversations come from"
    )
    learned: Literal["all", "last"] = Field("all", description="answers of a conversation: all, or the last alone")
    too_long: Literal["drop", "cut"] = Field("drop", description="what is done with more than the context")
    packing: bool = Field(
        False,
        description="conversations behind each other in rows of the context, none of which sees another; off: one a row",
    )
    mixture: choice(mixtures) = mixtures.Even()
    order: choice(orders) = orders.Shuffled()
    confidence: choice(confidences) = confidences.Certain()
    corruption: choice(corruptions) = corruptions.Untouched()
    loss: choice(losses) = losses.CrossEntropy()
    conversations: Conversations = Conversations()
    problems: choice(problems)
    seed: Seed

    @property
    def rows_apart(self) -> str:
        return (
            f"loss {self.loss.name} is of how likely a whole answer is by itself" if self.loss.of_whole_answers else ""
        )

    @model_validator(mode="after")
    def _one_a_row(self) -> "SftConfig":
        if self.packing and self.learns_prompt:
            raise ValueError(f"packing: {BEHIND_A_PROMPT}")
        return self


def run(config: SftConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/sft. Rows of files that are no conversation stand in data/sft/quarantine.jsonl, with the reason."""
    model, tokenizer = read_model(data / config.model)
    model.to(device())
    if config.packing and model.prompt is not None:
        raise ConfigError(f"sft.packing: {BEHIND_A_PROMPT}")
    context, batch = model.config.context, config.batch
    found = read_data(config, tokenizer, context, config.steps * batch, model)
    if found.refused:
        lines = [json.dumps(vars(row), ensure_ascii=False, sort_keys=True) for row in found.refused]
        write_text(data / "sft" / QUARANTINE, "\n".join(lines) + "\n")
        print(
            f"sft: {len(lines)} rows are no conversation, see data/sft/{QUARANTINE}: {reasons(found.refused)}",
            flush=True,
        )
    put_prompt(model, config.soft_prompt)
    parts = parts_of_a_batch(config)

    def chosen_at(step: int) -> list[Conversation]:
        return [found.conversations[i] for i in found.picks_P[step * batch : (step + 1) * batch]]

    def fetch(step: int) -> Tensors:
        """ids_BN, mask_BT; of the K predictions that count the places among all B x T, the weights (None where all are 1) and
        the conversations' numbers; what is read in the place of ids (None: they are); the length of each one's conversation
        (None: no noise asks for it); bounds; and how many tokens there are."""
        chosen_now = chosen_at(step)
        lengths_C = torch.tensor([len(c) for c in chosen_now])
        bounds = None
        if config.packing:
            packed = pack(chosen_now, tokenizer.pad_id, context, parts)
            ids_BN, mask_BT, bounds = packed.ids_BN, packed.mask_BT, packed.bounds
            places_K = places(mask_BT)
            owners_BT = packed.owners_BT
        else:
            ids_BN, mask_BT = collate(chosen_now, tokenizer.pad_id)
            places_K = places(mask_BT)
            owners_BT = torch.arange(len(ids_BN))[:, None].expand(mask_BT.shape)
        weights_K = mask_BT.flatten()[places_K]
        asked_BT = ids_BN[:, :-1]
        inputs_BT = config.corruption(asked_BT, mask_BT, tokenizer.pad_id, config.seed, step, config.steps)
        return (
            ids_BN, mask_BT, places_K, None if (weights_K == 1).all() else weights_K, owners_BT.flatten()[places_K],
            None if inputs_BT is asked_BT else inputs_BT, lengths_C[owners_BT] if config.corruption.noisy else None, bounds,
            lengths_C.sum(),
        )  # fmt: skip

    def batch_of(step: int, host: Tensors, here: Tensors) -> Batch:
        ids, mask, host_K, *_, bounds, tokens = host
        ids_BN, mask_BT, places_K, weights_K, owners_K, given_BT, lengths_BT, *_ = here
        T, counted = mask.shape[1], mask_BT.sum()
        inputs_BT, targets_BT = ids_BN[:, :-1] if given_BT is None else given_BT, ids_BN[:, 1:]

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            """The head sees no position that counts nothing; the host knows which, so that it need not ask the device."""
            first, end = torch.searchsorted(host_K, torch.tensor([rows.start * T, rows.stop * T])).tolist()
            noise_RTD = None
            if lengths_BT is not None:
                noise_RTD = config.corruption.noise(lengths_BT[rows], model.config.width, rows.start, config.seed, step)
            return loss_of(
                config.loss,
                model,
                inputs_BT[rows],
                targets_BT[rows],
                places_K[first:end] - rows.start * T,
                owners_K[first:end],
                batch,
                counted,
                None if weights_K is None else weights_K[first:end],
                bounds_within(bounds, rows, T),
                noise_RTD,
            )

        content = tuple(x for x in (ids, mask, host[5], bounds) if x is not None)
        return Batch(len(ids), T, int(tokens), loss, content=content)

    trunks = log.trunks(config, config.steps, [model], [tokenizer.to_json()], fetch)
    with Prefetcher(fetch, batch_of, config.steps, model.embedding.weight.device) as batch_at:
        train(model, config, config.steps, batch_at, log, trunks)
    save_model(data / "sft", model, tokenizer)
    said: dict[str, float] = {"steps": config.steps, "examples": len(found.conversations), "too_long": found.too_long}
    return said | ({"quarantined": len(found.refused)} if any(s.name == "files" for s in config.sources) else {})
