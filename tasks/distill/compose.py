"""What is made of distill's section when parameters are composed."""

from typing import Any


def composed(section: dict[str, Any]) -> dict[str, Any]:
    """The section with the folder of data/ that its teachers read, which dvc.yaml names an edge by: stored targets are made by
    a stage, other models are the user's."""
    teachers = section.get("teachers")
    stored = isinstance(teachers, dict) and teachers.get("name") == "stored"
    return {**section, "beside": "lessons" if stored else "teachers"}
