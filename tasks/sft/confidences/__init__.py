"""How much each conversation counts beside what its weights say: `(conversations, stated_N, model, pad_id) -> confidence_N`,
from 0 to 1, once before training.

stated_N is what rows say of themselves, NaN where nothing. model: the one that fine-tuning begins with, None where it is only
looked at what would be learned. What has the confidence 0 is left out.
"""

from tasks.sft.confidences.certain import Certain
from tasks.sft.confidences.likelihood import Likelihood
from tasks.sft.confidences.stated import Stated
