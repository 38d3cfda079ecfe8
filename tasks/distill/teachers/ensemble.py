"""Several teachers at once: Hinton et al. 2015 (arXiv:1503.02531), section 3."""

from pathlib import Path
from typing import Any, Literal

from lm.checkpoint import device
from lm.config import ConfigError
from lm.inputs.hashed import folders_in
from lm.model import Decoder
from lm.model_folder import read_model
from lm.tokenizer import Tokenizer
from tasks.distill.teachers.base import FixedTeachers, Teachers, TeacherState

FOLDER = "data/teachers"


class Ensemble(Teachers):
    """The model in data/<distill.model>, which writes the answers, and every model in the folders of data/teachers, of any
    shape, with an equal share in the divergence. For forward_kl without top_k this has the gradient of the arithmetic mean of
    their softened distributions, as the paper has it. Differs from it: for other divergences it is the mean of divergences; no
    specialists."""

    name: Literal["ensemble"] = "ensemble"

    @property
    def folder(self) -> Path | None:
        return Path(FOLDER)

    def open(self, start: Decoder, tokenizer: Tokenizer, data: Path = Path("data"), asked: Any = None) -> TeacherState:
        folders = folders_in(Path(FOLDER))
        if not folders:
            raise ConfigError(
                f"distill.teachers: there is no folder of a model in {FOLDER}: put one there, or take alone"
            )
        models = [start]
        for folder in folders:
            try:
                model, own = read_model(folder)
            except ValueError as error:
                raise ConfigError(f"distill.teachers: {error}") from None
            if own.to_json() != tokenizer.to_json():
                raise ConfigError(f"distill.teachers: {folder} has another tokenizer than the model that is distilled")
            if model.config.vocab_size != start.config.vocab_size:
                rows = f"{model.config.vocab_size} tokens, the model that is distilled for {start.config.vocab_size}"
                raise ConfigError(f"distill.teachers: {folder} has rows for {rows}: leave it out")
            if model.config.context < start.config.context:
                raise ConfigError(
                    f"distill.teachers: {folder} reads {model.config.context} tokens, the model that is distilled "
                    f"{start.config.context}: leave it out"
                )
            models.append(model.to(device()).requires_grad_(False))
        return FixedTeachers(models)
