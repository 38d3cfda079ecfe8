"""How models are trained: the loop, its state on disk, plans and conversations."""
