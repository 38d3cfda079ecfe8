"""`tokenmill rates`: which learning rates a training stage can have with its own parameters, model and data: a range test, the
largest constant rate at which it begins to learn, and its sharpness. It trains for a few steps, elsewhere; nothing is kept."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lm.config import Config, ConfigError
from lm.curvature import sharpness_of
from lm.range_test import Rising, bisect, has_learned, hopeless, largest_stable, steepest
from lm.training.batch import Batch
from lm.training.guard import Diverged
from lm.training.parallel.base import Parallel
from lm.training.recipe import Recipe
from tasks.core.config import load, read_params
from tasks.core.log import Log, Stopped
from tasks.core.process import use_threads
from tasks.runner.answer import add_json_option, one_or_more, print_json, stdout_to_stderr
from tasks.runner.columns import aligned
from tasks.runner.rooms import config_of, room_of


class Trial(Log):
    """Some steps of a stage: (rate, loss) of each, and the sharpness before those of `at`. iterations: of Lanczos."""

    def __init__(self, scratch: Path, steps: int, at: Sequence[int] = (), iterations: int = 0) -> None:
        self.scratch, self._steps, self._at, self._iterations = scratch, steps, at, iterations
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.sharp: list[dict[str, float]] = []
        self.total = steps

    def __call__(self, step: int, **values: float) -> None:
        self.rates.append(values["learning_rate"])
        self.losses.append(values["loss"])
        self.stopping = len(self.losses) >= self._steps or hopeless(self.losses)

    def progress(self, done: int, total: int, unit: str = "step", **shown: float) -> None:
        self.total = total

    def watch(self, step: int, batch: Batch, parallel: Parallel, positions: int) -> None:
        if step in self._at:
            self.sharp.append({"step": step, **sharpness_of(parallel, batch, positions, self._iterations)})


class Trials:
    """Trials of a stage, each from its start, in folders of their own. Raises ConfigError for a stage that does not train,
    and for one whose loss has no level."""

    def __init__(self, stage: str, params: dict[str, Any], data: Path, folder: Path) -> None:
        room = room_of(stage) if stage.isidentifier() else None
        if room is None or not issubclass(config_of(stage), Recipe):
            raise ConfigError(f"{stage}: no stage that trains a model")
        self._run, self._stage, self._data, self._folder, self._number = room.run, stage, data, folder, 0
        kind: Any = config_of(stage)
        if not kind.has_level:
            raise ConfigError(f"{stage}: its loss has no level by which rates could be compared: ask of another stage")
        self._config = load(stage, kind, params)
        use_threads(self._config.deterministic)

    def __call__(self, schedule: Config | None, trial: partial[Trial]) -> Trial:
        """The trial, made with this schedule in the place of the stage's own, or with that. Raises ConfigError where the stage
        would, and for data that are not there."""
        self._number += 1
        place = self._folder / str(self._number)
        (place / "scratch").mkdir(parents=True)
        (place / "data" / self._stage).mkdir(parents=True)
        for path in self._data.iterdir():
            if path.name != self._stage:
                (place / "data" / path.name).symlink_to(path.resolve())
        changes = {"compile": "off"} | ({"schedule": schedule} if schedule else {})
        made = trial(place / "scratch")
        try:
            self._run(self._config.model_copy(update=changes), place / "data", made)
        except (Stopped, Diverged):
            pass
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename}: is not there: run what {self._stage} needs first") from None
        return made


def found_of(trials: Trials, asked: argparse.Namespace) -> dict[str, Any]:
    """The answer for programs."""
    lowest, highest, steps = asked.lowest, asked.highest, asked.steps
    rising = trials(Rising(lowest=lowest, highest=highest, steps=steps), partial(Trial, steps=steps))
    if not rising.losses:
        raise ConfigError(f"no step has a finite loss at {lowest:g} of the rate: give a smaller --lowest")

    def learns(factor: float) -> bool:
        constant = Rising(lowest=factor, highest=factor, steps=asked.within)
        made = trials(constant, partial(Trial, steps=asked.within))
        return has_learned(made.losses, min(asked.within, made.total))

    # of the recipe's own rate, which is that of the first group at factor 1
    own = rising.rates[0] / lowest
    maximal = bisect(learns, lowest, highest, asked.tries)
    at = sorted(set(asked.at))
    own_way = trials(None, partial(Trial, steps=at[-1] + 1, at=at, iterations=asked.iterations))
    return {
        "rate": own,
        "curve": [{"rate": r, "loss": loss} for r, loss in zip(rising.rates, rising.losses, strict=True)],
        "largest_stable": largest_stable(rising.rates, rising.losses),
        "steepest": steepest(rising.rates, rising.losses),
        "maximal_initial": None if maximal is None else maximal * own,
        "sharpness": own_way.sharp,
    }


def lines_of(found: dict[str, Any]) -> list[str]:
    """Lines of an answer for a reader."""
    curve = [(f"{one['rate']:.3g}", f"{one['loss']:.4f}") for one in found["curve"]]
    stable, maximal = (
        "none of the range" if found[key] is None else f"{found[key]:.3g}"
        for key in ("largest_stable", "maximal_initial")
    )
    lines = aligned([("rate", "loss"), *curve])
    lines += [
        "",
        f"largest stable rate: {stable} (the loss falls fastest at {found['steepest']:.3g})",
    ]
    lines += [f"largest rate that begins to learn: {maximal}"]
    lines += [f"the rate of params.yaml: {found['rate']:.3g}", ""]
    for one in found["sharpness"]:
        adam = f", preconditioned {one['preconditioned']:.4g}" if "preconditioned" in one else ""
        lines.append(f"step {one['step']}: sharpness {one['sharpness']:.4g}{adam}")
    return lines


def main(given: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 for what cannot be asked."""
    parser = argparse.ArgumentParser(prog="tokenmill rates", description=__doc__)
    parser.add_argument("stage", help="a stage that trains, as in params.yaml")
    parser.add_argument("--steps", type=one_or_more, default=100, help="of the range test (100)")
    parser.add_argument(
        "--lowest", type=float, default=0.01, help="factor of the stage's rate that it begins with (0.01)"
    )
    parser.add_argument("--highest", type=float, default=100.0, help="and ends with (100)")
    parser.add_argument("--within", type=one_or_more, default=20, help="steps in which a constant rate must learn (20)")
    parser.add_argument("--tries", type=one_or_more, default=5, help="halvings of the range for it (5)")
    parser.add_argument(
        "--at", type=int, nargs="+", default=[0, 10, 20], help="steps before which sharpness is measured (0 10 20)"
    )
    parser.add_argument("--iterations", type=one_or_more, default=12, help="of Lanczos, two gradients each (12)")
    add_json_option(parser)
    asked = parser.parse_args(given)
    try:
        if not 0 < asked.lowest < asked.highest or min(asked.at) < 0:
            raise ConfigError("--lowest must be above 0 and below --highest, and no step of --at below 0")
        with stdout_to_stderr(asked.json), tempfile.TemporaryDirectory() as folder:
            found = found_of(Trials(asked.stage, read_params(), Path("data"), Path(folder)), asked)
    except ConfigError as error:
        print(f"rates: {error}", file=sys.stderr)
        return 2
    print_json(found) if asked.json else print("\n".join(lines_of(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
