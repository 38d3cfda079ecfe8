"""What quantization asks of its model: that its methods take every matrix, and that what it calibrates with fits."""

from collections.abc import Iterator

import torch

from lm.config import ConfigError
from lm.linears.base import roles_of
from lm.model import Decoder
from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room
from tasks.about.prompts import check_bare
from tasks.about.sections import Sections

# GPTQ inverts a matrix of the square of a weight's columns: 0.2 s and 0.1 GB at this many.
COLUMNS_TRIED = 2048


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of quantize ask of others and that does not hold."""
    yield from check_bare(sections, "quantize")
    config = sections["quantize"]
    few = config.calibration
    if few.problems and config.needs_calibration:
        key = "quantize.calibration.max_new_tokens"
        yield from check_room(key, config.problems, ("sft",), few.max_new_tokens, sections, config.model)
    try:
        config.width.check(config.method)
    except ConfigError as error:
        yield Finding("params.yaml", str(error), "or take width same")
        return
    yield from packable(sections)


def packable(sections: Sections) -> Iterator[Finding]:
    """Each matrix of the model, by its number of columns, goes through its method: two rows of it, which is cheap."""
    config, shape = sections["quantize"], sections.start_shape("quantize")
    with torch.device("meta"):
        model = Decoder(shape.model_copy(update={"layers": len(shape.pattern) or 1}))
    roles, weights = roles_of(model), dict(model.named_parameters())
    matrices = {name: weight for name, weight in weights.items() if roles[name] != "vector"}
    shapes = {(config.method_of(name), weight.shape[1]): name for name, weight in matrices.items()}
    for (method, columns), name in shapes.items():
        if columns > COLUMNS_TRIED:
            continue
        try:
            method(torch.linspace(-1, 1, 2 * columns).view(2, columns), None).dequantize()
        except (ValueError, RuntimeError) as error:
            slot = "embedding" if method is config.embedding else "method"
            yield Finding(
                f"params.yaml: quantize.{slot}",
                f"{name} of {columns} columns: {error}",
                "choose another method or group",
            )
