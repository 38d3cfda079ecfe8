"""Who teaches beside, or in the place of, the model in data/<distill.model> (base.py)."""

from tasks.distill.teachers.alone import Alone
from tasks.distill.teachers.ensemble import Ensemble
from tasks.distill.teachers.past import Past
from tasks.distill.teachers.stored import Stored
