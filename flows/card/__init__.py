"""The card of a model: what it was made of, how, what it scores, and digests by which anybody can tell that it is so."""
