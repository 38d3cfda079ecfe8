"""Distillation in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, rows


def toy(params: Params, folder: Path) -> Params:
    """Two steps of a student of one layer, or of the model itself where it is to be."""
    section = params["distill"]
    texts = rows(section, 1) if section.get("corpus_sequences", 4) else 0
    teachers = section.get("teachers", {"name": "alone"})
    if teachers.get("name") in ("ensemble", "stored"):  # of models with the user's tokenizer, and of whole steps
        teachers = {"name": "alone"}
    return {
        "steps": 2,
        "batch": rows(section, 2),
        "corpus_sequences": texts,
        "student": few_layers(section.get("student", {})),
        "teachers": teachers,
        "beside": "teachers",
        "compile": "off",
    }


def few_layers(student: Params) -> Params:
    """The student of one layer; in the place of a model of its own one of the teacher's."""
    name = student.get("name")
    if name in ("layers", "fresh", "sliced", "given"):
        return {"name": "layers" if name == "given" else name, "layers": 1}
    return student
