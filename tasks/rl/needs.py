"""What reinforcement learning takes: its model and checkpoints on disk, and the step that it repeats."""

import torch
from torch import Tensor

from lm.model import Decoder, ModelConfig
from lm.sampler import rows_for
from lm.training.batch import Batch, Metrics
from tasks.about.problem_lengths import conversation_lengths, last_of, longest_prompt
from tasks.about.prompts import folder_bytes, model_with_prompt, states_bytes, trained_numbers
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower
from tasks.about.work import Sampling, StageNeeds, Step, Work
from tasks.rl.advantages import Gae
from tasks.rl.rewards import Judge, Model
from tasks.rl.stage import RlConfig
from tasks.rl.step import loss_of

ROW = 64  # bytes of an answer's other columns
# A critic's weights and their optimizer's two slots; and what it computes, forward and backward, is as much as three readings
CRITIC = 3
CHECKPOINTS = 2  # that training has at most


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no prompt fits the context."""
    shape, config = sections.shape("rl"), sections["rl"]
    kept = ledger_bytes(config, longest_start(config, shape)) if config.keep_rollouts else 0.0
    critic = checkpoint_bytes(critic_shape(sections)) if isinstance(config.advantage, Gae) else 0.0
    older = CHECKPOINTS * config.staleness * 4.0 * trained_numbers(sections, "rl", shape)
    scratch = states_bytes(sections, "rl", shape) + critic + older + kept
    return StageNeeds(folder_bytes(sections, "rl", shape) + kept, scratch, work(sections, shape))


def ledger_bytes(config: RlConfig, prompt: int) -> float:
    """Bytes of all rollouts, where each asks as often as it may: 4 a token, 4 more for its probability, 1 for whose
    it is where an environment adds some, and some columns."""
    answers = config.prompts * config.samples * (1 + config.resample) * -(-config.steps // config.steps_a_rollout)
    return answers * (4.0 * prompt + (8.0 + config.environment.adds) * config.answer_tokens + ROW)


def work(sections: Sections, shape: ModelConfig) -> Work:
    """An update of B answers of T predictions, after a rollout now and then; every answer has all its tokens, its environment's
    included and as if the model had written them, demonstrations stand beside them all, and no rollout asks again. What rewards
    score with is counted as read once with each update; verdicts that are written are not."""
    config = sections["rl"]
    prompt = longest_start(config, shape)
    answers, T = config.prompts * config.samples, prompt + config.answer_tokens - 1
    D, shown = -(-config.demonstrations.max_demonstrations(config.prompts) // config.minibatches), config.max_new_tokens
    if D:
        lengths = conversation_lengths(config.problems, "rl", shape.vocab_size)
        T = max(T, min(max(map(sum, lengths)), shape.context) - 1)
        shown = max(shown, min(max(pair[0 if config.demonstrations.of_prompts else 1] for pair in lengths), T))
    taught = config.prompts * config.loss.together if config.loss.together > 1 else answers
    B = taught // config.minibatches + D
    B += -B % config.loss.together

    scoring = [sections.shape(model) for model in scorers(config)]
    critic = isinstance(config.advantage, Gae)
    judging = [critic_shape(sections)] * CRITIC * critic

    def step() -> Step:
        model, ids_BN = model_with_prompt(shape, sections, config.model), torch.zeros((B, T + 1), dtype=torch.int64)
        held_to = [model_with_prompt(shape, sections, config.model)] * config.loss.needs_reference
        frozen = tuple(each.requires_grad_(False) for each in [*held_to, *map(Decoder, [*scoring, *judging])])

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            R = rows.stop - rows.start
            places_K, ones_RT = last_of(R, T, shown), torch.ones(R, T)
            old_RT = torch.zeros(R, T)
            reference_RT = old_RT if config.loss.needs_reference else None
            return loss_of(
                config.loss, config.temperature, model, ids_BN[rows], places_K, old_RT, torch.ones(R, 1), ones_RT, reference_RT,
                ones_RT if D else None,
            )  # fmt: skip

        each = config.steps_a_rollout
        rows, new_tokens = rows_for(model, answers), config.answer_tokens
        sampling = Sampling(model, answers, rows, config.prompts, prompt, new_tokens, each)
        return Step(model, Batch(B, T, B * T, loss, together=config.loss.together), (sampling,), frozen)

    tokens = config.steps * B * config.max_new_tokens
    less = lower(sections, config.model, "rl.max_new_tokens", "rl.prompts or rl.samples")
    return Work(config, shape, config.steps, tokens, step, less)


def critic_shape(sections: Sections) -> ModelConfig:
    """Shape of the model that a critic begins as."""
    config = sections["rl"]
    scored = isinstance(config.advantage, Gae) and config.advantage.start == "scorer"
    return sections.shape(config.scorer if scored else "rl")


def scorers(config: RlConfig) -> list[str]:
    """Names of the models that rewards score with, each held by itself."""
    found = []
    for part in config.rewards:
        if isinstance(part, Judge | Model):
            found.append(config.model if isinstance(part, Judge) and part.by == "start" else config.scorer)
    return found


def longest_start(config: RlConfig, shape: ModelConfig) -> int:
    """Tokens of the longest prompt with the longest hint that may follow it. Raises ConfigError where no prompt fits."""
    prompt = longest_prompt("rl", config.model_copy(update={"max_new_tokens": config.answer_tokens}), ("rl",), shape)
    if not config.curriculum.hints:
        return prompt
    room = shape.context - config.answer_tokens
    lengths = conversation_lengths(config.problems, "rl", shape.vocab_size)
    return max(min(prompt + shown, room) for prompt, shown in lengths if prompt <= room)
