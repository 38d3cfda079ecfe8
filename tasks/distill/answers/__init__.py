"""Who writes the answers that teacher and student are compared on: `(asked) -> ids of each answer` (base.py)."""

from tasks.distill.answers.demonstrations import Demonstrations
from tasks.distill.answers.student import Student
from tasks.distill.answers.teacher import Teacher
