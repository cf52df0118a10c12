"""Union-find (Tarjan, 1975, with path halving) over pieces that touch at seams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Unions:
    """Sets of the elements ``0..count - 1``, each by itself at first. A set's name is its least element."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def join(self, pairs: NDArray[np.int64]) -> None:
        """Join the sets of the two elements of each row of ``(K, 2)``."""
        for first, second in np.unique(pairs, axis=0).tolist():
            one, other = self._root(first), self._root(second)
            self._parents[max(one, other)] = min(one, other)

    def roots(self) -> NDArray[np.int64]:
        """``(count,)``: the name of each element's set."""
        parents = np.array(self._parents, np.int64)
        while not np.array_equal(parents, further := parents[parents]):
            parents = further
        return parents

    def _root(self, element: int) -> int:
        parents = self._parents
        while parents[element] != element:
            parents[element] = parents[parents[element]]
            element = parents[element]
        return element
