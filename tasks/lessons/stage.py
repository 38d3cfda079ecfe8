"""Targets: what a teacher finds the likeliest at each token that distillation will ask for, written once for any number of
students, as Reinforced training stores its teachers' (MobileCLIP, Vasu et al. 2024, arXiv:2311.17049)."""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm import problems
from lm.checkpoint import device
from lm.config import Config, Seed, choice
from lm.distilling.batches import DistillationBatches, problems_that_fit
from lm.distilling.targets import FILE, Header, Row, TargetWriter, digest_of
from lm.distilling.top_k import linear_top_k_with_rest
from lm.model import Decoder
from lm.model_folder import read_model
from lm.temperature import Divisor, Temperature
from lm.training.data.conversations import Conversation, collate, hidden_at, places
from lm.training.data.plan import Plan
from lm.training.precision import Precision, autocast
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.core.tokens import check_tokens

# Rows of a forward pass: bounds memory.
ROWS = 16


class LessonsConfig(Config):
    """Differs from the paper: distributions over tokens in the place of embeddings, the likeliest of them alone, and no
    augmentation."""

    model: StartModel
    steps: int = Field(200, gt=0, description="as many as the distillation that is to read them has, or more")
    batch: int = Field(48, gt=0, description="problems a step, as distillation has")
    corpus_sequences: int = Field(4, ge=0, description="sequences of pretraining text a step, as distillation has")
    max_new_tokens: int = Field(32, gt=0)
    answers: Literal["teacher", "demonstrations"] = "teacher"
    answer_temperature: Temperature = Field(1.0, description="at which the teacher writes its answers")
    temperature: Divisor = Field(1.0, description="of the distributions, as the divergence has")
    top_k: int = Field(32, gt=0, description="the teacher's likeliest tokens; all others are one")
    numbers: Literal["float16", "float32"] = Field("float16", description="in which log-probabilities are stored")
    precision: Precision = Field("auto", description="of products; auto: bf16 on a GPU, fp32 on a CPU")
    problems: choice(problems)
    seed: Seed


def run(config: LessonsConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model>, the teacher, data/curriculum and data/tokenize -> data/lessons.

    bytes_a_token: of the file, for each token that is predicted. rest_share: the mean probability of the tokens that are not
    told apart. rounding_nats: the mean KL divergence to what is stored from what it was before it was rounded.
    """
    teacher, tokenizer = read_model(data / config.model)
    if config.corpus_sequences:
        check_tokens(f"lessons.model: {config.model}", tokenizer, data / "tokenize")
    vocabulary = teacher.config.vocab_size
    if config.top_k >= vocabulary:
        raise ConfigError(f"lessons.top_k: {config.top_k} is no fewer than the model's {vocabulary} tokens; lower it")
    if teacher.config.logit_softcap is not None:
        raise ConfigError("lessons.model: has logit_softcap, which stored targets do not know: take a model without")
    teacher.to(device())
    examples = (e for split in ("sft", "rl") for e in config.problems.examples(split))
    found = problems_that_fit(
        "lessons.max_new_tokens", tokenizer, examples, teacher.config.context, config.max_new_tokens,
        lambda shown, longest: config.answers == "teacher" or len(shown) <= longest,
    )  # fmt: skip
    plan = Plan(data / "curriculum", data / "tokenize")
    asking = DistillationBatches(found, plan, config.batch, config.corpus_sequences, config.seed)
    by_teacher = config.answers == "teacher"
    header = Header(
        steps=config.steps,
        batch=config.batch,
        texts=config.corpus_sequences,
        max_new_tokens=config.max_new_tokens,
        top_k=config.top_k,
        temperature=config.temperature,
        answers=config.answers,
        answer_temperature=config.answer_temperature if by_teacher else 0.0,
        vocabulary=vocabulary,
        numbers=config.numbers,
        tokenizer=digest_of(tokenizer.to_json()),
    )
    sums = torch.zeros(3, dtype=torch.float64)
    with TargetWriter(data / "lessons", header) as writing:
        for step in range(config.steps):
            asked = asking.problems_at(step)
            prompts, written = [each.prompt for each in asked], [each.completion for each in asked]
            with autocast(config.precision, device()):
                if by_teacher:
                    written = asking.sample_answers(
                        step, teacher, prompts, config.max_new_tokens, config.answer_temperature, tokenizer.end_id
                    )
                answers = [Conversation(prompt, ids) for prompt, ids in zip(prompts, written, strict=True)]
                texts = [Conversation(row[:1], row[1:]) for row in asking.text_at(step).tolist()]
                rows = [row for some in (answers, texts) for row in rows_of(teacher, some, tokenizer.pad_id, config)]
            writing.add(rows)
            for row in rows:
                sums += torch.stack(sums_of(row.logp_TC, config.numbers))
            log.progress(step + 1, config.steps, "step")
    count, rest, lost = sums.tolist()
    return {
        "steps": config.steps,
        "tokens": int(count),
        "bytes_a_token": (data / "lessons" / FILE).stat().st_size / count,
        "rest_share": rest / count,
        "rounding_nats": lost / count,
    }


@torch.no_grad()
def rows_of(teacher: Decoder, conversations: list[Conversation], pad_id: int, config: LessonsConfig) -> list[Row]:
    """The targets of every token of a completion, ROWS conversations at a time."""
    found = []
    for start in range(0, len(conversations), ROWS):
        some = conversations[start : start + ROWS]
        ids_BN, mask_BT = collate(some, pad_id)
        where = teacher.embedding.weight.device
        x_KE = hidden_at(teacher, ids_BN[:, :-1].to(where), places(mask_BT).to(where))
        made = linear_top_k_with_rest(x_KE, teacher.head_weight, config.top_k, config.temperature)
        lengths = [len(each.completion) for each in some]
        each = zip(some, *(part.cpu().split(lengths) for part in made), strict=True)
        found += [Row(one.prompt + one.completion, len(one.prompt), top, logp) for one, top, logp in each]
    return found


def sums_of(logp_TC: Tensor, numbers: str) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, sum of the probability of all that is not told apart, sum of the nats that rounding takes), in fp64: the KL
    divergence to what is stored, made to add up to 1."""
    logp_TC = logp_TC.double()
    stored_TC = logp_TC.to(getattr(torch, numbers)).double().log_softmax(-1)
    lost_T = (logp_TC.exp() * (logp_TC - stored_TC)).sum(-1)
    return torch.tensor(len(logp_TC), dtype=torch.float64), logp_TC[:, -1].exp().sum(), lost_T.sum()
