"""What quantization takes on disk: its model, of a byte a weight at most."""

from tasks.about.sections import Sections
from tasks.about.training import model_bytes
from tasks.about.work import StageNeeds


def needs(sections: Sections) -> StageNeeds:
    """Whatever the method."""
    return StageNeeds(model_bytes(sections.shape("quantize"), each=1.0))
