"""Importance matrices: how strongly each input of each weight matrix is used, as llama-imatrix
measures it.

For every matrix product of the graph whose weights are a layer's (or, when asked for, the
output's), the squares of the inputs are summed over all tokens, and the tokens counted; for
experts, over the tokens that were sent to each. The rules are those of llama.cpp's
tools/imatrix (collect_imatrix), with two savings that change no number: products that share
their input share its sums, and the output layer is not computed, since nothing reads logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.engine import tensors
from localllm.engine.batching import TokenBatch
from localllm.engine.imatrix.graph import GraphEnd, expert_squares, squares_of
from localllm.engine.tensors import Tensor, weight_name
from localllm.errors import DamagedFile, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.context import Context
    from localllm.engine.tokenizer import Tokenizer

# Fewer rows than this in a product are no text but a step of generation (llama.cpp's rule).
LEAST_ROWS = 16
# A token embedding is multiplied with where it serves as output too (a tied one).
OUTPUTS = ("output.weight", "token_embd.weight")


@dataclass(eq=False)
class Sums:
    """`squares`: float32 [values], one row of inputs an expert or matrix; `counts`: int64, how
    many tokens went in, one number an expert, or a single one."""

    squares: NDArray[np.float32]
    counts: NDArray[np.int64]


class Collector:
    """An eval hook that sums. Give `hook` to the context's options and call `begin` before each
    batch, which must be computed in one piece (n_batch = n_ubatch).

    What was summed counts from `commit` on, so that a chunk of text can be given up halfway:
    `entries` always holds whole ones. `output` takes in the output's weights, or the token
    embedding where that serves as output. `entries` given, they are added to.
    """

    def __init__(self, *, output: bool = False, entries: Mapping[str, Sums] | None = None) -> None:
        tensors.check_layout()
        self.output = output
        self.entries: dict[str, Sums] = dict(entries or {})
        self.whole = True  # False only within `commit`, should Ctrl-C end it
        self._pending: dict[str, Sums] = {}
        self._mul_mat = tensors.op_number("MUL_MAT")
        self._mul_mat_id = tensors.op_number("MUL_MAT_ID")
        self._last = _Shared()
        self._end = GraphEnd()

    def begin(self) -> None:
        """A new batch: nothing that was seen in the last one is valid any more."""
        self._last = _Shared()
        self._end.begin()

    def commit(self) -> None:
        """Let what was summed since the last time count."""
        self.whole = False
        for name, new in self._pending.items():
            old = self.entries.get(name)
            if old is None:
                self.entries[name] = Sums(new.squares.copy(), new.counts.copy())
                continue
            if old.squares.size != new.squares.size or old.counts.size != new.counts.size:
                raise UsageProblem(
                    f"{name} has {old.squares.size} inputs in the matrix that is continued and "
                    f"{new.squares.size} in this model: it is of another model"
                )
            old.squares += new.squares
            old.counts += new.counts
        self.whole = True
        self.discard()

    def discard(self) -> None:
        """Forget what was summed since the last commit."""
        for new in self._pending.values():
            new.squares[:] = 0
            new.counts[:] = 0

    def hook(self, address: int, ask: bool) -> bool:
        """See EvalHook in options."""
        node = Tensor.from_address(address)
        if ask:
            if address == self._last.source:
                self._last = _Shared()
            return self._wanted(node, address)
        if self._end.passed:
            return False
        if self._end.reached(address):
            if self.output:
                self._dense(self._end.weights, address, (1, 1))
            return False
        weights = Tensor.from_address(node.src[0])
        name = weight_name(weights.name)
        if node.op == self._mul_mat_id:
            self._experts(name, node, int(weights.ne[2]))
        else:
            self._dense(name, node.src[1], (weights.ne[3], weights.ne[2]))
        return True

    def _wanted(self, node: Tensor, address: int) -> bool:
        if self._end.stops_at(node, address):
            return True
        if node.op == self._mul_mat_id:
            self._end.wants()
            return True
        if node.op != self._mul_mat:
            return False
        name = weight_name(Tensor.from_address(node.src[0]).name)
        rows = Tensor.from_address(node.src[1])
        if rows.ne[1] < LEAST_ROWS or rows.type != tensors.GGML_TYPE_F32:
            return False
        if name in OUTPUTS:
            self._end.is_head(name, node.src[1])
            return self.output
        if not name.startswith("blk."):
            return False
        self._end.wants()
        return True

    def _dense(self, name: str, address: int, matrices: tuple[int, int]) -> None:
        """A product with one matrix, or with `matrices` [ne3, ne2] of them over dimensions
        that broadcast."""
        key = (address, 0, *matrices)
        if self._last.key != key:
            x = tensors.read(address)
            n_rows = x.shape[0] * x.shape[1] * x.shape[2]
            counts = n_rows // (matrices[0] * matrices[1])
            self._remember(key, squares_of(x, matrices), counts)
        self._add(name, self._last.squares, self._last.counts, 1)

    def _experts(self, name: str, node: Tensor, n_experts: int) -> None:
        """A product in which each token goes to experts of its own."""
        key = (int(node.src[1]), int(node.src[2]), n_experts, 0)
        if self._last.key != key:
            x, ids = tensors.read(key[0]), tensors.read_ids(key[1])
            self._remember(key, *expert_squares(x, ids, n_experts, name))
        self._add(name, self._last.squares, self._last.counts, n_experts)

    def _remember(self, key: tuple[int, int, int, int], squares: Any, counts: Any) -> None:
        self._last = _Shared(key, squares, counts)

    def _add(self, name: str, squares: NDArray[np.float32], counts: Any, n_counts: int) -> None:
        import numpy as np

        flat = squares.reshape(-1)
        if not np.isfinite(flat).all():
            raise DamagedFile(
                f"what goes into {name} is not finite: the model's weights are damaged, or its "
                "numbers overflow",
                "localllm verify MODEL",
            )
        entry = self._pending.get(name)
        if entry is None:
            entry = self._pending[name] = Sums(
                np.zeros(flat.size, np.float32), np.zeros(n_counts, np.int64)
            )
        entry.squares += flat
        entry.counts += counts
        # A copy between devices is no node of the graph, so that nobody would tell when it
        # holds something else.
        if Tensor.from_address(self._last.source).op == tensors.OP_NONE:
            self._last = _Shared()


@dataclass(frozen=True, eq=False)
class _Shared:
    """The sums of the input read last: q, k and v have the same one, and so do gate and up."""

    key: tuple[int, int, int, int] = (0, 0, 0, 0)
    squares: Any = None
    counts: Any = None

    @property
    def source(self) -> int:
        return self.key[0]


# --- over a text --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chunks:
    """A text's tokens [chunks, n_ctx], the first of each chunk replaced by BOS where the
    vocabulary begins with one: llama.cpp's way. Chunks do not see each other."""

    tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])

    def first(self, n_chunks: int | None) -> Chunks:
        return self if n_chunks is None else Chunks(self.tokens[:n_chunks])


def chunks_of(tokens: Sequence[int], n_ctx: int, tokenizer: Tokenizer) -> Chunks:
    """Whole chunks only; what is left of the text at the end is not used."""
    import numpy as np

    n_chunks = len(tokens) // n_ctx
    cut = np.array(tokens[: n_chunks * n_ctx], np.int32).reshape(n_chunks, n_ctx)
    if tokenizer.adds_bos and tokenizer.bos is not None:
        cut[:, 0] = tokenizer.bos
    return Chunks(cut)


def batch_size(n_ctx: int, largest: int = 512) -> int:
    """Tokens a batch for chunks of `n_ctx`: equal pieces, so that none is too short to count."""
    pieces = -(-n_ctx // largest)
    return -(-n_ctx // pieces)


def collect(
    context: Context,
    collector: Collector,
    chunks: Chunks,
    first: int,
    on_chunk: Callable[[int], None],
) -> None:
    """Run the chunks from `first` on; `on_chunk` gets the number of each when it counts.

    The context was made with `collector.hook` and n_batch = n_ubatch = `batch_size`. Ctrl-C
    gives up the chunk under way; those before it stay in `collector.entries`.
    Raises DamagedFile where activations are not finite, EngineError.
    """
    size = context.n_ubatch
    with TokenBatch(size) as batch:

        def run(number: int, n_tokens: int) -> None:
            context.clear()
            tokens = chunks.tokens[number]
            for start in range(0, n_tokens, size):
                batch.clear()
                for place in range(start, min(start + size, n_tokens)):
                    # Every token an output: else the last layer computes only those that are.
                    batch.add(int(tokens[place]), place, 0, output=True)
                collector.begin()
                context.decode(batch.native)

        if first < len(chunks):  # a few tokens, whose graph shows where it may be cut short
            context.interruptible(lambda: run(first, min(LEAST_ROWS, size)))
        for number in range(first, len(chunks)):
            collector.discard()
            context.interruptible(lambda number=number: run(number, chunks.n_ctx))  # type: ignore[misc]
            collector.commit()
            on_chunk(number)
