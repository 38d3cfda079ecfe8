"""Embeddings by hand, what they leave as it was, and what is refused. tests/lm/test_parts.py holds all of them to what every part
must do."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.config import ConfigError
from lm.cutting.cut import with_units
from lm.embeddings import Bigram, Smear
from lm.embeddings.base import Tokens
from lm.embeddings.bigram import row_of
from lm.gguf.export import family_of
from lm.hugging_face.config import to_theirs
from lm.linears import FrozenLower
from lm.linears.base import roles_of
from lm.model import Cache, ModelConfig
from lm.training.flops import flops_per_token
from tasks.quantize.stage import QuantizeConfig
from tests.lm.made_parts import CLOSE, EMBEDDINGS, decided, ids_of
from tests.lm.models import plain_and_compiled, toy_model

EVERY = pytest.mark.parametrize("name", [method.model_fields["name"].default for method in EMBEDDINGS])


def with_one(name: str, **given: Any) -> dict[str, Any]:
    return {"embeddings": [{"name": name, **given}]}


@pytest.mark.parametrize("name", ["x0", "smear"])
@torch.no_grad()
def test_what_begins_at_nothing_begins_as_the_model_without(name: str) -> None:
    ids = ids_of(2, 9)
    assert torch.equal(toy_model(seed=3, **with_one(name))(ids), toy_model(seed=3)(ids))


@EVERY
@torch.no_grad()
def test_no_two_are_alike(name: str) -> None:
    ids, found = ids_of(2, 9), decided(with_one(name))(ids_of(2, 9))
    others = [method.model_fields["name"].default for method in EMBEDDINGS]
    for other in others:
        if other != name:
            assert not torch.allclose(found, decided(with_one(other))(ids), **CLOSE)


def test_a_row_of_pairs_by_hand() -> None:
    """36313 xor 27191 x 2 = 0x8DD9 xor 0xD46E = 0x59B7 = 22967; of 10 rows nine are hashed to, and 22967 mod 9 = 8."""
    ids, before = torch.tensor([[1, 0, 7]]), torch.tensor([[2, 0, -1]])
    assert row_of(ids, before, 10).tolist() == [[22967 % 9, 0, 9]]
    part = Bigram(rows=10).build(toy_model().config)
    x, table = torch.zeros(1, 3, 32), part.table.weight
    tokens = Tokens(ids, before, torch.nn.Embedding(8, 32))
    torch.testing.assert_close(part(x, tokens)[0], 0.05 * table[[22967 % 9, 0, 9]])


def test_smear_by_hand() -> None:
    """A gate of 0 lets in a half, and one of log 3 three quarters, each times the share of 2."""
    part = Smear(columns=1).build(toy_model().config)
    table = torch.arange(4.0)[:, None] * torch.ones(4, 32)
    with torch.no_grad():
        part.share.fill_(2.0)
        part.weight.fill_(1.0)
    x = torch.zeros(1, 3, 32)
    x[0, 1, 0] = torch.tensor(3.0).log()
    found = part(x, Tokens(torch.tensor([[3, 1, 2]]), torch.tensor([[-1, 3, 1]]), table.__getitem__)) - x
    torch.testing.assert_close(found[0, :, 1], torch.tensor([0.0, 2 * 0.75 * 3, 2 * 0.5 * 1]))


def test_values_by_hand() -> None:
    """Keys and queries of zeros: each token gets the mean of a v + b row over itself and all before."""
    model = toy_model(qk_norm=False, kv_heads=1, heads=1, layers=1, **with_one("value"))
    block, table = model.blocks[0].attention, model.blocks[0].embeddings[0]
    seen: list[Tensor] = []
    ids = ids_of(1, 6)
    with torch.no_grad():
        for layer, weight in ((block.query, 0.0), (block.key, 0.0), (block.value, 1.0), (block.output, 1.0)):
            layer.weight.copy_(weight * torch.eye(32))
        table.shares.copy_(torch.tensor([3.0, 2.0]))
        block.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
        model(ids)
    x, y = seen
    mixed = 3 * x[0] + 2 * table.table.weight[ids[0]]
    for place in range(6):
        torch.testing.assert_close(y[0, place], mixed[: place + 1].mean(0), **CLOSE)


@torch.no_grad()
def test_a_layer_is_mixed_with_the_embedded_tokens_of_all_embeddings_of_the_input() -> None:
    model = decided({"layers": 2, "embeddings": [{"name": "smear"}, {"name": "bigram", "rows": 50}, {"name": "x0"}]})
    ids, seen = ids_of(1, 7), list[Tensor]()
    model.of_input[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    for block in model.blocks:
        block.attention_norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    model(ids)
    embedded, first, between, second, _ = seen
    shares = [block.embeddings[0].shares for block in model.blocks]
    torch.testing.assert_close(first, (shares[0][0] + shares[0][1]) * embedded)
    torch.testing.assert_close(second, shares[1][0] * between + shares[1][1] * embedded)


@torch.no_grad()
def test_layers_have_the_embeddings_that_a_pattern_gives_them() -> None:
    pattern = [{}, {"embeddings": [{"name": "value"}]}, {"embeddings": []}]
    model = decided({"layers": 4, "pattern": pattern, "embeddings": [{"name": "x0"}, {"name": "smear"}]})
    names = [[one.name for one in model.config.layer(index).embeddings] for index in range(4)]
    assert names == [["x0"], ["value"], [], ["x0"]] and len(model.of_input) == 1
    smaller = model.select_layers([0, 1, 3])
    assert [[one.name for one in smaller.config.layer(i).embeddings] for i in range(3)] == [["x0"], ["value"], ["x0"]]
    for mine, theirs in enumerate((0, 1, 3)):
        own = smaller.blocks[mine].state_dict()
        assert all(torch.equal(weight, own[name]) for name, weight in model.blocks[theirs].state_dict().items())


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 8), st.integers(0, 7))
@torch.no_grad()
def test_tokens_that_are_taken_back_are_not_looked_back_at(written: int, kept: int) -> None:
    """As speculative decoding does: lengths go back, and other tokens follow."""
    model, kept = decided({"embeddings": [{"name": "smear"}, {"name": "bigram", "rows": 50}]}), min(kept, written)
    ids, others = ids_of(2, written), ids_of(2, 3, seed=1)
    cache = Cache(model.config, 2, written + 3)
    model(ids, cache)
    cache.lengths_B.fill_(kept)
    cache.first = False
    found = model(others, cache)
    torch.testing.assert_close(found, model(torch.cat((ids[:, :kept], others), 1))[:, kept:], **CLOSE)


def test_compiled_blocks_of_all_together_are_one_graph_with_the_same_gradients() -> None:
    model = toy_model(embeddings=[{"name": method.model_fields["name"].default} for method in EMBEDDINGS])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12)).square().sum().backward()) == 1


@pytest.mark.parametrize(
    ("name", "more"),
    [("x0", 2 * 2), ("smear", 12 + 1), ("bigram", 50 * 32 + 1), ("value", 2 * (261 * 2 * 8 + 2))],
)
def test_numbers_work_and_what_is_kept_are_counted(name: str, more: int) -> None:
    given = {"rows": 50} if name == "bigram" else {}
    model, plain = toy_model(**with_one(name, **given)), toy_model()
    assert model.num_parameters() == plain.num_parameters() + more
    of_gate = 6 * 12 if name == "smear" else 0
    assert flops_per_token(model, 12) == flops_per_token(plain, 12) + of_gate
    looks_back = name in ("smear", "bigram")
    assert model.config.state_numel(10) == plain.config.state_numel(10) + 10 * looks_back
    assert (Cache(model.config, 2, 10).ids_BC is not None) == looks_back


@EVERY
def test_tables_are_tables_and_all_else_is_no_matrix(name: str) -> None:
    roles, plain = roles_of(toy_model(**with_one(name))), roles_of(toy_model())
    own = {weight: role for weight, role in roles.items() if weight not in plain}
    assert own and all(
        role == ("table" if weight.endswith(".table.weight") else "vector") for weight, role in own.items()
    )
    tables = {weight for weight, role in roles.items() if role == "table"}
    config = QuantizeConfig.model_construct(method="method", embedding="embedding")
    assert all((config.method_of(weight) == "embedding") == (weight in tables) for weight in roles)


@EVERY
def test_no_file_of_another_format_is_written_and_a_line_says_why(name: str) -> None:
    for written in (to_theirs, family_of):
        for shape in (with_one(name), {"pattern": [{}, with_one(name)]}):
            if "pattern" in shape and name in ("smear", "bigram"):
                continue
            with pytest.raises(ValueError, match=f"^no Hugging Face family .* the embedding '{name}'[^\n]*$"):
                written(toy_model(**shape).config)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"pattern": [{}, with_one("smear")]}, "pattern: smear is of the model's input"),
        ({"embeddings": [{"name": "x0"}, {"name": "x0"}]}, "embeddings: x0 is there twice"),
        ({"mixer": {"name": "minimal_rnn"}, **with_one("value")}, "value adds to values, and minimal_rnn, in layer 0"),
        (
            {"pattern": [{}, {"mixer": {"name": "minimal_rnn"}}], **with_one("value")},
            "minimal_rnn, in layer 1, has none",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(shape: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig.model_validate(shape)


def test_embeddings_of_what_is_frozen_stay() -> None:
    model = toy_model(layers=4, embeddings=[{"name": name} for name in ("smear", "bigram", "x0", "value")])
    model.reparametrize(FrozenLower())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all(name.startswith(("blocks.2.", "blocks.3.", "norm.")) for name in trained)
    assert "blocks.3.embeddings.1.table.weight" in trained


def test_heads_of_layers_with_embeddings_are_not_cut() -> None:
    with pytest.raises(ConfigError, match="layers that have embeddings cannot be cut"):
        with_units(toy_model(**with_one("value")), 2, 0, None, [], "prune")
