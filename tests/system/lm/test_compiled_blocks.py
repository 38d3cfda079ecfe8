"""Blocks as inductor compiles them, which is what a long run computes with."""

from tests.lm.test_precision import compiled_blocks_are_as_plain_ones


def test_inductors_blocks_give_the_loss_and_gradient_of_plain_ones() -> None:
    compiled_blocks_are_as_plain_ones()
