"""What every way to hold a matrix must be, whichever there are: a new file in lm/linears is held to it by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lm import linears
from lm.averages import Ema
from lm.config import Config, ConfigError, methods_of
from lm.linears import Dense, LoRA
from lm.linears.base import Held, flops_of, roles_of
from lm.model import Decoder
from lm.optimizers import AdamW, Muon
from lm.schedules import Cosine
from lm.training.batch import Batch, Metrics, backward
from lm.training.data.conversations import token_logps
from lm.training.flops import flops_per_token
from lm.training.loop import train
from lm.training.memory import positions_in
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import plain_and_compiled, toy_model
from tests.lm.test_training import Recorder
from tests.project import ROOT

EVERY = pytest.mark.parametrize("method", methods_of(linears), ids=lambda method: method.__name__)
# fp32 with sums in another order, of values of the order of 1
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
IDS = torch.randint(0, 261, (4, 13), generator=torch.Generator().manual_seed(0))


def held(method: type[Config], **shape: Any) -> Decoder:
    model = toy_model(seed=1, **shape)
    model.hold(method())
    return model


def disturbed(model: Decoder) -> Decoder:
    """What is trained is away from where it begins."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def batch_of(model: Decoder) -> Batch:
    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        everywhere = torch.arange((rows.stop - rows.start) * 12)
        return -token_logps(model, IDS[rows], everywhere).sum() / 48, {}

    return Batch(4, 12, 48, loss)


@EVERY
def test_a_model_begins_as_what_it_was_and_what_it_became_can_be_merged(method: type[Config]) -> None:
    dense, model = toy_model(seed=1), held(method)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), dense(IDS), **CLOSE)
        changed = disturbed(model)(IDS)
        assert not torch.allclose(changed, dense(IDS), **CLOSE)
        model.merge()
        torch.testing.assert_close(model(IDS), changed, **CLOSE)
    assert {n: w.shape for n, w in model.state_dict().items()} == {n: w.shape for n, w in dense.state_dict().items()}
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(isinstance(module, Held) for module in model.modules())


@EVERY
def test_the_first_values_follow_from_the_method_alone(method: type[Config]) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(held(method).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@EVERY
def test_every_number_has_a_role_and_a_gradient_if_it_is_trained(method: type[Config]) -> None:
    model = disturbed(held(method, tied=False, qkv_bias=True))
    assert roles_of(model).keys() == dict(model.named_parameters()).keys()
    loss, _ = backward(batch_of(model), 48)
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.abs().max())) == weight.requires_grad, name
    assert model.num_trained() == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert loss > 0


@EVERY
def test_compiled_blocks_share_a_graph_and_have_the_same_gradients(method: type[Config]) -> None:
    """Where the embedding is not trained, the input of the first block needs no gradient, and it has a graph of its own."""
    model = disturbed(held(method))
    assert plain_and_compiled(model, lambda: backward(batch_of(model), 48)) == (2 if method().alone else 1)


def fit(recipe: Recipe, scratch: Path, after: int | None = None) -> Decoder:
    model = toy_model(seed=1)
    train(model, recipe, 6, lambda step: batch_of(model), Recorder(scratch, after))
    return model


@EVERY
@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_a_run_that_was_stopped_ends_in_the_same_bytes_and_dense(
    method: type[Config], optimizer: Config, tmp_path: Path
) -> None:
    recipe = Recipe(optimizer=optimizer, schedule=Cosine(), average=Ema(), clip=1.0, linear=method())
    whole, start = fit(recipe, tmp_path / "whole"), toy_model(seed=1)
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "cut", 4)
    resumed = fit(recipe, tmp_path / "cut").state_dict()
    assert resumed.keys() == start.state_dict().keys()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.state_dict().items())
    with torch.no_grad():
        assert batch_of(whole).loss(slice(0, 4))[0] < batch_of(start).loss(slice(0, 4))[0]


@EVERY
def test_shards_train_as_one_batch(method: type[Config], tmp_path: Path) -> None:
    given = {"optimizer": AdamW(), "schedule": Cosine(), "average": Ema(), "linear": method()}
    one, two = (fit(Recipe(**given, shards=shards), tmp_path / str(shards)) for shards in (1, 2))
    for name, weight in one.state_dict().items():
        # AdamW divides by the gradient's size, so rounding of a tiny gradient may turn a whole step
        assert torch.nn.functional.cosine_similarity(two.state_dict()[name].flatten(), weight.flatten(), dim=0) > 0.999


def test_lora_trains_its_thin_matrices_alone_and_costs_what_they_do() -> None:
    dense, model = toy_model(seed=1), held(LoRA)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.rpartition(".")[2] for name in trained} == {"down", "up"} and len(trained) == 2 * 2 * 7
    # of each of the 2 blocks q, k, v, o and three of the ffn: rank 8 times the two sides
    sides = (32 + 32) + 2 * (16 + 32) + (32 + 32) + 3 * (32 + 48)
    assert model.num_trained() == 2 * 8 * sides
    matrices = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48)
    stays = matrices + model.head_weight.numel()
    assert flops_per_token(model, 12) == flops_per_token(dense, 12) - 2 * stays + 6 * model.num_trained()
    # of a memory that holds a dense model's training state, and no more, LoRA leaves most to activations
    memory = 20 * dense.num_parameters() / 0.6
    assert positions_in(memory, dense, batch_of(dense), 20.0, 4.0) == 0
    more, fewer = (positions_in(memory, model, batch_of(model), 20.0, frozen) for frozen in (0.0, 4.0))
    assert 0 < fewer < more


def test_a_checkpoint_of_lora_holds_what_is_trained_and_no_more(tmp_path: Path) -> None:
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=LoRA(matrices=["query"]))
    with pytest.raises(Stopped):
        fit(recipe, tmp_path, 4)
    (path,) = tmp_path.glob("step-*.safetensors")
    thin = {f"blocks.{n}.attention.query.{part}" for n in (0, 1) for part in ("down", "up")}
    held = {name for name in load_file(path) if name.startswith(("model.", "average.", "optimizer."))}
    slots = ("model", "average", "optimizer.step", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    assert held == {f"{slot}.{name}" for slot in slots for name in thin}


def test_lora_of_some_matrices_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    method = LoRA(rank=2, matrices=["query", "down"])
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=method)
    start, end = toy_model(seed=1).state_dict(), fit(recipe, tmp_path).state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {f"blocks.{n}.{part}.weight" for n in (0, 1) for part in ("attention.query", "ffn.down")}
    for name in moved:
        singular = torch.linalg.svdvals(end[name] - start[name])
        assert singular[1] > 1e-3 * singular[0] and singular[2] < 1e-4 * singular[0]  # rank 2


def test_lora_in_shards_learns_as_lora_at_once(tmp_path: Path) -> None:
    once, shards = (
        fit(
            Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=LoRA(), shards=shards),
            tmp_path / str(shards),
        )
        for shards in (1, 2)
    )
    for name, weight in once.state_dict().items():  # fp32 sums in another order
        torch.testing.assert_close(shards.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_every_parameter_of_lora_counts(tmp_path: Path) -> None:
    found: dict[bytes, LoRA] = {}
    others = [LoRA(rank=4), LoRA(alpha=8.0), LoRA(matrices=["up"]), LoRA(seed=1)]
    assert {name for other in others for name in other.model_fields_set} == LoRA.model_fields.keys() - {"name"}
    for number, method in enumerate([LoRA(), *others]):
        recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), linear=method)
        state = fit(recipe, tmp_path / str(number)).state_dict()
        made = b"".join(weight.numpy().tobytes() for weight in state.values())
        assert made not in found, f"{method} is {found[made]}"
        found[made] = method


def test_lora_of_a_matrix_that_there_is_not_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match="linear.matrices: no 'querry' .allowed: down, gate, key, output, query, up, value"
    ):
        toy_model().hold(LoRA(matrices=["query", "querry"]))


def test_lora_by_hand() -> None:
    plain = nn.Linear(2, 2, bias=False)
    plain.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    layer = LoRA(rank=1, alpha=3.0).build("x", plain)
    with torch.no_grad():
        layer.down.copy_(torch.tensor([[1.0, -1.0]]))
        layer.up.copy_(torch.tensor([[1.0], [2.0]]))
    # 3 up down = [[3, -3], [6, -6]]
    assert layer.merged().weight.tolist() == [[4.0, -1.0], [9.0, -2.0]]
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [3.0, 7.0]
    assert flops_of(layer) == 4 * 4 + 6 * 4 and flops_of(plain) == 6 * 4


def test_what_trains_asks_modules_what_weights_are_for() -> None:
    """A number of dimensions or a name says it no more."""
    files = [*(ROOT / "lm" / "optimizers").glob("*.py"), *(ROOT / "lm" / "training").rglob("*.py")]
    told = [file.name for file in files if ".ndim" in file.read_text() or '"head"' in file.read_text()]
    assert len(files) > 30 and told == []


def test_roles_of_a_dense_model() -> None:
    model = toy_model(tied=False, qkv_bias=True)
    model.hold(Dense())
    roles = roles_of(model)
    assert {roles[name] for name in ("embedding.weight", "head.weight")} == {"table"}
    assert roles["blocks.1.attention.query.weight"] == roles["blocks.0.ffn.down.weight"] == "matrix"
    for name in ("norm.weight", "blocks.0.attention.query.bias", "blocks.0.attention.query_norm.weight"):
        assert roles[name] == "vector"
