"""Where a graph has nothing left to measure, and the sums over what one product was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localllm.engine.tensors import Tensor
from localllm.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GraphEnd:
    """Finds the node after which nothing is wanted but the output layer, and stops there.

    The first batch is computed whole and watched: the input of the product with the output's
    weights is that node, if it comes after everything wanted and its name is its own. Without
    its logits, a model with a large vocabulary and few layers takes half the time.
    """

    def __init__(self) -> None:
        self.weights = ""  # the output's, once known
        self.passed = False  # what is left of the graph, on other devices, is of no interest
        self._batches = 0
        self._seen: dict[int, tuple[int, bytes]] = {}  # address -> place in the graph, name
        self._names: dict[bytes, int] = {}
        self._last_wanted = -1
        self._n_wanted = self._expected = 0
        self._head = 0
        self._stop_name = b""
        self._at = 0

    def begin(self) -> None:
        """A new batch is about to be computed."""
        if self._batches == 1:
            self._learn()
        self._batches += 1
        self._n_wanted = 0
        self.passed = False
        self._at = 0

    def wants(self) -> None:
        """The node being asked about is one to measure."""
        self._n_wanted += 1
        self._last_wanted = len(self._seen)

    def is_head(self, name: str, source: int) -> None:
        """The node being asked about is the product of `source` with the output's weights."""
        if self._batches == 1:
            self.weights, self._head = name, source

    def stops_at(self, node: Tensor, address: int) -> bool:
        """Whether to have this node computed and then stop; every node is to be put here."""
        if self.passed:
            return True
        if self._batches == 1:
            self._seen[address] = (len(self._seen), node.name)
            self._names[node.name] = self._names.get(node.name, 0) + 1
            return False
        if not self._stop_name or node.name != self._stop_name or self._n_wanted != self._expected:
            return False
        self._at = address
        return True

    def reached(self, address: int) -> bool:
        """Whether the node just computed is the one to stop at."""
        self.passed = self._at != 0 and address == self._at
        return self.passed

    def _learn(self) -> None:
        place, name = self._seen.get(self._head, (-1, b""))
        # Unnamed nodes are called after their number, which another batch may shift.
        named = bool(name) and not name.startswith((b"node_", b"leaf_"))
        if place >= self._last_wanted and named and self._names[name] == 1:
            self._stop_name, self._expected = name, self._n_wanted
        self._seen, self._names = {}, {}


def squares_of(x: NDArray[np.float32], matrices: tuple[int, int]) -> NDArray[np.float32]:
    """Sums of the squares of x [i3, i2, rows, inputs] over the rows, one line a matrix.

    With fewer matrices than the inputs have in a dimension, they take turns, as ggml
    broadcasts them.
    """
    import numpy as np

    n3, n2, _, n_inputs = x.shape
    sums = np.zeros((matrices[0] * matrices[1], n_inputs), np.float32)
    for i3 in range(n3):
        for i2 in range(n2):
            matrix = (i3 % matrices[0]) * matrices[1] + i2 % matrices[1]
            sums[matrix] += np.einsum("ij,ij->j", x[i3, i2], x[i3, i2])
    return sums


def expert_squares(
    x: NDArray[np.float32], ids: NDArray[np.int32], n_experts: int, name: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sums [experts, inputs] and counts of x [1, tokens, slots or 1, inputs], where
    ids [1, 1, tokens, slots] says which expert each token's slot is."""
    import numpy as np

    if x.shape[0] != 1:
        raise EngineError(f"{name}: its input has more than three dimensions")
    chosen = ids[0, 0]
    n_tokens, n_slots = chosen.shape
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < n_experts):
        raise EngineError(f"{name}: the model chose an expert that it does not have")
    lanes = x.shape[2]  # one for all slots, or one a slot
    rows = np.square(x[0]).reshape(n_tokens * lanes, x.shape[3])
    places = np.arange(n_tokens)[:, None] * lanes + np.arange(n_slots)[None, :] % lanes
    # A sum over chosen rows is a product with the matrix that says how often each is chosen.
    share = np.zeros((n_experts, n_tokens * lanes), np.float32)
    np.add.at(share, (chosen.reshape(-1), places.reshape(-1)), np.float32(1))
    counts = np.bincount(chosen.reshape(-1), minlength=n_experts).astype(np.int64)
    return share @ rows, counts
