"""What a student begins as: `shape(teacher) -> ModelConfig` and `build(teacher, seed, beside) -> Decoder` (base.py), which
raises ConfigError for a teacher that it does not fit."""

from tasks.distill.students.fresh import Fresh
from tasks.distill.students.given import Given
from tasks.distill.students.layers import Layers
from tasks.distill.students.sliced import Sliced
from tasks.distill.students.whole import Whole
