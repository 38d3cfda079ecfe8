"""Losses and gradients of preferences and policies as TRL computes them on fixed numbers, for tests to hold ours to.

    .venv-peers/bin/python tests/rl/trl_figures.py     # an environment of its own with trl; writes trl_figures.json beside it

Each figure comes from a method of TRL's trainer itself, called on a trainer that has what the method reads and no more: a
model that gives fixed log-probabilities, one process, no logging. Letters: R answers of up to T tokens.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

FIGURES = Path(__file__).with_suffix(".json")
LONGEST = 8  # tokens that an answer might have had, as Dr. GRPO counts them
LENGTHS = [3, 1, 6, 4, 2, 5, 4, 6]


def inputs() -> dict[str, Tensor]:
    """logp_RT, old_RT and reference_RT (nats), 0 outside of mask_RT; advantages_R; crossed_R and reference_crossed_R, of whole
    answers behind other prompts; float64. Of preferences the first half is chosen, and rows r and r + R / 2 are a pair."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    R, T = len(LENGTHS), max(LENGTHS)
    mask_RT = (torch.arange(T) < torch.tensor(LENGTHS)[:, None]).double()
    logp_RT = (-2 * drawn(R, T) - 0.05) * mask_RT
    return {
        "mask": mask_RT,
        "logp": logp_RT,
        "old": (logp_RT + 0.8 * (drawn(R, T) - 0.5)) * mask_RT,
        "reference": (logp_RT + 0.8 * (drawn(R, T) - 0.5)) * mask_RT,
        "advantages": 4 * (drawn(R) - 0.5),
        "crossed": -9 * drawn(R),
        "reference_crossed": -12 * drawn(R),
    }


def same(x: Any, **more: Any) -> Any:
    """What one process gathers or reduces."""
    return x


class Given:
    """A model that gives the same log-probabilities whatever it reads; those of crossed answers where it reads them."""

    training = True

    def __init__(self, logp_RT: Tensor, crossed_R: Tensor) -> None:
        self._logp_RT, self._crossed_R = logp_RT, crossed_R

    def __call__(self, **read: Any) -> SimpleNamespace:
        crossed = "KL" in str(read.get("attention_mask"))
        logp = self._logp_RT if not crossed else torch.nn.functional.pad(self._crossed_R[:, None], (0, 5))
        zeros = torch.zeros_like(logp)
        return SimpleNamespace(log_probs=logp, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def bare(kind: type, given: Given, **read: Any) -> Any:
    """A trainer that has these attributes alone."""
    trainer = object.__new__(kind)
    one = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        gather=same,
        gather_for_metrics=same,
        reduce=same,
        sync_gradients=True,
    )
    every = {
        "model": given, "accelerator": one, "aux_loss_enabled": False, "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0, "_tp_size": 1, "label_smoothing": 0.0,
    }  # fmt: skip
    for name, value in {**every, **read}.items():
        object.__setattr__(trainer, name, value)
    return trainer


def conversations(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ids and masks of as many tokens, the first of which is the prompt."""
    mask_RN = torch.nn.functional.pad(x["mask"], (1, 0)).long()
    ids_RN = torch.ones_like(mask_RN)
    return {"input_ids": ids_RN, "attention_mask": torch.ones_like(ids_RN), "completion_mask": mask_RN}


def preferences(x: dict[str, Tensor]) -> dict[str, Any]:
    """By name, each with its parameters as they are called here: the mean loss of the pairs, and its gradient by logp_RT."""
    from trl import DPOTrainer, KTOTrainer
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    sums = x["reference"].sum(1)
    chosen, rejected = sums.chunk(2)
    half, tokens = len(LENGTHS) // 2, x["mask"].sum(1)
    found = {}

    def add(name: str, parameters: dict[str, float], loss: Any, **more: float) -> None:
        logp = x["logp"].clone().requires_grad_()
        value = loss(logp)
        value.backward()
        found[name] = {
            "method": parameters,
            "loss": value.item(),
            "gradient": (logp.grad * x["mask"]).tolist(),
            **more,
        }

    for name, kind, beta in (("dpo", "sigmoid", 0.3), ("ipo", "ipo", 0.7)):

        def dpo(logp: Tensor, kind: str = kind, beta: float = beta) -> Tensor:
            trainer = bare(
                DPOTrainer, Given(logp, x["crossed"]), ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
                loss_types=[kind], loss_weights=[1.0], beta=beta, use_weighting=False,
            )  # fmt: skip
            batch = {**conversations(x), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
            return trainer._compute_loss(trainer.model, batch, False)

        add(name, {"beta": beta} if name == "dpo" else {"tau": beta, "per_token": True}, dpo)

    kto = bare(KTOTrainer, Given(x["logp"], x["crossed"]), beta=0.2, desirable_weight=1.5, undesirable_weight=0.5,
               calculate_KL=True, precompute_ref_logps=True, loss_type="kto")  # fmt: skip

    def kto_loss(logp: Tensor) -> Tensor:
        kto.model._logp_RT = logp
        ids = conversations(x)
        label = torch.arange(len(LENGTHS)) < half
        crossed = {
            "KL_input_ids": ids["input_ids"],
            "KL_attention_mask": "KL",
            "KL_completion_mask": ids["completion_mask"],
        }
        reference = {"ref_logps": sums, "ref_KL_logps": x["reference_crossed"]}
        return kto._compute_loss(kto.model, {**ids, **crossed, **reference, "label": label}, False)

    add("kto", {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.5}, kto_loss)
    found["kto"]["point"] = kto._metrics["train"]["kl"][0]

    def means(logp: Tensor) -> tuple[Tensor, Tensor]:
        return (logp.sum(1) / tokens).chunk(2)

    simpo = bare(CPOTrainer, Given(x["logp"], x["crossed"]), alpha=0.0, loss_type="simpo", simpo_gamma=0.6, beta=2.0)
    add("simpo", {"beta": 2.0, "gamma": 0.6}, lambda logp: simpo.cpo_loss(*means(logp))[0].mean())

    orpo = bare(ORPOTrainer, Given(x["logp"], x["crossed"]), beta=0.25)

    def orpo_loss(logp: Tensor) -> Tensor:
        """TRL's cross-entropy is over all tokens of the chosen rows, prompts included; it is given the mean over answers of theirs
        a token, as the paper has it, and adds the rest."""
        sides, none = means(logp), torch.zeros(())
        orpo.concatenated_forward = lambda model, batch: (*sides, none, none, -sides[0].mean())
        return orpo.get_batch_loss_metrics(orpo.model, {})[0]

    add("orpo", {"weight": 0.25}, orpo_loss)
    return found


POLICIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (parameters of TRL, the loss as it is called here)
    "grpo": ({"loss_type": "grpo"}, {"name": "policy_gradient", "over": "answers"}),
    "grpo_with_kl": ({"loss_type": "grpo", "beta": 0.4}, {"name": "policy_gradient", "over": "answers", "kl": 0.4}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"name": "policy_gradient", "over": "length"}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"name": "policy_gradient", "over": "tokens", "clip_high": 0.28}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.04},
        {"name": "gspo", "clip_low": 0.05, "clip_high": 0.04},
    ),
    # the bound of a ratio itself there, what it is above 1 here
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.1}, {"name": "cispo", "clip_high": 0.1}),
}  # fmt: skip


def policies(x: dict[str, Tensor]) -> dict[str, Any]:
    """By name, each as it is called here: the loss of all answers, and its gradient by logp_RT."""
    from trl import GRPOTrainer

    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    every = {
        "importance_sampling_level": "token", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "args": args,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False, "_entropy_bonus_enabled": False,
        "current_gradient_accumulation_steps": 1, "max_completion_length": LONGEST,
    }  # fmt: skip
    found = {}
    for name, (theirs, ours) in POLICIES.items():
        logp = x["logp"].clone().requires_grad_()
        trainer = bare(GRPOTrainer, Given(logp, x["crossed"]), **{**every, **theirs})
        trainer._get_per_token_logps_and_entropies = lambda *read, logp=logp, **more: (
            logp,
            torch.zeros_like(logp),
            None,
        )
        ids = torch.ones_like(x["mask"]).long()
        batch = {
            "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": x["mask"],
            "advantages": x["advantages"], "old_per_token_logps": x["old"], "ref_per_token_logps": x["reference"],
            "num_items_in_batch": x["mask"].sum(),
        }  # fmt: skip
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        found[name] = {"method": ours, "loss": loss.item(), "gradient": (logp.grad * x["mask"]).tolist()}
    return found


def read() -> dict[str, Any]:
    """The figures that were written."""
    return json.loads(FIGURES.read_text())


def main() -> None:
    """Write them."""
    import trl

    x = inputs()
    found = {
        "trl": trl.__version__,
        "longest": LONGEST,
        "inputs": {name: tensor.tolist() for name, tensor in x.items()},
        "preferences": preferences(x),
        "policies": policies(x),
    }
    FIGURES.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
