"""`make plan`: parameters, FLOP, peak memory and time of each training stage, before anything runs."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from flows.forecast.estimate import MACHINES, UTILIZATION, Forecast, Machine, advice
from flows.forecast.forecasts import HERE, forecast_of, machine_of, told_of, works_of
from flows.params.assignments import take_words
from flows.params.compose import check, compose
from tasks.about.work import Work
from tasks.core.config import ConfigError
from tasks.report.words import duration
from tasks.runner.answer import add_json_option, plain, print_json
from tasks.runner.columns import aligned
from tasks.runner.graph import goals_with_upstream, graph_of

HEAD = ["stage", "parameters", "steps", "tokens", "FLOP", "peak memory", "a backward holds", "time", "fits"]


def row_of(stage: str, work: Work, found: Forecast) -> list[str]:
    """Cells of a stage's row, below HEAD."""
    policy, held = work.recipe.recompute, f"{found.positions:,} positions" if found.positions else "a row"
    if policy != "auto":
        held += f", recompute: {policy}"
    elif not found.positions:
        held = "recomputed"
    return [
        stage, f"{found.parameters / 1e6:,.1f}M", f"{work.steps:,}", short(found.tokens), f"{found.flops:.2g}",
        f"{found.bytes / 1e9:.2f} GB", held, duration(found.seconds), "yes" if found.fits else "NO",
    ]  # fmt: skip


def short(number: float) -> str:
    """Number as text, in three digits or so: `12.3M`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def in_all(found: list[Forecast]) -> str:
    """Sentence with the time and FLOP of all stages that train."""
    seconds, flops = sum(one.seconds for one in found), sum(one.flops for one in found)
    return f"in all {duration(seconds)} and {flops:.2g} FLOP, data stages and evaluation not counted"


def on_the_host(stages: Iterable[str], found: list[Forecast]) -> list[str]:
    """A line for each stage that keeps weights in the memory of a GPU's host, beside its process."""
    kept = zip(stages, found, strict=True)
    return [
        f"{stage} keeps {one.host_bytes / 1e9:.2f} GB in the host's memory" for stage, one in kept if one.host_bytes
    ]


def assumptions(machine: Machine) -> str:
    """What the figures rest on, and how far off they may be."""
    share = UTILIZATION["gpu" if machine.gpu else "cpu"]
    if machine.gpu:
        return (
            f"{machine.name}: {machine.memory / 1e9:.0f} GB, {machine.flops / 1e12:.0f} TFLOP/s in bf16, of which training "
            f"is taken to reach {share:.0%}.\nMemory is that of the GPU's tensors, uncompiled: within 4% in "
            "pretraining of 110 million weights on an H200, which reached 38 to 41%."
        )
    return (
        f"{machine.name}: {machine.memory / 1e9:.0f} GB, {machine.flops / 1e9:.0f} GFLOP/s in fp32, of which training is "
        f"taken to reach {share:.0%}.\nMemory is that of the stage's process, uncompiled: within 6% in pretraining of 0.05 to "
        "80 million weights.\nTime follows the load: it is told for a machine that stays as busy as it was in the half "
        "second just now; rl and distill sample answers: within a factor of 2."
    )


def main() -> int:
    """Exit code: 0 everything fits, 1 a stage does not, 2 a mistake in what was asked for."""
    parser = argparse.ArgumentParser(prog="tokenmill plan", description=__doc__)
    take_words(parser)
    parser.add_argument("--machine", default=HERE, help=f"{', '.join(MACHINES)}; the one this runs on when absent")
    add_json_option(parser)
    asked, root = parser.parse_args(), Path.cwd()
    try:
        params = compose(root, asked.preset, asked.set)
        check(root, params)
        graph = graph_of(root, params)
        stages = (graph[address].name for address in goals_with_upstream(graph))
        machine, works = machine_of(asked.machine), works_of(params, stages)
        found = []
        for stage, work in works.items():
            with told_of(stage, work):
                found.append(forecast_of(work, machine))
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    lower = [
        None if one.fits else advice(stage, work.lower, one, machine)
        for (stage, work), one in zip(works.items(), found, strict=True)
    ]
    short_of = [line for line in lower if line]
    if asked.json:
        said = [
            {"stage": stage, "steps": work.steps, **plain(one), "lower": line}
            for (stage, work), one, line in zip(works.items(), found, lower, strict=True)
        ]
        print_json({"machine": machine, "stages": said, "fits": not short_of})
    else:
        rows = (row_of(stage, work, one) for (stage, work), one in zip(works.items(), found, strict=True))
        print("\n".join(aligned([HEAD, *rows])))
        print("\n".join([in_all(found), *on_the_host(works, found)]))
        print(assumptions(machine))
    for line in short_of:
        print(line, file=sys.stderr)
    return 1 if short_of else 0


if __name__ == "__main__":
    sys.exit(main())
