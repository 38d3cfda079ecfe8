"""Norms of the residual stream: `build(width, eps) -> module`, which maps (x, more) to (x + more, its norm); without more,
to x and its norm. `hugging_face_config()` gives what Hugging Face's config.json says of it, or raises ValueError."""

from lm.norms.layer_norm import LayerNorm
from lm.norms.rms_norm import RMSNorm
