"""Embeddings of every kind of number that a store takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VECTOR_DIM = 8


def any_finite(count: int) -> NDArray[np.float32]:
    """Shape (count, 8): any bits that are a finite float32, among them subnormal ones, both zeros and both ends."""
    bits = np.random.default_rng(20_26).integers(0, 2**32, (count, VECTOR_DIM), dtype=np.uint32)
    vectors = bits.view(np.float32)
    vectors[~np.isfinite(vectors)] = 1.5
    ends = np.finfo(np.float32)
    smallest = float(ends.smallest_subnormal)
    vectors[0] = [0.0, -0.0, float(ends.max), float(ends.min), float(ends.tiny), smallest, -smallest, 0.1]
    return vectors
