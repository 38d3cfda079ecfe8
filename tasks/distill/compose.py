"""What is made of distill's section when parameters are composed."""

from typing import Any

from tasks.core.config import CHECKPOINT


def composed(section: dict[str, Any]) -> dict[str, Any]:
    """The section with the folders of data/ that its teachers and its student read, by which dvc.yaml names edges: stored
    targets are made by a stage, other models that teach are the user's; a student that begins as no model of its own reads the
    teacher."""
    teachers, student = section.get("teachers"), section.get("student")
    stored = isinstance(teachers, dict) and teachers.get("name") == "stored"
    given = isinstance(student, dict) and student.get("name") == "given"
    learner = student.get("model", CHECKPOINT) if given and isinstance(student, dict) else section.get("model")
    return {**section, "beside": "lessons" if stored else "teachers", "learner": learner}
