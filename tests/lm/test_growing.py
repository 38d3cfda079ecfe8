"""A model that grows within a run: what a pass goes through, what becomes of weights and optimizer, and a run that is killed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lm import optimizers
from lm.averages import Ema, Last
from lm.config import Config, ConfigError, methods_of
from lm.depth import Depth, Grown, interpolate
from lm.future_heads import put_future_heads
from lm.linears import LoRA
from lm.linears.base import roles_of
from lm.model import Decoder
from lm.optimizers import AdamW, DropMuon, Muon, OneBitAdam
from lm.training.average import RunningAverage
from lm.training.flops import flops_per_token, mean_flops_per_token
from lm.training.growing import Growing, at_full_depth
from lm.training.loop import train
from lm.training.memory import saved_activation_bytes
from lm.training.parallel.ddp import DDP
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tasks.pretrain.growths import Apollo, Staged, VCycle
from tests.lm.made_parts import ids_of, stirred
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder, batches, recipe

LAYERS, STEPS = 4, 12
FIRST, SECOND = 3, 6  # steps of the growths from one layer to two, and to all
METHODS: dict[str, Any] = {
    "copied": Staged(),
    "fresh": Staged(moments="fresh"),
    "masked": Staged(ramp=0.25),
    "random": Staged(new_layers="random", place="between"),
    "alone": Staged(new_layers="random", alone=0.1),
    "apollo": Apollo(seed=1),
    "v_cycle": VCycle(initial=0.25, until=0.6),
}
EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def fit(
    method: Any, log: Recorder, how: Recipe | None = None, model: Decoder | None = None, steps: int = STEPS
) -> Decoder:
    model = model or toy_model(seed=1, layers=LAYERS)
    train(model, how or recipe(), steps, batches(model), log, components=[Growing(method)] if method else [])
    return model


def stopped(method: Any, folder: Path, after: int, how: Recipe | None = None, model: Decoder | None = None) -> Decoder:
    """The model after so many steps of a run of STEPS."""
    model = model or toy_model(seed=1, layers=LAYERS)
    with pytest.raises(Stopped):
        fit(method, Recorder(folder, after), how, model)
    return model


@EVERY
@pytest.mark.parametrize("optimizer", [AdamW, Muon])
def test_a_run_that_is_stopped_at_every_step_ends_in_the_same_bits(method: Any, optimizer: Any, tmp_path: Path) -> None:
    how = recipe(optimizer=optimizer, average=Ema, shards=2)
    whole = fit(method, whole_log := Recorder(tmp_path / "whole"), how)
    points: dict[int, Any] = {}
    for _ in range(STEPS - 1):
        log = Recorder(tmp_path / "cut", 1)
        with pytest.raises(Stopped):
            fit(method, log, how)
        points |= log.points
    resumed = fit(method, log := Recorder(tmp_path / "cut"), how)
    assert points | log.points == whole_log.points
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert whole.depth is None and all(weight.requires_grad for weight in whole.parameters())


@pytest.mark.parametrize(
    "method", [Staged(place="between", ramp=0.1), METHODS["v_cycle"]], ids=lambda method: method.name
)
@pytest.mark.parametrize("optimizer", methods_of(optimizers), ids=lambda method: method.__name__)
def test_every_optimizer_takes_new_layers_or_says_no(optimizer: type[Config], method: Any, tmp_path: Path) -> None:
    if optimizer in (DropMuon, OneBitAdam):
        with pytest.raises(ConfigError, match="^growth: the optimizer .*: take another one$"):
            fit(method, Recorder(tmp_path), recipe(optimizer=optimizer))
        return
    model = fit(method, log := Recorder(tmp_path), recipe(optimizer=optimizer))
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert all(4 < point["loss"] < 7 for point in log.points.values())


@EVERY
def test_before_a_growth_it_is_the_smaller_model_to_the_bit(method: Any, tmp_path: Path) -> None:
    if method.name != "staged":
        method = Staged(place="between")
    small = toy_model(seed=1, layers=LAYERS).select_layers([0]).train()
    stopped(None, tmp_path / "small", FIRST, model=small)
    large = stopped(method, tmp_path / "large", FIRST)
    wanted = small.state_dict()
    assert all(torch.equal(large.state_dict()[name], weight) for name, weight in wanted.items())
    first = toy_model(seed=1, layers=LAYERS).state_dict()
    waiting = [name for name in first if name not in wanted]
    assert waiting and all(torch.equal(large.state_dict()[name], first[name]) for name in waiting)


def by_hand(sources: list[list[int]], carried: bool) -> dict[str, Tensor]:
    """Weights after STEPS of AdamW, of a model that is made anew at each growth, with the state of the layers it is made of."""
    model = toy_model(seed=1, layers=LAYERS).select_layers([0]).train()
    how, method = recipe(), AdamW()
    optimizer = method.build(list(model.named_parameters()), roles_of(model))
    growths = dict(zip((FIRST, SECOND), sources, strict=True))
    for step in range(STEPS):
        if layers := growths.get(step):
            states = {name: dict(optimizer.state[weight]) for name, weight in model.named_parameters()}
            model = model.select_layers(layers).train()
            optimizer = method.build(list(model.named_parameters()), roles_of(model))
            for name, weight in model.named_parameters():
                parts = name.split(".")
                if parts[0] == "blocks":
                    number = int(parts[1])
                    if not carried and layers[number] in layers[:number]:
                        continue
                    parts[1] = str(layers[number])
                optimizer.state[weight] = {key: value.clone() for key, value in states[".".join(parts)].items()}
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * how.schedule(step, STEPS)
        optimizer.zero_grad(set_to_none=True)
        batches(model)(step).loss(slice(0, 4))[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize(
    ("place", "sources"), [("on_top", [[0, 0], [0, 1, 0, 1]]), ("between", [[0, 0], [0, 0, 1, 1]])]
)
def test_copies_go_on_as_a_model_made_of_them_with_their_state(
    place: Any, sources: list[list[int]], carried: bool, tmp_path: Path
) -> None:
    method = Staged(place=place, moments="carried" if carried else "fresh")
    found = fit(method, Recorder(tmp_path)).state_dict()
    for name, weight in by_hand(sources, carried).items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6, msg=name)


class Moves:
    """Of the four blocks of a model, in one step: the last two change places, the first becomes the second, both anew."""

    def depth(self, layers: int, step: int, steps: int) -> Depth | None:
        return None

    def grown(self, layers: int, step: int, steps: int) -> list[Grown]:
        return [Grown((1, 1, 3, 2), frozenset({0}))] if step == 2 else []


def test_weights_state_and_mean_move_together(tmp_path: Path) -> None:
    how, model = recipe(optimizer=AdamW, average=Ema), toy_model(seed=1, layers=LAYERS)
    seen: list[dict[str, Tensor]] = []

    class Look(Growing):
        def join(self, parallel: Any, mean: RunningAverage, steps: int) -> None:
            super().join(parallel, mean, steps)
            self.parallel, self.mean = parallel, mean

        def begin(self, step: int) -> None:
            for ask in (lambda: None, lambda: super(Look, self).begin(step)):
                ask()
                if step == 2:
                    every = {"model." + name: weight for name, weight in model.named_parameters()}
                    every |= {"mean." + name: mean for name, mean in self.mean.mean.items()}
                    every |= self.parallel.slots()
                    seen.append({name: tensor.detach().clone() for name, tensor in every.items()})

    train(model, how, 4, batches(model), Recorder(tmp_path), components=[Look(Moves())])
    before, after = seen
    sources = dict(enumerate((1, 1, 3, 2)))
    assert {name.partition(".")[0] for name in after} == {"model", "mean", "step", "exp_avg", "exp_avg_sq"}
    for name, tensor in before.items():
        kind, _, rest = name.partition(".blocks.")
        number = int(rest.partition(".")[0]) if rest else -1
        if number == 0 and kind not in ("model", "mean"):
            assert name not in after
            continue
        source = f"{kind}.blocks.{sources[number]}.{rest.partition('.')[2]}" if rest else name
        assert torch.equal(after[name], before[source]), name
        assert kind == "step" or number in (-1, 1) or not torch.equal(after[name], tensor) or not tensor.any(), name


def test_what_is_frozen_or_waits_has_no_gradient(tmp_path: Path) -> None:
    """Layers come in alone in two steps after the first growth, to the second of four; the embedding is trained meanwhile."""
    method = Staged(new_layers="random", alone=0.2)
    before, after = (stopped(method, tmp_path / str(n), FIRST + n).state_dict() for n in (0, 2))
    assert method.depth(LAYERS, FIRST + 1, STEPS) == Depth((0, 1), (1.0, 1.0), frozenset({0}))
    for name, weight in before.items():
        stays = name.startswith(("blocks.0.", "blocks.2.", "blocks.3."))
        assert torch.equal(weight, after[name]) == stays, name
    later = stopped(method, tmp_path / "later", FIRST + 3).state_dict()
    assert not torch.equal(later["blocks.0.ffn.up.weight"], after["blocks.0.ffn.up.weight"])


def deep(**shape: Any) -> Decoder:
    return stirred(toy_model(seed=3, **{"layers": LAYERS, **shape})).eval()


@torch.no_grad()
def logits(model: Decoder, depth: Depth | None) -> Tensor:
    model.depth = depth
    return model(ids_of(2, 9))


def test_the_function_is_the_smaller_models_where_a_mask_begins_whatever_the_new_weights() -> None:
    model, method = deep(), Staged(ramp=0.25, new_layers="random", place="between")
    small = logits(model, Depth((0, 1), (1.0, 1.0)))
    assert torch.equal(small, logits(model.select_layers([0, 1]), None))
    (growth,) = method.grown(LAYERS, SECOND, STEPS)
    assert growth == Grown((0, 2, 1, 3), frozenset({1, 3}))
    moved = model.select_layers(growth.sources)
    assert torch.equal(logits(moved, method.depth(LAYERS, SECOND, STEPS)), small)
    nearly = logits(moved, Depth((0, 1, 2, 3), (1.0, 1e-7, 1.0, 1e-7)))
    torch.testing.assert_close(nearly, small, rtol=0, atol=1e-5 * float(small.abs().max()))
    whole = logits(moved, None)
    assert torch.equal(logits(moved, Depth((0, 1, 2, 3), (1.0,) * 4)), whole)
    far = [(logits(moved, Depth((0, 1, 2, 3), (1.0, c, 1.0, c))) - whole).abs().max() for c in (0.1, 0.5, 0.9, 1.0)]
    assert far == sorted(far, reverse=True) and far[-1] == 0


def test_a_share_is_of_all_that_a_block_adds_and_of_what_waited_before_it() -> None:
    x, waiting, further, more = (torch.full((1, 2, 3), value) for value in (1.0, 2.0, 7.0, 8.0))
    mixed, left = interpolate((x, None), (further, None), 0.25)
    assert left is None and torch.equal(mixed, torch.full_like(x, 2.5))
    mixed, left = interpolate((x, waiting), (further, more), 0.25)
    assert torch.equal(mixed, torch.full_like(x, 6.0)) and left is not None and not left.any()


def test_layers_that_are_shared_are_those_layers_again() -> None:
    model = deep()
    again = logits(model, Depth((0, 0, 1), (1.0,) * 3))
    assert torch.equal(again, logits(model.select_layers([0, 0, 1]), None))
    assert not torch.equal(again, logits(model, Depth((0, 1), (1.0,) * 2)))


def test_some_layers_of_a_pattern_see_what_theirs_see() -> None:
    """Every other layer a window of two tokens."""
    model = deep(pattern=[{"mixer": {"name": "sliding_window", "window": 2}}, {}])
    assert torch.equal(logits(model, Depth((1, 2), (1.0, 1.0))), logits(model.select_layers([1, 2]), None))


@pytest.mark.parametrize("blocks", [(0, 2), (0, 0, 1, 1), (1,)])
def test_a_cache_goes_through_the_same_layers(blocks: tuple[int, ...]) -> None:
    model = deep()
    model.depth = Depth(blocks, (0.5,) * len(blocks))
    ids = ids_of(2, 9)
    with torch.no_grad():
        whole, cache = model(ids), model.new_cache(2, 9)
        steps = torch.cat([model(ids[:, :5], cache), *(model(ids[:, [place]], cache) for place in range(5, 9))], 1)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-5)


def test_what_is_not_passed_costs_nothing_and_what_is_passed_twice_costs_twice() -> None:
    model, ids = toy_model(layers=LAYERS), ids_of(2, 9)

    def counted(depth: Depth | None, of: Decoder) -> int:
        of.depth = depth
        with FlopCounterMode(display=False) as counter:
            of(ids).sum().backward()
        return counter.get_total_flops()

    for blocks in ((0,), (0, 3), (0, 0, 1)):
        depth = Depth(blocks, (1.0,) * len(blocks))
        made = toy_model(layers=len(blocks))
        assert counted(depth, model) == counted(None, made)
        assert flops_per_token(model, 9) == flops_per_token(made, 9)
    model.depth = Depth((0, 1), (1.0, 1.0), frozenset({0}))
    two, frozen = toy_model(layers=2), flops_per_token(model, 9)
    weights = sum(layer.weight.numel() for layer in two.blocks[0].modules() if isinstance(layer, torch.nn.Linear))
    assert flops_per_token(two, 9) - frozen == 2 * weights
    for weight in model.blocks[0].parameters():
        weight.requires_grad_(False)
    assert flops_per_token(model, 9) == frozen


@EVERY
def test_flop_are_those_of_the_layers_that_take_part(method: Any, tmp_path: Path) -> None:
    model = toy_model(seed=1, layers=LAYERS)
    fit(method, log := Recorder(tmp_path), model=model)
    each = []
    for step in range(STEPS):
        model.depth = method.depth(LAYERS, step, STEPS)
        each.append(flops_per_token(model, 16))
    model.depth = None
    told = log.facts["flops_per_second"] / log.facts["tokens_per_second"]
    assert told == pytest.approx(sum(each[2:]) / (STEPS - 2))  # without the two that compile
    assert mean_flops_per_token(model, 16, method, STEPS) == pytest.approx(sum(each) / STEPS)
    assert each[-1] == flops_per_token(model, 16) == max(each) > min(each)
    assert mean_flops_per_token(model, 16, None, STEPS) == each[-1] and model.depth is None


def test_memory_is_measured_at_full_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model(seed=1, layers=LAYERS)
    one, two = (saved_activation_bytes(model, batches(model)(0), rows) for rows in (1, 2))
    room = int((one + 1.5 * (two - one) + 100 + 20 * model.num_parameters()) / 0.6)  # two rows and a half
    monkeypatch.setattr("lm.training.memory.memory_bytes", lambda device: room)
    said = {}
    for name, method in {**METHODS, "whole": None}.items():
        fit(method, log := Recorder(tmp_path / name), steps=8)
        said[name] = log.execution["positions"]
    assert set(said.values()) == {"40 at once"}


def test_the_whole_is_asked_for_and_left_as_it_was() -> None:
    model = toy_model(layers=LAYERS)
    model.depth = depth = Depth((0,), (1.0,))
    for block in model.blocks[1:]:
        block.requires_grad_(False)
    with at_full_depth(model):
        assert model.depth is None and all(weight.requires_grad for weight in model.parameters())
    assert model.depth == depth
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {
        name for name, _ in model.named_parameters() if not name.startswith(("blocks.1.", "blocks.2.", "blocks.3."))
    }


def test_what_does_not_go_with_a_growth_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^growth: matrices must be dense, not lora: set linear to dense$"):
        fit(Staged(), Recorder(tmp_path), recipe(linear=LoRA()))
    model = toy_model(layers=LAYERS)
    put_future_heads(model, 1, 0)
    with pytest.raises(ConfigError, match="^growth: the objective's heads stand on the last layer"):
        fit(Staged(), Recorder(tmp_path), model=model)
    ranks = DDP()
    ranks.model = model = toy_model(layers=LAYERS)
    ranks.optimizer = AdamW().build(list(model.named_parameters()), roles_of(model))
    with pytest.raises(ConfigError, match="^growth: layers come in as it trains: set TOKENMILL_PARALLEL to exact$"):
        Growing(Staged()).join(ranks, RunningAverage(Last()), STEPS)
