"""What every prompt in front of a text must be, whichever there are: a new file in lm/prompts is held to it by itself."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from lm import prompts
from lm.averages import Ema, Last
from lm.checkpoint import load_model, save_model
from lm.config import Config, ConfigError, methods_of
from lm.gguf.export import save_gguf
from lm.hugging_face.export import save_hf
from lm.linears import LoRA
from lm.linears.base import roles_of
from lm.model import Cache, Decoder
from lm.model_folder import read_bare, read_model
from lm.optimizers import AdamW
from lm.prompts import Ept, PromptTuning, Without
from lm.prompts.base import PromptTensors, SoftPrompt, put_prompt
from lm.prompts.ept import fused, in_spaces
from lm.sampler import generate
from lm.schedules import Cosine
from lm.training.batch import Batch, Metrics, backward
from lm.training.data.conversations import token_logps
from lm.training.flops import flops_per_token
from lm.training.loop import train
from lm.training.prompted import Prompted
from tasks.core.log import Stopped
from tests.lm.made_parts import CLOSE, check_read_together, decided, ids_of, shapes
from tests.lm.models import plain_and_compiled, toy_model, toy_tokenizer
from tests.lm.test_training import Recorder
from tests.neighbours import neighbours

METHODS = [method for method in methods_of(prompts) if method is not Without]
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
# settings in which a parameter binds
SMALL = {"length": 3}
IDS = torch.randint(0, 261, (4, 13), generator=torch.Generator().manual_seed(0))
# toys of any parts; embeddings of ids are refused beside a prompt
without_ids = shapes().map(lambda shape: {name: part for name, part in shape.items() if name != "embeddings"})


def prompted(method: Config, moved: bool = True, **shape: Any) -> Decoder:
    """A toy with a prompt, whose numbers are away from where they begin."""
    model = toy_model(seed=1, **shape)
    put_prompt(model, method)
    return disturbed(model) if moved else model


def disturbed(model: Decoder) -> Decoder:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.prompt.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def batch_of(model: Decoder) -> Batch:
    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        everywhere = torch.arange((rows.stop - rows.start) * 12)
        return -token_logps(model, IDS[rows], everywhere).sum() / 48, {}

    return Batch(4, 12, 48, loss)


def fit(recipe: Prompted, scratch: Path, after: int | None = None, **shape: Any) -> Decoder:
    model = toy_model(seed=1, **shape)
    put_prompt(model, recipe.soft_prompt)
    train(model, recipe, 6, lambda step: batch_of(model), Recorder(scratch, after))
    return model


def recipe_of(method: Config, **given: Any) -> Prompted:
    return Prompted(
        **{"optimizer": AdamW(lr=0.05), "schedule": Cosine(), "average": Ema(), "soft_prompt": method, **given}
    )


def carrying(shape: dict[str, Any], prompt: SoftPrompt) -> Decoder:
    model = decided(shape)
    model.set_prompt(prompt)
    return model


@st.composite
def carried(draw: st.DrawFn) -> SoftPrompt:
    """Of some vectors, and offsets or none, of the toys' width."""
    places, generator = draw(st.integers(0, 9)), torch.Generator().manual_seed(draw(st.integers(0, 9)))
    offsets = torch.randn(places, 32, generator=generator) if places else None
    return SoftPrompt(torch.randn(draw(st.integers(1, 5)), 32, generator=generator), offsets)


PROPERTY = settings(deadline=None, max_examples=20)


@PROPERTY
@given(without_ids, carried(), st.lists(st.integers(1, 6), min_size=1, max_size=5))
@torch.no_grad()
def test_step_by_step_gives_what_all_at_once_gives(
    shape: dict[str, Any], prompt: SoftPrompt, pieces: list[int]
) -> None:
    model, ids = carrying(shape, prompt), ids_of(2, sum(pieces))
    cache, done, found = model.new_cache(2, sum(pieces)), 0, []
    for piece in pieces:
        found.append(model(ids[:, done : done + piece], cache))
        done += piece
    torch.testing.assert_close(torch.cat(found, 1), model(ids), **CLOSE)


@PROPERTY
@given(
    without_ids, carried(), st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 4), st.integers(1, 5)
)
@torch.no_grad()
def test_padding_is_not_kept_and_rows_begin_as_others(
    shape: dict[str, Any], prompt: SoftPrompt, counts: list[int], padding: int, following: int
) -> None:
    check_read_together(carrying(shape, prompt), counts, padding, following)


@settings(deadline=None, max_examples=8)
@given(without_ids, carried(), st.lists(st.integers(1, 20), min_size=1, max_size=5), st.sampled_from([1, 3, 8]))
@torch.no_grad()
def test_the_sampler_writes_what_whole_passes_would(
    shape: dict[str, Any], prompt: SoftPrompt, lengths: list[int], rows: int
) -> None:
    model = carrying(shape, prompt)
    texts = [ids_of(1, length, seed=length)[0].tolist() for length in lengths]
    for text, answer in zip(texts, generate(model, texts, 6, 0.0, 5, 0, rows), strict=True):
        whole = [*text, *answer.ids]
        logits = model(torch.tensor([whole]))[0, len(text) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        torch.testing.assert_close(chosen, logits.max(1).values, **CLOSE)


@torch.no_grad()
def test_vectors_that_are_embeddings_are_the_tokens_themselves() -> None:
    """By the model without a prompt, which reads the tokens that the vectors begin as."""
    model, plain = prompted(PromptTuning(length=5, seed=3), moved=False), toy_model(seed=1)
    tokens_P = torch.from_numpy(np.random.Generator(np.random.Philox(key=[3, 0])).permutation(261)[:5])
    assert torch.equal(model.prompt.vectors, plain.embedding.weight[tokens_P])
    both = torch.cat((tokens_P.expand(4, -1), IDS), 1)
    torch.testing.assert_close(model(IDS), plain(both)[:, 5:], **CLOSE)
    assert not torch.allclose(model(IDS), plain(IDS), **CLOSE)


@torch.no_grad()
def test_a_text_that_fills_the_context_goes_beyond_it_by_the_prompt() -> None:
    """A larger model of the same weights is held to it: positions go on, and none is used twice."""
    model, larger = prompted(PromptTuning(length=5, start="uniform")), toy_model(seed=1, context=64)
    larger.set_prompt(model.prompt)
    ids = ids_of(2, 48)
    torch.testing.assert_close(model(ids), larger(ids), **CLOSE)
    with pytest.raises(ValueError, match="49 tokens is longer than the model's context of 48"):
        model(ids_of(1, 49))


@EVERY
def test_nothing_of_the_model_moves_and_what_is_left_is_the_same(method: type[Config], tmp_path: Path) -> None:
    start, model = toy_model(seed=1).state_dict(), fit(recipe_of(method()), tmp_path)
    end = model.state_dict()
    assert all(torch.equal(end[name], weight) for name, weight in start.items())
    assert type(model.prompt) is SoftPrompt and model.prompt.vectors.shape == (method().length, 32)
    assert all(weight.requires_grad for weight in model.parameters())
    begun = prompted(method(), moved=False)
    with torch.no_grad():
        assert batch_of(model).loss(slice(0, 4))[0] < batch_of(begun).loss(slice(0, 4))[0]


@EVERY
@torch.no_grad()
def test_what_made_it_is_computed_once_and_read_from_its_folder(method: type[Config], tmp_path: Path) -> None:
    model = prompted(method())
    logits = model(IDS)
    model.merge()
    torch.testing.assert_close(model(IDS), logits, **CLOSE)
    save_model(tmp_path, model, toy_tokenizer())
    again, _ = read_model(tmp_path)
    assert torch.equal(again(IDS), model(IDS)) and again.num_parameters() == model.num_parameters()
    with pytest.raises(ValueError, match=r"config\.json: the model carries a soft prompt, which would be lost"):
        read_bare(tmp_path)


@EVERY
def test_a_run_that_was_stopped_ends_in_the_same_bytes(method: type[Config], tmp_path: Path) -> None:
    whole = fit(recipe_of(method()), tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(recipe_of(method()), tmp_path / "cut", 4)
    resumed = fit(recipe_of(method()), tmp_path / "cut").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.state_dict().items())


@EVERY
def test_shards_train_as_one_batch(method: type[Config], tmp_path: Path) -> None:
    one, two = (fit(recipe_of(method(), shards=shards), tmp_path / str(shards)) for shards in (1, 2))
    for name, weight in one.state_dict().items():
        assert torch.nn.functional.cosine_similarity(two.state_dict()[name].flatten(), weight.flatten(), dim=0) > 0.999


@EVERY
def test_every_number_has_a_role_and_a_gradient_if_it_is_trained(method: type[Config]) -> None:
    model = prompted(method(), tied=False)
    assert roles_of(model).keys() == dict(model.named_parameters()).keys()
    backward(batch_of(model), 48)
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.abs().max())) == weight.requires_grad, name
        assert (
            weight.requires_grad == name.startswith("prompt.")
            and (roles_of(model)[name] == "vector") >= weight.requires_grad
        )
    plain = {name: weight.grad for name, weight in model.prompt.named_parameters()}
    model.zero_grad()
    model.recompute = True
    backward(batch_of(model), 48)
    assert all(torch.equal(weight.grad, plain[name]) for name, weight in model.prompt.named_parameters())


@EVERY
def test_compiled_blocks_have_the_same_gradients(method: type[Config]) -> None:
    model = prompted(method())
    assert plain_and_compiled(model, lambda: model(IDS).square().sum().backward()) == 1


@EVERY
def test_every_parameter_counts(method: type[Config], tmp_path: Path) -> None:
    folders = count()

    def made(one: Config) -> tuple[bytes, bool]:
        model = fit(recipe_of(one, average=Last()), tmp_path / str(next(folders)), layers=1)
        return b"".join(w.numpy().tobytes() for w in model.state_dict().values()), model.artifact is None

    base = method()
    known = made(base)
    for name in method.model_fields.keys() - {"name"}:
        for tries in neighbours(base, name):
            assert any(made(other) != known for other in tries), name


def test_methods_differ(tmp_path: Path) -> None:
    given_ = [Without(), PromptTuning(length=8), Ept(length=8)]
    made = [fit(recipe_of(one), tmp_path / one.name).state_dict() for one in given_]
    assert not torch.equal(made[1]["prompt.vectors"], made[2]["prompt.vectors"])
    assert "prompt.vectors" not in made[0] and "prompt.offsets" in made[2]


def test_ept_begins_as_prompt_tuning_does() -> None:
    short = prompted(Ept(length=4), moved=False).prompt()
    assert torch.equal(short.vectors_PD, prompted(PromptTuning(length=4), moved=False).prompt().vectors_PD)
    assert not short.offsets_SD.any()


def test_the_fusion_by_hand() -> None:
    """Width 4, so that scores are halved: a vector (2, 0, 0, 0) looks at offsets (1, 0, 0, 0) and (0, 2, 0, 0) by softmax(1, 0)."""
    vectors_PD, offsets_SD = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]])
    share = 1 / (1 + np.exp(-1.0))
    expected = torch.tensor([[2 + share, 2 * (1 - share), 0, 0]], dtype=torch.float32)
    torch.testing.assert_close(fused(vectors_PD, offsets_SD), expected)


def test_the_spaces_by_hand() -> None:
    """Two spaces of one number: the gate weighs them by softmax(ln 3, 0), 3/4 and 1/4."""
    x_PD = torch.tensor([[1.0, 2.0]])
    gate_KD = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float32)
    down_KHD, up_KDH = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[[4.0], [0.0]], [[0.0], [8.0]]])
    expected = torch.tensor([[1 + 3 * np.tanh(1.0), 2 + 2 * np.tanh(2.0)]], dtype=torch.float32)
    torch.testing.assert_close(in_spaces(x_PD, gate_KD, down_KHD, up_KDH), expected)


@torch.no_grad()
def test_the_first_tokens_of_a_text_are_moved_and_no_others() -> None:
    """By hand: the embeddings of the first two tokens, each with its own offset."""
    model, seen = toy_model(seed=1), []
    vectors, offsets = torch.ones(1, 32), torch.stack((torch.full((32,), 2.0), torch.full((32,), 3.0)))
    model.set_prompt(SoftPrompt(vectors, offsets))
    model.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    model.hidden(IDS[:1, :4])
    rows_TD = model.embedding.weight[IDS[0, :4]]
    expected = torch.cat((vectors, rows_TD[:1] + 2, rows_TD[1:2] + 3, rows_TD[2:]))
    torch.testing.assert_close(seen[0][0], expected)


def test_a_prompt_costs_its_share_of_each_sequence() -> None:
    plain, model = toy_model(seed=1).requires_grad_(False), prompted(PromptTuning(length=8))
    blocks = flops_per_token(plain, 24) - 4.0 * plain.head_weight.numel()
    assert flops_per_token(model, 16) == pytest.approx(4.0 * plain.head_weight.numel() + blocks * 24 / 16)


def test_noise_is_on_the_text_alone() -> None:
    model = prompted(PromptTuning(length=3))
    with torch.no_grad():
        assert torch.equal(model.hidden(IDS, noise_BTD=torch.zeros(4, 13, 32)), model.hidden(IDS))
        assert not torch.equal(model.hidden(IDS, noise_BTD=torch.ones(4, 13, 32)), model.hidden(IDS))


def test_what_peft_reads_gives_the_same_logits(tmp_path: Path) -> None:
    save_hf(toy_model(seed=1), toy_tokenizer(), tmp_path / "base", torch.float32)
    model = fit(recipe_of(PromptTuning(length=4, keep=True)), tmp_path / "run")
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", model, toy_tokenizer())
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "ours")
    with torch.no_grad():
        logits = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, 4:]
        torch.testing.assert_close(logits, model(IDS), **CLOSE)


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    model = prompted(PromptTuning(length=2))
    for write in (
        lambda: save_hf(model, toy_tokenizer(), tmp_path / "hf", torch.float32),
        lambda: save_gguf(model, toy_tokenizer(), tmp_path / "model.gguf", "f16"),
    ):
        with pytest.raises(
            ValueError, match="carries a soft prompt, which no format of models has: export the model that it was"
        ):
            write()
    with pytest.raises(ConfigError, match="soft_prompt: the model has one of 2 vectors already"):
        put_prompt(model, PromptTuning())
    for one in ("smear", "value"):
        with pytest.raises(ConfigError, match="soft_prompt: the model has embeddings of ids"):
            put_prompt(toy_model(embeddings=[{"name": one}]), PromptTuning())
    with pytest.raises(ValueError, match="reads one text a row, and these rows have several"):
        model.hidden(IDS, bounds=torch.tensor([0, 7, 52]))
    with pytest.raises(ValueError, match="linear lora trains its matrices: set either"):
        recipe_of(PromptTuning(), linear=LoRA())
    with pytest.raises(ValueError, match="must have the whole numbers length and offsets"):
        SoftPrompt.of({"length": 2}, 32)
    assert PromptTensors(torch.zeros(1, 1)).offsets_SD is None


def test_a_folder_with_another_prompt_than_it_says_is_one_line(tmp_path: Path) -> None:
    save_model(tmp_path, prompted(PromptTuning(length=2)), toy_tokenizer())
    text = (tmp_path / "config.json").read_text()
    for there, put, said in (
        ('"length": 2', '"length": 3', "does not fit config.json"),
        ('"length"', '"size"', "whole numbers"),
    ):
        assert there in text
        (tmp_path / "config.json").write_text(text.replace(there, put))
        with pytest.raises(ValueError, match=said):
            load_model(tmp_path)


def test_a_cache_has_room_for_the_prompt() -> None:
    model = prompted(PromptTuning(length=5))
    cache = model.new_cache(1, 48)
    assert cache.capacity == 48 and cache.states[0].keys_BKCE.shape[2] == 53
    with pytest.raises(ValueError, match="49 tokens is longer"):
        Cache(model.config, 1, 49, prompt=5)
