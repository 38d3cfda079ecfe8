"""Training in few bits: by hand, gradients as the papers have them, and packed to exactly the integers that it was trained
with."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lm import averages
from lm.averages import Ema
from lm.checkpoint import load_model, save_model
from lm.config import Config, methods_of
from lm.linears import Centroids, Dense, FewBits, OneBit
from lm.linears.few_bits import first_steps
from lm.model import Decoder
from lm.optimizers import AdamW, Muon
from lm.quantized.trained import FILE, load_trained_in
from lm.schedules import Cosine
from lm.training.loop import train
from lm.training.recipe import Recipe
from tests.lm.models import toy_model, toy_tokenizer
from tests.lm.test_linear_methods import layer_of, put
from tests.lm.test_linears import batch_of
from tests.lm.test_training import Recorder

METHODS = [
    FewBits(), FewBits(bits=2, group=8), FewBits(bits=3, steps="fixed"), FewBits(bits=8, group=100), FewBits(rank=4),
    FewBits(rank=4, bits=3, steps="fixed"), OneBit(), Centroids(), Centroids(bits=2, iterations=1),
]  # fmt: skip
EVERY = pytest.mark.parametrize("method", METHODS, ids=repr)


def trained(method: Config, folder: Path, steps: int = 6, **more: Any) -> Decoder:
    model = toy_model(seed=1)
    how = Recipe(**{"optimizer": AdamW(), "schedule": Cosine(), "average": Ema(), "linear": method, **more})
    train(model, how, steps, lambda step: batch_of(model), Recorder(folder))
    return model


@EVERY
@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_what_is_packed_is_what_was_trained_with(method: Config, optimizer: Config, tmp_path: Path) -> None:
    model = trained(method, tmp_path / "scratch", optimizer=optimizer)
    save_model(tmp_path, model, toy_tokenizer())
    packed, state = load_trained_in(tmp_path), load_model(tmp_path)[0].state_dict()
    assert set(packed) == {name for name, w in state.items() if name.startswith("blocks.") and w.ndim == 2}
    for name, matrix in packed.items():
        assert torch.equal(matrix.dequantize(), state[name])
        assert matrix.bits == getattr(method, "bits", 1)
        codes = matrix.symbols().unique()
        assert len(codes) > 2 ** min(matrix.bits, 3) - 3  # they are used


@pytest.mark.parametrize("average", methods_of(averages), ids=lambda method: method.__name__)
def test_averaged_weights_are_on_the_grid_too(average: type[Config], tmp_path: Path) -> None:
    model = trained(FewBits(), tmp_path / "scratch", average=average())
    save_model(tmp_path, model, toy_tokenizer())
    state = load_model(tmp_path)[0].state_dict()
    assert all(torch.equal(packed.dequantize(), state[name]) for name, packed in load_trained_in(tmp_path).items())


def test_few_bits_by_hand() -> None:
    """Two bits have the codes -2, -1, 0 and 1. Of (1, -0.5, 0.2) the step is 1, of (-3, 1.4) 1.5."""
    layer = layer_of(FewBits(bits=2, group=3), [1.0, -0.5, 0.2, -3.0, 1.4])
    assert layer.first_ON.tolist() == [[1.0, 1.5]]
    # -0.5 is as near to 0 as to -1, and rounds to the even one
    assert layer.merged().weight.tolist() == [[1.0, 0.0, 0.0, -3.0, 1.5]]
    assert layer(torch.eye(5)[3]).tolist() == [-3.0]
    put(layer, stretch=[[0.0, -10.0]])
    # steps of 1.5 e^-10: both are cut to the last code
    step = torch.tensor(1.5 * torch.e**-10).to(torch.bfloat16).item()
    assert layer.merged().weight.flatten()[3:].tolist() == pytest.approx([-2 * step, step])


def test_a_thin_product_is_rounded_with_its_matrix() -> None:
    layer = layer_of(FewBits(bits=4, group=2, rank=1, alpha=2.0), [7.0, 1.0])
    assert layer.first_ON.tolist() == [[1.0]]
    put(layer, down=[[0.3, 0.3]], up=[[-1.0]])
    # 7 - 2 x 0.3 = 6.4 and 1 - 0.6 = 0.4
    assert layer.merged().weight.tolist() == [[6.0, 0.0]]


def test_gradients_are_those_of_lsq() -> None:
    """Esser et al., equations 3 and 5: of a weight within the range what comes in, else none; of the step round(v) - v within,
    and the last code beyond; times the step, as it is learned by its logarithm."""
    layer = layer_of(FewBits(bits=2, group=4), [1.0, -0.7, 0.3, -1.6])
    layer.weight.requires_grad_(True)
    put(layer, stretch=[[-0.6931471805599453]])  # a step of 0.5: v = 2, -1.4, 0.6, -3.2
    comes = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    layer(comes).backward()
    assert layer.weight.grad.tolist() == [[0.0, 10.0, 100.0, 0.0]]
    of_step = 1 * 1.0 + (-1 + 1.4) * 10 + (1 - 0.6) * 100 + -2 * 1000
    assert layer.stretch.grad.item() == pytest.approx(0.5 * of_step, rel=1e-5)


def test_one_bit_by_hand() -> None:
    layer = layer_of(OneBit(), [1.0, -3.0], [0.0, 4.0])
    assert layer.most.item() == 2.0 and layer.weight.tolist() == [[1.0, -2.0], [0.0, 2.0]]
    assert layer.merged().weight.tolist() == [[2.0, -2.0], [2.0, 2.0]]
    layer.weight.requires_grad_(True)
    put(layer, weight=[[1.0, -3.0], [0.0, 2.0]])
    layer(torch.tensor([1.0, 10.0])).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 0.0], [1.0, 10.0]]  # none beyond the magnitude
    OneBit().after(0, {"x": layer})
    assert layer.weight.tolist() == [[1.0, -2.0], [0.0, 2.0]]


def test_weights_of_one_bit_stay_within_its_magnitude(tmp_path: Path) -> None:
    model = toy_model(seed=1)
    seen: list[tuple[float, float]] = []
    model.merge = lambda: seen.extend((float(x.weight.abs().max()), float(x.most)) for x in model.held.values())
    how = Recipe(optimizer=AdamW(lr=0.1), schedule=Cosine(), average=averages.Last(), linear=OneBit())
    train(model, how, 6, lambda step: batch_of(model), Recorder(tmp_path))
    assert len(seen) == 14 and all(largest <= most for largest, most in seen)
    assert any(largest == most for largest, most in seen)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_first_steps_cut_nothing(bits: int) -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    layer = FewBits(bits=bits, group=16).build("blocks.0.ffn.up", linear_of(weight))
    # bfloat16 rounds a step by 2^-9, of which there are 2^(bits - 1) to the last code
    error = (layer.merged().weight - weight).abs()
    steps = first_steps(weight, bits, 16).repeat_interleave(16, dim=1)[:, :50]
    assert (error <= (0.5 + 2 ** (bits - 10)) * steps * (1 + 2**-8)).all()


def linear_of(weight: Tensor) -> nn.Linear:
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    plain.weight = nn.Parameter(weight)
    return plain


def test_less_is_trained_with_a_thin_product() -> None:
    full, thin = toy_model(), toy_model()
    full.reparametrize(FewBits())
    thin.reparametrize(FewBits(rank=2))
    assert thin.num_trained() < 0.2 * full.num_trained()
    names = {name.rpartition(".")[2] for name, weight in thin.named_parameters() if weight.requires_grad}
    assert names == {"stretch", "down", "up"}
    fixed = toy_model()
    fixed.reparametrize(FewBits(steps="fixed"))
    assert fixed.num_trained() == toy_model().num_trained()


@cache
def learned() -> Decoder:
    """A model that has learned a batch; whoever takes it leaves it as it is."""
    with TemporaryDirectory() as folder:
        return trained(Dense(), Path(folder), 100)


@pytest.mark.parametrize("more", [{}, {"steps": "fixed"}, {"rank": 4}], ids=str)
def test_going_on_in_few_bits_loses_less_than_going_on_and_rounding(more: dict[str, Any], tmp_path: Path) -> None:
    """Of a model that has learned a batch, with two bits, where rounding costs most. A thin product, which leaves the embedding as
    it is, has rounding alone to beat."""
    start = learned()
    losses = []
    for name, method in (("plain", Dense()), ("aware", FewBits(bits=2, group=16, **more))):
        model = toy_model(seed=1)
        model.load_state_dict(start.state_dict())
        how = Recipe(optimizer=AdamW(lr=1e-3), schedule=Cosine(), average=averages.Last(), linear=method)
        if name == "aware" or "rank" not in more:
            train(model, how, 50, lambda step, model=model: batch_of(model), Recorder(tmp_path / name))
        model.reparametrize(FewBits(bits=2, group=16))  # on the grid already, or rounded to it
        with torch.no_grad():
            losses.append(batch_of(model).loss(slice(0, 4))[0].item())
    assert losses[1] < 0.9 * losses[0]


def test_a_torn_file_is_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, trained(FewBits(), tmp_path / "scratch"), toy_tokenizer())
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f"{FILE}: cannot be read"):
        load_trained_in(tmp_path)
    path.write_bytes(whole)
    tensors = load_file(path)
    tensors.pop("blocks.0.ffn.up.weight.codes")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{FILE}: cannot be read"):
        load_trained_in(tmp_path)
