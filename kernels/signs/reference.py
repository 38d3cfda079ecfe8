"""What compress and decompress of signs mean, an entry at a time."""


def compress(values: list[float], block: int) -> tuple[list[int], list[float]]:
    """(bytes, scales) of a list whose length is a multiple of `block`, which is one of 8."""
    bits = [sum((values[i + j] >= 0) << j for j in range(8)) for i in range(0, len(values), 8)]
    scales = [sum(map(abs, values[i : i + block])) / block for i in range(0, len(values), block)]
    return bits, scales


def decompress(bits: list[int], scales: list[float], block: int) -> list[float]:
    """Plus or minus the scale of its block for each entry."""
    return [scales[i // block] * (1 if bits[i // 8] >> (i % 8) & 1 else -1) for i in range(8 * len(bits))]
