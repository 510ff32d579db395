"""How one tensor's numbers lie in a GGUF and in a module of transformers.

Source: `permute` and `norm_shift` of llama.cpp's converter (`conversion/llama.py`, `gemma.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Layout:
    """What llama.cpp's converter does to a tensor.

    `heads` > 0: the rows of each of so many heads are paired for llama.cpp's rope of neighbours
    (transformers rotates the first half with the second). `shift` is added to the numbers:
    Gemma's norms multiply with 1 + weight in transformers and with the weight in llama.cpp.
    """

    heads: int = 0
    shift: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether the numbers are the same in both, in the same order."""
        return not self.heads and not self.shift

    def row_order(self, n_rows: int) -> NDArray[np.int64] | None:
        """Which row of the GGUF each row of transformers' is: `hf = gguf[order]`; None: its own."""
        import numpy as np

        if not self.heads:
            return None
        rows = np.arange(n_rows, dtype=np.int64)
        # gguf row (head, pair, half) is transformers' row (head, half, pair)
        return rows.reshape(self.heads, n_rows // self.heads // 2, 2).swapaxes(1, 2).reshape(-1)

    def inverse_order(self, n_rows: int) -> NDArray[np.int64] | None:
        """Which row of transformers' each row of the GGUF is: `gguf = hf[order]`; None: its own."""
        import numpy as np

        if not self.heads:
            return None
        rows = np.arange(n_rows, dtype=np.int64)
        return rows.reshape(self.heads, 2, n_rows // self.heads // 2).swapaxes(1, 2).reshape(-1)

    def to_hf(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Numbers of the GGUF as transformers has them (torch's order of axes in both)."""
        import numpy as np

        order = self.row_order(numbers.shape[0])
        found = numbers if order is None else numbers[order]
        return found - np.float32(self.shift) if self.shift else found

    def to_gguf(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """The way back. Where there is a shift, float32 may round: see `save_gguf`."""
        import numpy as np

        order = self.inverse_order(numbers.shape[0])
        found = numbers if order is None else numbers[order]
        return found + np.float32(self.shift) if self.shift else found


PLAIN = Layout()
