"""Capped logits: by hand, and the same to training, sampler, scores and strategies; what a cap cannot go with."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.chat import stream_tokens
from lm.checkpoint import load_model, save_model
from lm.config import ConfigError
from lm.gguf.export import family_of
from lm.hugging_face.config import to_theirs
from lm.model import Decoder
from lm.sampler import generate
from lm.softcap import capped
from lm.strategies.speculative import Passes
from lm.training.data.conversations import token_logps
from tasks.distill.step import refuse_caps
from tasks.evaluate.bits_per_byte import document_bits
from tasks.evaluate.likelihood import _nats
from tasks.pretrain.objectives import MultiToken, NextToken
from tasks.quantize.widths.budget import divergence
from tasks.sft.losses import CrossEntropy
from tasks.sft.step import loss_of
from tests.lm.models import toy_model, toy_tokenizer

CAP = 0.5
IDS = torch.randint(0, 261, (3, 13), generator=torch.Generator().manual_seed(0))


def sharp(cap: float | None = CAP, **shape: object) -> Decoder:
    """A model whose logits are of about 3."""
    model = toy_model(seed=1, logit_softcap=cap, **shape)
    with torch.no_grad():
        model.head_weight.mul_(25.0)
    return model


def by_hand(model: Decoder, ids: Tensor, cap: float | None = CAP) -> Tensor:
    """logits_BTV."""
    logits = model.hidden(ids) @ model.head_weight.T
    return logits if cap is None else cap * torch.tanh(logits / cap)


def test_a_cap_by_hand() -> None:
    logits = torch.tensor([-100.0, 0.0, 1.0, 100.0])
    torch.testing.assert_close(capped(logits, 2.0), torch.tensor([-2.0, 0.0, 0.9242343, 2.0]))
    assert capped(logits, None) is logits and capped(logits.bfloat16(), 2.0).dtype == torch.bfloat16
    for wrong in (0.0, -1.0):
        with pytest.raises(ValueError, match="logit_softcap"):
            toy_model(logit_softcap=wrong)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_forward_and_losses_are_of_capped_logits(tied: bool) -> None:
    model = sharp(tied=tied)
    logits = by_hand(model, IDS[:, :-1])
    assert logits.abs().max() <= CAP and not torch.allclose(by_hand(model, IDS[:, :-1], None), logits, atol=0.5)
    torch.testing.assert_close(model(IDS[:, :-1]), logits)
    logp = logits.log_softmax(-1).gather(2, IDS[:, 1:, None])[..., 0]
    everywhere = torch.arange(logp.numel())
    torch.testing.assert_close(token_logps(model, IDS, everywhere), logp)
    torch.testing.assert_close(NextToken()(model, IDS, None, logp.numel())[0], -logp.mean())
    owners = torch.zeros(logp.numel(), dtype=torch.int64)
    loss, _ = loss_of(CrossEntropy(), model, IDS[:, :-1], IDS[:, 1:], everywhere, owners, 1, logp.numel())
    torch.testing.assert_close(loss, -logp.mean())
    heads = MultiToken(heads=1)
    heads.add_modules(model, 0)
    torch.testing.assert_close(heads(model, IDS, None, logp.numel())[1]["cross_entropy"], -logp.mean())


def test_gradients_are_those_of_the_formula() -> None:
    for make in (
        lambda m: NextToken()(m, IDS, None, 36)[0],
        lambda m: -token_logps(m, IDS, torch.arange(36)).sum() / 36,
    ):
        model, plain = sharp(), sharp()
        make(model).backward()
        F.cross_entropy(by_hand(plain, IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten()).backward()
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_the_sampler_draws_and_scores_with_the_cap() -> None:
    """At temperature 1 tokens of capped logits are drawn from nearly all of the vocabulary, and their probabilities are told."""
    model, prompts = sharp(), [[1, 2, 3], [4, 5]]
    for prompt, written in zip(prompts, generate(model, prompts, 6, 1.0, 5, 0, 2), strict=True):
        whole = torch.tensor([[*prompt, *written.ids]])
        logp = by_hand(model, whole[:, :-1]).log_softmax(-1).gather(2, whole[:, 1:, None])[0, len(prompt) - 1 :, 0]
        torch.testing.assert_close(torch.tensor(written.logps, dtype=torch.float32), logp, rtol=1e-4, atol=1e-4)
    streamed = list(stream_tokens(model, prompts[0], 6, 1.0, 5, 0))
    other = list(stream_tokens(sharp(None), prompts[0], 6, 1.0, 5, 0))
    assert streamed != other


@torch.no_grad()
def test_bits_of_text_are_of_capped_logits() -> None:
    model, ids = sharp(), IDS[0]
    (found,) = document_bits(model, [ids], lambda *_: None)
    logp = by_hand(model, ids[None, :-1]).log_softmax(-1).gather(2, ids[None, 1:, None])
    assert found == pytest.approx(float(-logp.sum()) / torch.log(torch.tensor(2.0)).item(), rel=1e-4)


def test_it_is_saved_and_a_model_without_one_is_described_as_before(tmp_path: Path) -> None:
    save_model(tmp_path, sharp(), toy_tokenizer())
    assert load_model(tmp_path)[0].config.logit_softcap == CAP
    assert "logit_softcap" not in toy_model().config.described()


def test_what_has_no_cap_says_so() -> None:
    for said in (to_theirs, family_of):
        with pytest.raises(ValueError, match="logit_softcap"):
            said(sharp().config)
    with pytest.raises(ConfigError, match="logit_softcap"):
        refuse_caps(sharp(None), sharp())
    refuse_caps(sharp(None), sharp(None).config)


@torch.no_grad()
def test_passes_over_several_tokens_and_scores_of_choices_are_of_capped_logits() -> None:
    """Two tokens that the cap has made equal are told as close, so that they are written one after the other."""
    model, lengths = sharp(), torch.zeros(3, dtype=torch.int64)
    wide, tight = (Passes(sharp(cap), 3, 13, 1, None).after(IDS, lengths) for cap in (30.0, 1e-9))
    assert torch.equal(wide[0], by_hand(model, IDS, None).argmax(-1)) and not wide[1].any()
    assert tight[1].all()
    x_KD, targets = model.hidden(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten()
    logp = by_hand(model, IDS[:, :-1]).log_softmax(-1).flatten(0, 1).gather(1, targets[:, None])[:, 0]
    assert _nats(model, x_KD, targets) == pytest.approx(logp.tolist(), rel=1e-4)


@torch.no_grad()
def test_divergences_of_rounding_are_of_capped_logits() -> None:
    model, batch = sharp(), [(IDS, torch.ones_like(IDS, dtype=torch.bool))]
    before = [model.hidden(IDS).flatten(0, 1)]
    old = by_hand(model, IDS).log_softmax(-1).flatten(0, 1)
    model.blocks[0].ffn.up.weight.mul_(1.5)
    new = by_hand(model, IDS).log_softmax(-1).flatten(0, 1)
    wanted = F.kl_div(new, old, reduction="sum", log_target=True) / len(old)
    assert divergence(model, before, batch) == pytest.approx(float(wanted), rel=1e-3)
