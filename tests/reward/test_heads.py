"""Heads that score: what a score depends on, and what a folder with them is."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.checkpoint import load_model, save_model
from lm.heads import (
    FILE,
    ScalarHeads,
    heads_of,
    lower_bound,
    put_heads,
    read_scorer,
    save_scorer,
    scores_along,
    scores_of,
    take_heads,
)
from lm.linears import FrozenLower, LoRA
from lm.model import Decoder
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import digest

TOKENIZER = toy_tokenizer()
SOME = [[5 + (7 * n + k) % 200 for k in range(1 + 5 * n % 17)] for n in range(40)]


def scorer(members: int = 3, seed: int = 0, tied: bool = False) -> Decoder:
    model = toy_model(seed=4, tied=tied)
    put_heads(model, ScalarHeads(model.config.width, members, seed))
    return model.eval()


def test_a_score_is_that_of_the_last_token_of_its_own_conversation() -> None:
    model = scorer().train()
    found_NM = scores_of(model, SOME, TOKENIZER.pad_id)
    heads = heads_of(model)
    for ids, score_M in zip(SOME, found_NM, strict=True):
        with torch.no_grad():
            expected_M = heads.weight @ model.hidden(torch.tensor([ids]))[0, -1] + heads.bias
        torch.testing.assert_close(score_M, expected_M, rtol=1e-4, atol=1e-5)
    assert model.training and not found_NM.requires_grad


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    places=st.lists(st.integers(0, len(SOME) - 1), min_size=1, max_size=24),
    pad_id=st.sampled_from([TOKENIZER.pad_id, 9]),
)
def test_neither_padding_nor_neighbours_change_a_bit_of_it(places: list[int], pad_id: int) -> None:
    model = scorer()
    whole_NM = scores_of(model, SOME, TOKENIZER.pad_id)
    assert torch.equal(scores_of(model, [SOME[place] for place in places], pad_id), whole_NM[places])


def test_one_reading_scores_every_beginning_of_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each beginning were read by itself, to rounding; of as many tokens as whole conversations have, and no more."""
    from lm import heads

    model, read, real = scorer(), list[int](), heads.hidden_at

    def counted(model: Decoder, ids_RL: torch.Tensor, places_K: torch.Tensor) -> torch.Tensor:
        read.append(ids_RL.numel())
        return real(model, ids_RL, places_K)

    monkeypatch.setattr(heads, "hidden_at", counted)
    ends = [sorted({len(ids) // 3, len(ids) // 2, len(ids) - 1}) for ids in SOME]
    found = scores_along(model, SOME, ends, TOKENIZER.pad_id)
    along, read[:] = sum(read), []
    whole_NM = scores_of(model, SOME, TOKENIZER.pad_id)
    assert along == sum(read)
    beginnings = [ids[: end + 1] for ids, each in zip(SOME, ends, strict=True) for end in each]
    by_themselves = scores_of(model, beginnings, TOKENIZER.pad_id)
    torch.testing.assert_close(torch.cat(found), by_themselves, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.stack([each[-1] for each in found]), whole_NM)
    some = [3, 30, 17]
    alone = scores_along(model, [SOME[place] for place in some], [ends[place] for place in some], TOKENIZER.pad_id)
    assert all(torch.equal(one, found[place]) for one, place in zip(alone, some, strict=True))


def test_heads_differ_and_the_seed_decides_them() -> None:
    weights = ScalarHeads(32, 4, 0).weight
    assert not any(torch.equal(weights[one], weights[other]) for one in range(4) for other in range(one))
    assert torch.equal(weights, ScalarHeads(32, 4, 0).weight) and not torch.equal(weights, ScalarHeads(32, 4, 1).weight)
    found_NM = scores_of(scorer(4), SOME, TOKENIZER.pad_id)
    assert (found_NM.std(1) > 0.05).all()


def test_scores_are_fp32_under_autocast() -> None:
    model = scorer()
    with torch.autocast("cpu", torch.bfloat16):
        assert heads_of(model)(torch.ones(1, 32, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_lower_bound_by_hand() -> None:
    scores_NM = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert lower_bound(scores_NM, 0.5).tolist() == [1.5, 2.0]
    assert lower_bound(scores_NM[:, :1], 3.0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_is_a_models_with_heads_beside_it(tied: bool, tmp_path: Path) -> None:
    model = scorer(tied=tied)
    found_NM = scores_of(model, SOME, TOKENIZER.pad_id)
    save_scorer(tmp_path, model, TOKENIZER)
    again, tokenizer = read_scorer(tmp_path)
    assert tokenizer == TOKENIZER and torch.equal(scores_of(again, SOME, TOKENIZER.pad_id), found_NM)
    plain, _ = load_model(tmp_path)
    assert torch.equal(plain.embedding.weight, again.embedding.weight)
    before = digest(tmp_path)
    save_scorer(tmp_path, again, tokenizer)
    assert digest(tmp_path) == before


def test_the_output_head_is_not_trained_meanwhile_and_is_afterwards() -> None:
    model = scorer()
    assert not model.head.weight.requires_grad and heads_of(model).weight.requires_grad
    take_heads(model)
    assert all(weight.requires_grad for weight in model.parameters()) and "heads.weight" not in model.state_dict()


@pytest.mark.parametrize("linear", [LoRA(rank=2), FrozenLower()], ids=["lora", "frozen_lower"])
def test_heads_are_trained_however_matrices_are_held(linear: LoRA | FrozenLower) -> None:
    model = scorer()
    model.reparametrize(linear)
    assert heads_of(model).weight.requires_grad and not model.blocks[0].attention.query.weight.requires_grad


def test_a_folder_that_does_not_do_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, toy_model(), TOKENIZER)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{FILE}: no such file: the model in {tmp_path} has no heads"):
        read_scorer(tmp_path)
    (tmp_path / FILE).write_bytes(b"torn")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{FILE}: cannot be read: "):
        read_scorer(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    wide = toy_model(width=40)
    put_heads(wide, ScalarHeads(40, 2, 0))
    save_scorer(other, wide, TOKENIZER)
    (tmp_path / FILE).write_bytes((other / FILE).read_bytes())
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{FILE}: heads of width 40, and the model beside them has 32"):
        read_scorer(tmp_path)
