"""What heads and channels are worth: `(weight_OI, inputs or None, width) -> a score of each I / width inputs` of the matrix
that reads them."""

from lm.cutting.units.activation import Activation
from lm.cutting.units.magnitude import Magnitude
