"""The comparison of time to a loss: what both sides share, what is counted, and when the gate refuses."""

import gzip
import json
import random
from pathlib import Path

import pytest
import torch

from benchmarks.contest import Sample, hold
from benchmarks.plain_pretraining import factor, plain_of, pretrain, put_back, training_stream, windows
from benchmarks.prose import prepare
from benchmarks.search import Account, Run, Settings, best, by_turns, fewest
from benchmarks.time_to_loss import (
    ATTEMPTS,
    CHOICES,
    MARGIN,
    OURS,
    PEER,
    PEER_CHOICES,
    SEEDS,
    TUNING_SEED,
    as_good,
    compare,
    ours,
    until,
)
from lm.model import Decoder, ModelConfig
from lm.tokenizer import Tokenizer
from tasks.evaluate.stage import held_out
from tasks.pretrain.objectives import NextToken

SHAPE = ModelConfig(vocab_size=300, width=16, layers=2, heads=2, kv_heads=2, ffn_width=24, context=32, qk_norm=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of forty documents in the manner of prose."""
    folder, draw = tmp_path_factory.mktemp("prose"), random.Random(0)
    words = ["the", "and", *("".join(draw.choices("abcdefgh", k=draw.randint(3, 8))) for _ in range(400))]
    texts = [" ".join(draw.choices(words, k=120)) for _ in range(40)]
    (folder / "source").mkdir()
    with gzip.open(folder / "source" / "prose.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    prepare(folder / "data", folder / "source", vocab_size=SHAPE.vocab_size, held_out_fraction=0.2)
    return folder / "data"


def law(gain: float, log: list[tuple[Settings, int]]) -> Run:
    """A side whose bits fall with tokens and with how close the rate is to 0.005; a second is a thousand tokens."""

    def run(settings: Settings, seed: int) -> Sample:
        log.append((settings, seed))
        bits = 3.0 - gain * settings["tokens"] / 600_000 + abs(settings["rate"] - 0.005) + 0.001 * seed
        values = {
            "time": settings["tokens"] / 1000,
            "tokens": settings["tokens"],
            "bits_per_byte": bits,
            "parameters": 7,
        }
        return Sample(values, "documents")

    return run


def test_without_prose_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        prepare(tmp_path / "data", tmp_path)


def test_both_arms_are_judged_by_the_same_documents_with_as_many_weights(data: Path) -> None:
    common = {"folder": str(data), "shape": SHAPE.model_dump(), "seed": 0, "tokens": 512, "batch": 128}
    settings = {"rate": 5e-3, "length": 16}
    own, documents = ours(**common, **settings, decay=0.8, momentum=0.9, threads=torch.get_num_threads())
    torch.use_deterministic_algorithms(False)  # which a stage asks for
    theirs, others = pretrain(**common, **settings, final=0.1, beta2=0.95, compiled=False)
    assert documents == others
    assert own["parameters"] == theirs["parameters"] == Decoder(SHAPE).num_parameters()
    assert own["tokens"] == theirs["tokens"] == 512
    assert 0 < own["bits_per_byte"] < 8 and 0 < theirs["bits_per_byte"] < 8


def test_nobody_trains_on_what_is_held_out(data: Path) -> None:
    stream = training_stream(data / "tokenize").tolist()
    tokenizer = Tokenizer.load(data / "tokenize")
    documents = held_out(data / "tokenize", tokenizer)
    assert documents
    read = tokenizer.decode(stream)
    assert not any(document.text in read for document in documents)


def test_the_plain_decoder_is_ours_by_other_names() -> None:
    decoder, ids = Decoder(SHAPE, seed=3), torch.arange(66).view(2, 33)
    plain = plain_of(decoder)
    loss, _ = NextToken()(decoder, ids, None, 64)
    # two orders of the same fp32 sums
    torch.testing.assert_close(plain(ids[:, :-1], ids[:, 1:]), loss, atol=0, rtol=1e-5)
    other = Decoder(SHAPE, seed=4)
    put_back(plain, other)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), decoder.parameters(), strict=True))


def test_the_peers_rate_by_hand() -> None:
    # 40 steps of which 2 warm up, in thirds; then 38 from 1 down half a cosine to 0.1, which is at 0.55 after 19
    assert [factor(step, 40) for step in (0, 1, 2, 21, 40)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.55, 0.1])


def test_windows_are_stretches_of_the_stream() -> None:
    stream = torch.arange(50).numpy()
    ids_BN = windows(stream, 200, 7, torch.Generator().manual_seed(0))
    assert ids_BN.shape == (200, 8)
    assert (ids_BN.diff(dim=1) == 1).all()
    assert (int(ids_BN.min()), int(ids_BN.max())) == (0, 49)


@pytest.mark.parametrize(("goal", "found"), [(1, 1), (4, 4), (7, 7), (9, 7)])
def test_the_search_finds_the_smallest_budget_in_three_questions(goal: int, found: int) -> None:
    asked: list[int] = []

    def reaches(budget: int) -> bool:
        asked.append(budget)
        return budget >= goal

    assert fewest(range(1, 8), reaches) == found
    assert asked[0] == 4 and len(asked) == 3


def test_the_best_setting_and_its_cost() -> None:
    account = Account("ours", law(1.0, []))
    grid = [{"tokens": 1000, "rate": rate} for rate in (0.001, 0.005, 0.01)]
    assert best(account, grid, 0)[0] == grid[1]
    assert account.cost() == {"time": 3.0, "tokens": 3000, "runs": 3}


def test_both_sides_search_with_as_many_runs_on_a_seed_of_their_own() -> None:
    own: list[tuple[Settings, int]] = []
    theirs: list[tuple[Settings, int]] = []
    contest, _ = compare(law(1.6, own), law(1.0, theirs), law(1.0, []), 600_000)
    results = {(r.impl.split()[0], r.metric): r for r in hold(contest)}
    assert all(r.gate == "passed" and r.runs == len(SEEDS) for r in results.values())
    tuning = [[run for run in side if run[1] == TUNING_SEED] for side in (own, theirs)]
    assert len(tuning[0]) == len(tuning[1]) == results["ours", "tuning_runs"].value
    assert TUNING_SEED not in SEEDS and len(own) == len(theirs) == len(tuning[0]) + len(SEEDS)
    assert results["ours", "tuning_runs"].ratios == [1.0] * 3
    # the peer's best rate is 0.0006 off, so ours needs (1 - 0.0006 + MARGIN) / 1.6 = 0.63 of its tokens: the share of 0.68
    assert results["ours", "time"].ratios == pytest.approx([1 / 0.68] * 3)
    spent = [sum(settings["tokens"] for settings, _ in side) / 1000 for side in tuning]
    expected = (spent[1] + 600) / (spent[0] + 408)
    assert results["ours", "time_with_tuning"].ratios == pytest.approx([expected] * 3)
    assert MARGIN > 0


def test_a_miss_is_made_good_by_a_longer_run_whose_cost_is_added() -> None:
    settings = {"tokens": 100_000, "rate": 0.005}
    reached = until(law(1.0, []), settings, 0, 3.0 - 1.2 / 6)
    assert reached.values["tokens"] == 100_000 + 125_000 and reached.values["time"] == pytest.approx(225.0)
    missed = until(law(1.0, []), settings, 0, 1.0)
    assert missed.values["tokens"] == pytest.approx(100_000 * sum(ATTEMPTS))


def test_a_side_that_stays_worse_has_no_figure() -> None:
    results = [r for contest in compare(law(0.5, []), law(1.0, []), law(1.0, []), 600_000) for r in hold(contest)]
    assert all(r.value is None and r.gate.startswith("failed: seed 0: bits per byte of ours") for r in results)


def test_ours_has_to_be_as_good_as_the_better_of_the_peers() -> None:
    own: list[tuple[Settings, int]] = []
    results = [r for c in compare(law(1.6, own), law(1.0, []), law(1.1, []), 600_000) for r in hold(c)]
    assert all(r.gate == "passed" for r in results)
    # the first attempt, at 0.68, has 1.088 of gain where about 1.1 are asked for; the second has 1.25 of its tokens
    assert [settings["tokens"] for settings, seed in own if seed == SEEDS[0]] == [408_000, 510_000]
    assert {r.value for r in results if r.impl.startswith("ours") and r.metric == "tokens"} == {408_000 + 510_000}
    assert {r.impl.split()[1] for r in results if r.impl.startswith("plain")} == {"eager", "compiled"}


def test_the_gate_names_the_seed_and_why() -> None:
    equal = [("a", 2.0), ("a", 2.0), ("a", 2.0)]
    assert as_good(equal, equal) == ""
    assert as_good([*equal[:2], ("a", 2.1)], equal) == "seed 2: bits per byte of ours 2.1000, peer 2.0000"
    assert as_good([*equal[:1], ("a", float("nan")), equal[2]], equal).startswith("seed 1: bits per byte")
    assert as_good([("b", 1.0), *equal[1:]], equal) == "seed 0: ours was judged by documents b, peer by a"
    with pytest.raises(ValueError):
        as_good(equal[:2], equal)


def test_a_search_by_turns_tries_one_thing_at_a_time_and_keeps_what_helps() -> None:
    log: list[tuple[Settings, int]] = []
    choices = {"rate": (0.001, 0.005, 0.01), "tokens": (1000, 2000)}
    found, bits = by_turns(law(1.0, log), {"tokens": 1000, "rate": 0.001}, choices, 0)
    assert found == {"tokens": 2000, "rate": 0.005} and bits == pytest.approx(3.0 - 2000 / 600_000)
    assert [tuple(settings.values()) for settings, _ in log] == [
        (1000, 0.001),
        (1000, 0.005),
        (1000, 0.01),
        (2000, 0.005),
    ]


def test_both_sides_are_tuned_over_the_same() -> None:
    """Rate, batch and length by name; the decay of the rate and the memory of the optimizer by what each side calls them."""
    pairs = {"final": "decay", "beta2": "momentum"}
    assert [pairs.get(name, name) for name in PEER_CHOICES] == list(CHOICES)
    for start, choices in ((PEER, PEER_CHOICES), (OURS, CHOICES)):
        assert start.keys() == choices.keys() and all(start[name] in values for name, values in choices.items())
        assert min(choices["rate"]) < start["rate"] < max(choices["rate"])
