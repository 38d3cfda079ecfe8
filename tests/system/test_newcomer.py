"""A method more and a stage more, as a newcomer makes them in a copy of the project: no test that there is complains.

Asked are the tests that every method of a package, or every stage, goes through, by the new one's name, and those that look at
all of them at once.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.workspaces.smoke import copy_project
from tasks.runner.git import git
from tests.flows.new_stage import copy_with_the_stage
from tests.project import ROOT


class New(NamedTuple):
    """package: its folder. name, class_, text: of the method and its file."""

    package: str
    name: str
    class_: str
    text: str


NEW = [
    New("tasks/preference/losses", "hinge", "Hinge", '''"""A squared hinge on the margin of a pair, made up for a test."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tasks.preference.losses.base import Logps, PreferenceLoss


class Hinge(PreferenceLoss):
    name: Literal["hinge"] = "hinge"
    needs_reference: ClassVar[bool] = True
    beta: float = Field(0.1, gt=0, description="of the margin")

    def __call__(self, logps: Logps) -> tuple[Tensor, Tensor]:
        chosen_P, rejected_P = logps.ratios
        margin_P = self.beta * (chosen_P - rejected_P)
        return (1 - margin_P).clamp(min=0).square(), margin_P.detach()
'''),
    New("lm/mixers", "nearby", "Nearby", '''"""Attention to the last tokens alone, of another default than that of sliding_window, made up for a test."""

from typing import Literal

from pydantic import Field

from lm.mixers.sliding_window import SlidingWindow


class Nearby(SlidingWindow):
    name: Literal["nearby"] = "nearby"  # type: ignore[assignment]
    window: int = Field(5, gt=0, description="tokens that a token sees, itself among them")
'''),
    New("lm/feed_forwards", "gelu", "Gelu", '''"""GELU between two matrices, Hendrycks and Gimpel 2016 (arXiv:1606.08415), for a test."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lm.parts import Part
from lm.shape import Shape


class Smooth(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.down = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Gelu(Part):
    """Two matrices, as relu_squared has them."""

    name: Literal["gelu"] = "gelu"
    into_stream = ("down",)

    def build(self, shape: Shape) -> Smooth:
        return Smooth(shape)
'''),
    New("lm/optimizers", "signum", "Signum", '''"""The sign of a momentum, Bernstein et al. 2018 (arXiv:1802.04434), for a test."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain


class SignumOptimizer(Optimizer):
    """Holds momentum."""

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        torch._foreach_lerp_(state["momentum"], grads, 1 - group["beta1"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, torch._foreach_sign(state["momentum"]), alpha=-group["lr"])


class Signum(Config):
    name: Literal["signum"] = "signum"
    lr: float = Field(1e-3, gt=0, description="what each weight moves by")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the momentum")
    weight_decay: float = Field(0.5, ge=0, description="times lr, per update; matrices only")

    def build(self, named_parameters: Named, roles: Roles) -> SignumOptimizer:
        """The optimizer of these weights."""
        settings = {"base_lr": self.lr, "slots": ("momentum",), **self.model_dump(exclude={"name"})}
        return SignumOptimizer(decayed_and_plain(named_parameters, roles), settings)
'''),
]  # fmt: skip
# What counts methods and packages without naming a package
COUNTING = [
    "tests/test_architecture.py::test_a_method_bears_the_name_of_its_file",
    "tests/test_architecture.py::test_every_import_of_a_stage_is_a_dependency",
    "tests/test_architecture.py::test_what_any_other_method_would_import_is_a_dependency",
    "tests/test_docstrings.py::test_docstrings_stand_by_themselves",
    "tests/flows/test_methods_named.py::test_every_method_of_a_package_can_be_chosen_and_says_what_it_is",
    "tests/flows/arena/test_not_held.py",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all of them."""
    root = copy_project(ROOT, tmp_path_factory.mktemp("project"))
    for new in NEW:
        add(root, new)
    return root


def add(root: Path, new: New) -> None:
    """Write the method's file, and its import line after the last one."""
    (root / new.package / f"{new.name}.py").write_text(new.text)
    init, module = root / new.package / "__init__.py", new.package.replace("/", ".")
    init.write_text(f"{init.read_text().rstrip()}\nfrom {module}.{new.name} import {new.class_}\n")


def unit_tests() -> list[Path]:
    """Files of tests but those of whole runs and of GPUs."""
    return [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path.relative_to(ROOT / "tests").parts[0] not in ("system", "gpu")
    ]


def of_methods(package: str) -> re.Pattern[str]:
    """How a test asks for every method of a package."""
    name = Path(package).name
    return re.compile(rf"methods_of\({name}\)|\b{name.upper()}\b")  # the latter those of tests/lm/made_parts.py


# How a test asks for every stage, and for every planted bug
OF_STAGES = re.compile(r"\bGRAPH\b|\b(read_graph|graph_of)\(ROOT\b|\bTRAINERS\b|\bMUTANTS\b|DECLARED|glob\('\*/stage")


def counting(asks: re.Pattern[str]) -> list[str]:
    """Tests that look at all methods or stages at once, by what their bodies ask for."""
    found = []
    for path in unit_tests():
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            by_itself = not any("parametrize" in ast.unparse(each) for each in node.decorator_list)
            if by_itself and asks.search("\n".join(map(ast.unparse, node.body))):
                found.append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def asking(asks: re.Pattern[str]) -> list[str]:
    """Files of tests that ask for every method or stage."""
    return [str(path.relative_to(ROOT)) for path in unit_tests() if asks.search(path.read_text())]


def pytest_of(root: Path, *words: str) -> int:
    """How many tests of a copy pass. Fails where one does."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *words]
    surroundings = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return int(re.findall(r"(\d+) passed", done.stdout)[-1])


def test_a_method_is_two_files(project: Path) -> None:
    git(project, "add", "-A")
    assert set(git(project, "diff", "--cached", "--name-only").split()) == {
        f"{new.package}/{name}.py" for new in NEW for name in ("__init__", new.name)
    }


def test_no_test_counts_methods_by_hand(project: Path) -> None:
    pytest_of(project, *COUNTING, *sorted({test for new in NEW for test in counting(of_methods(new.package))}))


@pytest.mark.parametrize("new", NEW, ids=lambda new: new.name)
def test_what_is_tried_of_every_method_is_tried_of_a_new_one_and_holds(new: New, project: Path) -> None:
    assert pytest_of(project, "-k", new.name, *asking(of_methods(new.package))) > 1


@pytest.fixture(scope="module")
def with_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a stage more, whose section is in params.yaml, as the next `make pipeline` has it."""
    root = copy_with_the_stage(tmp_path_factory.mktemp("stage"))
    surroundings = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-m", "flows.params.compose"], cwd=root, env=surroundings, check=True)
    return root


def test_no_test_counts_stages_by_hand(with_stage: Path) -> None:
    assert pytest_of(with_stage, *counting(OF_STAGES), "tests/flows/test_chains.py") > 20


def test_what_is_tried_of_every_stage_is_tried_of_a_new_one_and_holds(with_stage: Path) -> None:
    assert pytest_of(with_stage, "-k", "contrast", *asking(OF_STAGES)) > 5
