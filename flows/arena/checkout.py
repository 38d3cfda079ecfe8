"""What the studies of one checkout share, however many are held: it is read once."""

from pathlib import Path

from flows.arena.keys import Keys
from flows.arena.outcomes import Outcomes
from flows.params.compose import Composer


class Checkout:
    """compose(preset, assignments): parameters. keys: of runs. outcomes: what is known, in the file of this folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.compose, self.keys, self.outcomes = Composer(root), Keys(root), Outcomes(folder)
