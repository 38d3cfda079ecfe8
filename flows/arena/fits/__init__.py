"""Laws fitted over the runs of a study: `(numbers of the runs) -> Law`.

Arguments are columns of equal length, a number a run (or a point of a curve), finite and above 0, in any order: the result
is the same to the bit. A `Law` has the parameters by name, `predict` and, of each of the two, an interval. Intervals are by
bootstrap over residuals (`residuals.py`: the runs stay where they are, their errors are drawn anew, with a fixed seed) and
percentiles at `level`. What cannot be fitted raises CannotFit with one line: too few points, all equal, no decrease. A law
is what its paper says, or its file says what differs.
"""

from flows.arena.fits.compute_gain import ComputeGain
from flows.arena.fits.critical_batch import CriticalBatch
from flows.arena.fits.depth import Depth
from flows.arena.fits.extrapolation import Extrapolation
from flows.arena.fits.parameters import Parameters
from flows.arena.fits.seconds import Seconds
from flows.arena.fits.tokens import Tokens
