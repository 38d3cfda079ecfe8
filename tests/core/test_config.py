"""Mistakes in params.yaml: one line each, with the key as it stands in the file and the nearest valid name."""

from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from lm.config import Config, mistakes
from lm.strategies.named import strategy_of
from tasks.core.config import ConfigError, load, read_params, unknown_sections
from tasks.curriculum.stage import CurriculumConfig
from tasks.dedup.stage import DedupConfig
from tasks.ingest.stage import IngestConfig
from tasks.runner.graph import read_graph
from tasks.runner.rooms import config_of
from tests.project import ROOT, TINY


class Toy(Config):
    steps: int = Field(gt=0)
    rate: float = 0.5
    seed: int


class Even(Toy):
    @model_validator(mode="after")
    def _is_even(self) -> "Even":
        if self.steps % 2:
            raise ValueError("steps must be even")
        return self


class Both(Config):
    first: Even
    second: Even


EVEN, ODD = {"steps": 2, "seed": 0}, {"steps": 3, "seed": 0}


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Even, ODD, "steps must be even"),
        (Both, {"first": ODD, "second": EVEN}, "first: steps must be even"),
        (Both, {"first": ODD, "second": {"steps": 0, "seed": 0}}, "first: steps must be even; second.steps: Input should be greater than 0"),
        (Even, {"steps": "9", "seed": 0}, "steps: Input should be a valid integer"),
        (Even, [], "Input should be a valid dictionary or instance of Even"),
    ],
)  # fmt: skip
def test_mistakes_are_in_our_words_behind_the_key_of_each(kind: type[Config], values: object, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(values)
    assert mistakes(caught.value) == said


def test_a_strategy_that_does_not_fit_together_is_in_our_words() -> None:
    with pytest.raises(ConfigError) as caught:
        strategy_of({"name": "budget_forcing", "minimum": 9, "maximum": 3})
    assert "Value error" not in str(caught.value) and "strategy.budget_forcing: " in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"near": {"name": "minhsh"}}, "p: dedup.near.name: no method 'minhsh'; did you mean 'minhash'? (allowed: "),
        ({"near": {"name": "minhash", "bnds": 3}}, "p: dedup.near.bnds: unknown key; did you mean 'bands'?"),
        ({"near": {"name": "minhash", "bands": 0}}, "p: dedup.near.bands: input should be greater than 0 (got 0)"),
        ({"exact": {"name": "exact", "bands": 3}}, "p: dedup.exact.bands: unknown key (allowed: name) (got 3)"),
        ({"near": {}}, "p: dedup.near: needs a `name` that says which method"),
        ({"naer": {"name": "exact"}}, "p: dedup.naer: unknown key; did you mean 'near'?"),
        ("exact", "p: dedup: must be a mapping (got 'exact'); it configures the stage dedup"),
    ],
)
def test_methods(values: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("dedup", DedupConfig, {"dedup": values}, "p")
    assert message in str(caught.value)


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load("toy", Toy, {"toy": {"steps": "9", "rat": 1, "rate": True}, "seed": 0.5}, "p")
    assert sorted(line.partition(" (")[0] for line in str(caught.value).splitlines()) == [
        "p: seed: input should be a valid integer",
        "p: toy.rat: unknown key; did you mean 'rate'?",
        "p: toy.rate: input should be a valid number",
        "p: toy.steps: input should be a valid integer",
    ]


def test_places_in_lists_are_named() -> None:
    values = {"max_bytes": 5, "sources": [{"name": "stdlib"}, {"name": "jsonl"}]}
    with pytest.raises(ConfigError, match=r"ingest.sources.1.path: field required"):
        load("ingest", IngestConfig, {"ingest": values, "seed": 0})


def test_shared_sections_reach_the_configs_that_have_a_field_for_them() -> None:
    assert load("toy", Toy, {"toy": {"steps": 2}, "seed": 7}).seed == 7
    load("dedup", DedupConfig, {"dedup": TINY["dedup"], "seed": 7})


def test_sections_that_no_stage_reads() -> None:
    assert unknown_sections({"dedup": {}, "seed": 0, "quantise": {}}, ["dedup", "quantize"]) == [
        "params.yaml: quantise: no stage reads this section; did you mean 'quantize'? (allowed: checkpoint, conversations, dedup, gates, libraries, models, problems, quantize, references, seed)"
    ]


@pytest.mark.parametrize("key", ["size", "nfiles"])
def test_a_key_that_dvc_does_not_see_is_refused_where_any_key_may_stand(key: str) -> None:
    order = {"name": "mixture", "phases": [{"share": 1.0, "weights": {"stdlib": 0.5, key: 0.5}}]}
    with pytest.raises(ConfigError) as caught:
        load("curriculum", CurriculumConfig, {"curriculum": {**TINY["curriculum"], "order": order}, "seed": 0}, "p")
    assert str(caught.value) == (
        f"p: curriculum.order.phases.0.weights.{key}: DVC's run cache does not see keys called nfiles or size; call it otherwise"
    )


@pytest.mark.parametrize(
    ("text", "reason"), [("a: [", "not valid YAML"), ("- a", "must be a mapping"), (None, "no such file")]
)
def test_files_that_are_no_params(tmp_path, text: str | None, reason: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_params(path)


@pytest.mark.parametrize("stage", sorted({entry.name for entry in read_graph(ROOT).values()}))
def test_every_stage_takes_the_same_seeds(stage: str) -> None:
    """Half of a key of Philox: what one takes and another refuses would end a run in its middle."""
    if "seed" not in config_of(stage).model_fields:
        return
    found = TypeAdapter(Annotated[int, *config_of(stage).model_fields["seed"].metadata])
    assert [found.validate_python(seed) for seed in (0, 2**63 - 1)] == [0, 2**63 - 1]
    for seed in (-1, 2**63):
        with pytest.raises(ValidationError):
            found.validate_python(seed)
