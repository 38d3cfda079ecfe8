"""What weights are for is asked of the module that has them."""

from lm.linears import Dense
from lm.linears.base import roles_of
from tests.lm.models import toy_model
from tests.project import ROOT


def test_what_trains_asks_modules_what_weights_are_for() -> None:
    """A number of dimensions or a name says it no more."""
    files = [*(ROOT / "lm" / "optimizers").glob("*.py"), *(ROOT / "lm" / "training").rglob("*.py")]
    told = [file.name for file in files if ".ndim" in file.read_text() or '"head"' in file.read_text()]
    assert len(files) > 30 and told == []


def test_roles_of_a_dense_model() -> None:
    model = toy_model(tied=False, qkv_bias=True)
    model.reparametrize(Dense())
    roles = roles_of(model)
    assert [roles[name] for name in ("embedding.weight", "head.weight")] == ["table", "output"]
    assert roles["blocks.1.attention.query.weight"] == roles["blocks.0.ffn.down.weight"] == "matrix"
    for name in ("norm.weight", "blocks.0.attention.query.bias", "blocks.0.attention.query_norm.weight"):
        assert roles[name] == "vector"
