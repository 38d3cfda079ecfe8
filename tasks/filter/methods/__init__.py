"""Rules: of N documents the reason to drop each, None for what stays; a reason names what is wrong."""

from tasks.filter.methods.c4 import C4
from tasks.filter.methods.contamination import Contamination
from tasks.filter.methods.difference import Difference
from tasks.filter.methods.fineweb import Fineweb
from tasks.filter.methods.gopher_quality import GopherQuality
from tasks.filter.methods.gopher_repetition import GopherRepetition
from tasks.filter.methods.keep_all import KeepAll
from tasks.filter.methods.language import Language
from tasks.filter.methods.perplexity import Perplexity
from tasks.filter.methods.personal_data import PersonalData
from tasks.filter.methods.quality_classifier import QualityClassifier
from tasks.filter.methods.rating import Rating
