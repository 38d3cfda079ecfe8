"""Feed-forward layers: `build(shape) -> module`, which maps x_BTD to y_BTD, each token by itself. lm/parts.py has what else one
says of itself."""

from lm.feed_forwards.experts import Experts
from lm.feed_forwards.relu_squared import ReluSquared
from lm.feed_forwards.swiglu import SwiGLU
