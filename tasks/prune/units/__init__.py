"""What heads and channels are worth: `(weight_OI, inputs or None, width) -> a score of each I / width inputs` of the matrix
that reads them."""

from tasks.prune.units.activation import Activation
from tasks.prune.units.magnitude import Magnitude
