"""Filters: `(texts) -> N reasons`, None for what stays; a reason names what is wrong."""

from tasks.filter.methods.gopher_quality import GopherQuality
from tasks.filter.methods.gopher_repetition import GopherRepetition
from tasks.filter.methods.keep_all import KeepAll
