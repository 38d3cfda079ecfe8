"""Which demonstrations a policy learns from beside its own answers: `selector()` gives a `DemonstrationSelector`,
which is told what became of each rollout and says what is shown with it."""

from tasks.rl.demonstrations.hybrid import Hybrid
from tasks.rl.demonstrations.interleaved import Interleaved
from tasks.rl.demonstrations.next_token import NextToken
from tasks.rl.demonstrations.unused import Unused
