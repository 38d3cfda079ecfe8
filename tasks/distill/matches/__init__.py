"""What of the student's inside is pulled towards the teacher's, and until when: `open(student, teacher, seed)` gives a
Matching, or None (base.py)."""

from tasks.distill.matches.features import Features
from tasks.distill.matches.holistic import Holistic
from tasks.distill.matches.unmatched import Unmatched
