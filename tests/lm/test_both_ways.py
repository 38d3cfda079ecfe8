"""A model that is not causal: what its tokens see, how it is saved, and who refuses it in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lm.checkpoint import load_model, save_model
from lm.config import ConfigError
from lm.gguf.export import family_of
from lm.growing.fitting import check_unchanged
from lm.hugging_face.config import to_theirs
from lm.model import ModelConfig
from lm.model_folder import read_model
from lm.quantized.inputs import Rounding
from lm.sampler import generate
from lm.shape import MASKED
from lm.training.flops import flops_per_token
from tests.lm.made_parts import CLOSE, MIXERS, TOKENS, decided, ids_of
from tests.lm.models import plain_and_compiled, toy_model, toy_tokenizer

PARTS: list[dict[str, Any]] = [
    {},
    {"kv_heads": 1, "qk_norm": False},
    {"feed_forward": {"name": "experts"}, "embeddings": [{"name": "x0"}, {"name": "value"}, {"name": "smear"}]},
]
PART = pytest.mark.parametrize("parts", PARTS, ids=["default", "one_kv_head", "experts_and_tables"])


@PART
@torch.no_grad()
def test_a_token_sees_those_behind_it_and_before_it(parts: dict[str, Any]) -> None:
    model, ids = decided({**parts, "causal": False}), ids_of(1, TOKENS)
    for place in (0, TOKENS // 2, TOKENS - 1):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % 261
        far = TOKENS - 1 if place == 0 else 0
        assert not torch.allclose(model(changed)[0, far], model(ids)[0, far], **CLOSE)
    causal = decided(parts)
    causal.load_state_dict(model.state_dict())
    assert not torch.allclose(causal(ids)[0, 0], model(ids)[0, 0], **CLOSE)


@PART
@settings(deadline=None, max_examples=15)
@given(edges=st.sets(st.integers(1, 2 * TOKENS - 1), max_size=5))
@torch.no_grad()
def test_no_document_sees_another(parts: dict[str, Any], edges: set[int]) -> None:
    model, ids = decided({**parts, "causal": False}), ids_of(2, TOKENS)
    bounds = sorted({0, TOKENS, 2 * TOKENS} | edges)
    packed = model(ids, bounds=torch.tensor(bounds)).flatten(0, 1)
    for start, end in zip(bounds, bounds[1:], strict=False):
        torch.testing.assert_close(packed[start:end], model(ids.flatten()[None, start:end])[0], **CLOSE)


def test_compiled_blocks_are_one_graph_with_the_same_gradients() -> None:
    model, bounds = toy_model(causal=False), torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1


def test_it_says_so_on_disk_and_a_causal_one_says_what_it_always_said(tmp_path: Path) -> None:
    shape = toy_model().config
    assert "causal" not in shape.described() and shape.rows(261) == shape.tokens == 261
    model = toy_model(causal=False, vocab_size=262)
    assert model.config.described()["causal"] is False
    assert (model.config.rows(261), model.config.tokens, model.config.mask_id) == (262, 261, 261)
    save_model(tmp_path, model, toy_tokenizer())
    for read in (load_model, read_model):
        again, _ = read(tmp_path, masked=True)
        assert again.config == model.config and torch.equal(again(ids_of(1, 9)), model(ids_of(1, 9)))
        with pytest.raises(ConfigError) as refused:
            read(tmp_path)
        assert str(refused.value) == f"{tmp_path}: {MASKED}"


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: mixer.__name__)
def test_every_other_mixer_is_refused_in_one_line(mixer: Any) -> None:
    name = mixer.model_fields["name"].default
    if name == "attention":
        assert not ModelConfig(causal=False, mixer=mixer()).causal
        return
    with pytest.raises(ValidationError, match=f"attention in all layers, and layer 0 has {name}"):
        ModelConfig(causal=False, mixer=mixer())
    with pytest.raises(ValidationError, match=f"attention in all layers, and layer 1 has {name}"):
        ModelConfig.model_validate({"causal": False, "pattern": [{}, {"mixer": {"name": name}}]})


def test_what_goes_token_by_token_and_formats_of_others_refuse_it() -> None:
    model = toy_model(causal=False)
    with pytest.raises(ConfigError, match="not causal"):
        generate(model, [[1, 2]], 4, 0.0, 0, 0)
    model.cache_rounding = Rounding(8, 0)
    with pytest.raises(ConfigError, match="not causal"):
        model.new_cache(1, 8)
    for refused in (to_theirs, family_of):
        with pytest.raises(ValueError, match="no Hugging Face family has a model of masked diffusion"):
            refused(model.config)
    with pytest.raises(ConfigError, match="pretrain.model.causal: False"):
        check_unchanged(toy_model().config, model.config, "pretrain.model")


def test_attention_counts_twice_and_so_does_a_second_pass() -> None:
    causal, model = toy_model(), toy_model(causal=False)
    assert flops_per_token(model, 40) - flops_per_token(causal, 40) == 2 * 6 * 32 * 40
    once, model.passes = flops_per_token(model, 40), 2
    assert flops_per_token(model, 40) == 2 * once
