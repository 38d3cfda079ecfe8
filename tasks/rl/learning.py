"""How a policy learns from rollouts: which problems it is asked, what its answers earn, and the batch of each update."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lm.checkpoint import device
from lm.model import Decoder
from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from lm.training.batch import Batch, Metrics
from lm.training.components import Component
from lm.training.data.conversations import Conversation, demonstration_conversation, places
from lm.training.parallel import parts_of_a_batch
from lm.transfer import to_device
from tasks.rl.answers import Verdicts, answer_problems, concat_verdicts
from tasks.rl.config import RlConfig
from tasks.rl.critic import Critic, critic_of, rewards_at
from tasks.rl.curricula.base import CurriculumContext, DrawnProblem, Outcome
from tasks.rl.curricula.by_entropy import prompt_entropies
from tasks.rl.demonstrations import Unused
from tasks.rl.demonstrations.base import DemonstrationBatch
from tasks.rl.held_out import HeldOut
from tasks.rl.ledger import Ledger
from tasks.rl.replay import Replay
from tasks.rl.rewards import Correct
from tasks.rl.rewards.base import RewardContext, mean_values, part_names
from tasks.rl.rollout import Rollout, Rollouts, rollout_of, with_shown
from tasks.rl.stale import Stale, sampler_divergence
from tasks.rl.step import loss_of
from tasks.rl.trust import PolicyMonitor, check_sampler, logps
from tasks.rl.update import answers_of, in_parts, prediction_mask, with_demonstrations


@dataclass(frozen=True)
class DrawnRollout:
    """What a rollout asked. verdicts: answers to all of the problems asked, those that gave way to others included;
    advantages_GS: theirs; kept_places: of the problems that updates learn from; counts_G1: 0 of those of them that count for
    nothing, else 1; None: all count."""

    verdicts: Verdicts
    problems: list[DrawnProblem]
    advantages_GS: Tensor
    metrics: dict[str, float]
    kept_places: list[int]
    counts_G1: Tensor | None = None

    def learned_from(self) -> tuple[Verdicts, Tensor]:
        """(answers to the problems that are learned from, advantages_GS)."""
        if self.counts_G1 is None:
            return self.verdicts, self.advantages_GS
        found = self.verdicts.subset(self.kept_places)
        return replace(found, mask_GS=found.mask_GS * self.counts_G1), self.advantages_GS[
            self.kept_places
        ] * self.counts_G1


class Learning:
    """Everything of a run that is not the loop's. The model that the policy is held to, where it is, is what it began as."""

    def __init__(
        self,
        config: RlConfig,
        model: Decoder,
        tokenizer: Tokenizer,
        examples: list[Example],
        ledger: Ledger | None = None,
        scorer: Path | None = None,
        held_out: Sequence[Example] = (),
    ) -> None:
        """scorer: the folder of the reward model that a critic may begin as. held_out: problems that are answered and never
        learned from."""
        self._config, self._model, self._tokenizer, self._examples = config, model, tokenizer, examples
        self._ledger = ledger
        self.rollouts = Rollouts(self._rollout, config.prompts, config.updates, config.minibatches, config.seed)
        asked = prompt_entropies(examples, model, tokenizer) if config.curriculum.asks_model else None
        known = CurriculumContext(-(-config.steps // config.steps_a_rollout), asked)
        self.chooser = config.curriculum.chooser(examples, config.seed, known)
        self.selector = config.demonstrations.selector()
        self.monitor = PolicyMonitor(config.prompts)
        self.held_out = None
        if held_out:
            self._held_out = list(held_out)
            self.held_out = HeldOut(self._right, len(held_out), config.held_out_every)
        self._replay = Replay(config.replay, config.prompts, tokenizer.pad_id, config.seed) if config.replay else None
        self._stale = Stale(model, config.staleness) if config.staleness else None
        self.critic = None
        if config.advantage.baseline == "critic":
            start = critic_of(config.advantage, model, scorer, tokenizer)
            start.low_stream = config.stream == "bf16"
            self.critic = Critic(config.advantage, start, config, config.steps, config.samples, tokenizer.pad_id)
        self._reference = None
        if config.loss.needs_reference:
            self._reference = copy.deepcopy(model).requires_grad_(False).eval()
            self._reference.low_stream = config.stream == "bf16"
            if config.learns_prompt:  # what the policy is held to is the model without
                self._reference.prompt = None

    @property
    def components(self) -> list[Component]:
        """What of it is in checkpoints."""
        more = [each for each in (self._replay, self._stale, self.critic, self.held_out) if each]
        return [self.rollouts, self.chooser, self.selector, self.monitor, *more]

    def reward_context(self, number: int) -> RewardContext:
        """When a rollout is scored, rollouts counted from 0."""
        config = self._config
        return RewardContext(number * config.steps_a_rollout / config.steps, config.max_new_tokens)

    def _rollout(self, number: int) -> Rollout:
        """Rollout of the policy as it is now, or as it was before the last `staleness` rollouts."""
        config = self._config
        self._model.eval()
        with self._stale.sampling() if self._stale else nullcontext(0) as age:
            drawn = self._asked(number)
        (found, advantages_GS), metrics = drawn.learned_from(), drawn.metrics
        if self.held_out:
            metrics |= self.held_out.observe(number, metrics["reward"])
        self._model.train()
        # of all that was asked: what gave way to others is where all answers failed
        shown = self.selector.select([problem.index for problem in drawn.problems], drawn.verdicts.scores_GS)
        instead_G = shown.instead_G[drawn.kept_places]
        advantages_GS = advantages_GS.where(~instead_G[:, None], 0.0)
        rollout = rollout_of(
            found.prompts, found.completions, found.mask_GS, advantages_GS, metrics, self._tokenizer.pad_id
        )
        if self.critic:
            rewards_GS = found.rewards_GS.where(found.mask_GS > 0, 0.0)
            rewards_BT = rewards_at(rewards_GS.flatten(), found.steps, rollout.mask_BT)
            instead_B = instead_G.repeat_interleave(config.samples)
            rollout = self.critic.with_advantages(rollout, rewards_BT, instead_B)
        if number == 0:
            check_sampler(self._model, rollout, config.temperature, config.samples)
        if self._stale:
            logp_BT = logps(self._model, rollout, config.temperature, config.samples)
            told = sampler_divergence(logp_BT, rollout.logp_old_BT, rollout.mask_BT)
            rollout = replace(rollout, metrics={**rollout.metrics, "staleness": float(age), **told})
        self.monitor.observe(number, rollout)
        if self._reference is not None:
            reference_BT = logps(self._reference, rollout, config.temperature, config.samples)
            rollout = replace(rollout, reference_BT=reference_BT)
        rollout = self._replay.fill_groups(number, rollout) if self._replay else rollout
        if self._ledger:
            self._keep(self._ledger, number, drawn, found.mask_GS, advantages_GS)
        if config.demonstrations == Unused():
            return rollout
        return with_shown(rollout, self._shown(shown), shown.share, self._tokenizer.pad_id)

    def _keep(self, ledger: Ledger, number: int, drawn: DrawnRollout, mask_GS: Tensor, advantages_GS: Tensor) -> None:
        """Write what was asked, and what of it the updates are of. mask_GS, advantages_GS: of the problems kept, where answers
        whose demonstration is learned from have 0. Of a valid answer without an advantage nothing is learned, but by a loss
        that holds every one and by a critic; nor of a group that a kept one takes the place of."""
        every = self._config.loss.learns_from_zero_advantages or self.critic is not None
        learned_GS = (mask_GS > 0) & ((advantages_GS != 0) | every)
        if self._replay:
            learned_GS[self._replay.replaced] = False
        whole_GS, learned_of_GS = drawn.advantages_GS.clone(), torch.zeros_like(drawn.advantages_GS, dtype=torch.bool)
        whole_GS[drawn.kept_places], learned_of_GS[drawn.kept_places] = advantages_GS, learned_GS
        policy = max(number - self._config.staleness, 0) * self._config.steps_a_rollout
        ledger.write(number, policy, drawn.problems, self._examples, drawn.verdicts, whole_GS, learned_of_GS)

    def _right(self) -> float:
        """The share of the held-out problems that the policy answers right as it is now, greedily: the mean of the verifier's
        scores."""
        config = self._config
        found = answer_problems(
            self._model, self._tokenizer, config.problems, config.environment, [Correct()], self.reward_context(0),
            self._held_out, [[]] * len(self._held_out), 1, 0.0, config.seed,
        )  # fmt: skip
        return found.scores_GS.nanmean().item()

    def _shown(self, shown: DemonstrationBatch) -> list[Conversation]:
        """The demonstrations that fit the context, as fine-tuning has them."""
        conversation = self._config.demonstrations.conversation
        whole = [conversation(self._tokenizer, self._examples[place]) for place in shown.places_D]
        return [conversation for conversation in whole if len(conversation) <= self._model.config.context]

    def _asked(self, number: int) -> DrawnRollout:
        """Answers to the problems of a rollout. Where it may ask again, a problem whose answers all earned the same is left out
        for another one; what is left of such at the end counts for nothing."""
        config, drawn, asked = self._config, list[tuple[Verdicts, Tensor]](), list[DrawnProblem]()
        missing = config.prompts
        for draw in range(1 + config.resample):
            chosen = self.chooser.choose(number, draw, missing)
            drawn.append(self._draw(chosen, number, draw))
            asked += chosen
            missing = config.prompts - sum(int((~each.equal_rewards_G()).sum()) for each, _ in drawn)
            if not missing:
                break
        whole, advantages_GS = concat_verdicts([each for each, _ in drawn]), torch.cat([each for _, each in drawn])
        equal = whole.equal_rewards_G().tolist() if config.resample else [False] * len(asked)
        metrics = {**whole.metrics(), **self._calls(whole), **self._parts(whole), **self.chooser.metrics(asked)}
        if not config.resample:
            return DrawnRollout(whole, asked, advantages_GS, metrics, list(range(len(asked))))
        kept = sorted(range(len(equal)), key=lambda place: equal[place])[: config.prompts]
        counts_G1 = 1 - torch.tensor(equal, dtype=whole.mask_GS.dtype)[kept, None]
        metrics |= {"problems_asked": float(len(equal)), "left_out": sum(equal) / len(equal)}
        return DrawnRollout(whole, asked, advantages_GS, metrics, kept, counts_G1)

    def _draw(self, chosen: list[DrawnProblem], number: int, draw: int) -> tuple[Verdicts, Tensor]:
        """(answers to these problems, advantages_GS), of which the curriculum is told."""
        config = self._config
        examples = [self._examples[problem.index] for problem in chosen]
        hints = [self._hint(problem) for problem in chosen]

        def answers(samples: int, temperature: float) -> Verdicts:
            seed = config.seed * 1_000_003 + number + (draw << 44)
            return answer_problems(
                self._model, self._tokenizer, config.problems, config.environment, config.rewards, self.reward_context(number),
                examples, hints, samples, temperature, seed,
            )  # fmt: skip

        sampled, baseline_G = answers(config.samples, config.temperature), None
        if config.advantage.baseline == "greedy":
            greedy = answers(1, 0.0)
            baseline_G = greedy.rewards_GS[:, 0].where(greedy.mask_GS[:, 0] > 0, torch.nan)  # no verdict, no baseline
        elif self.critic:
            baseline_G = self.critic.predict_values(sampled.prompts[:: config.samples])
        advantages_GS = config.advantage(sampled.rewards_GS, sampled.mask_GS, baseline_G)
        known_GS = advantages_GS.where(sampled.mask_GS > 0, torch.nan)
        self.chooser.learn(chosen, Outcome(sampled.scores_GS, known_GS))
        return sampled, advantages_GS

    def _hint(self, problem: DrawnProblem) -> list[int]:
        """The first tokens of the demonstration, as many as its share says and as the context has room for."""
        if not problem.hint:
            return []
        example = self._examples[problem.index]
        demonstration = demonstration_conversation(self._tokenizer, example).completion[:-1]  # without what ends it
        room = self._model.config.context - self._config.answer_tokens - len(self._tokenizer.chat(example.prompt))
        return demonstration[: min(int(problem.hint * len(demonstration)), room)]

    def _calls(self, found: Verdicts) -> dict[str, float]:
        """The mean number of times that the environment answered; nothing where there is none."""
        if not self._config.environment.adds:
            return {}
        return {"calls": sum(each.calls for each in found.completions) / len(found.completions)}

    def _parts(self, found: Verdicts) -> dict[str, float]:
        """The mean of each part of the reward, the share of answers without one; nothing where it is the verifier's score."""
        rewards = self._config.rewards
        if rewards == [Correct()]:
            return {}
        parts = {
            f"reward_{name}": mean for name, mean in zip(part_names(rewards), mean_values(found.values), strict=True)
        }
        return {**parts, "invalid": 1 - found.mask_GS.mean().item()}

    def batch_at(self, step: int) -> Batch:
        """What an update is of: the answers that teach, and its demonstrations. M rows; none that does not count has logits."""
        config, model = self._config, self._model
        rollout, rows_M = self.rollouts.at(step)
        mask_MT = rollout.mask_BT[rows_M]
        if config.loss.together > 1:  # a mean over pairs, and not over the answers that are in none
            mask_MT = mask_MT * (rollout.advantages_BT[rows_M] != 0)
        weights_MT = config.loss.weights(mask_MT, config.max_new_tokens)
        rows = answers_of(rollout, rows_M, weights_MT, every=config.loss.learns_from_zero_advantages)
        share = rows["weights"].sum().item() or 1.0
        if rollout.shown_DN is not None and rollout.shown_weights_DT is not None:
            mine = slice(self.rollouts.turn(step), None, config.minibatches)
            weights_DT = config.minibatches * rollout.shown_weights_DT[mine]
            rows = with_demonstrations(rows, rollout.shown_DN[mine], weights_DT, self._tokenizer.pad_id)
        rows = in_parts(rows, parts_of_a_batch(config) * config.loss.together)
        counts_MT = prediction_mask(rows)
        here = dict(zip(rows, to_device(list(rows.values()), device()), strict=True))

        def loss(some: slice) -> tuple[Tensor, Metrics]:
            (places_K,) = to_device(
                [places(counts_MT[some])], device()
            )  # of the host's copy: a GPU's would be waited for
            part = {name: x[some] for name, x in here.items()}
            found, metrics = loss_of(
                config.loss, config.temperature, model, part["ids"], places_K, part["old"], part["advantages"],
                part["weights"], part.get("reference"), part.get("shown"),
            )  # fmt: skip
            return found, {name: value / share for name, value in metrics.items()}

        tokens, content = int(counts_MT.sum()), tuple(rows.values())
        metrics: Metrics = {**rollout.metrics, **(self.critic.learn(step, rollout, rows_M) if self.critic else {})}
        together = config.loss.together
        return Batch(len(rows["ids"]), counts_MT.shape[1], tokens, loss, metrics, content=content, together=together)
