"""The weights of a loaded model, overwritten in place.

llama.cpp has no call that names a model's tensors, but every graph that it computes does: an
eval hook sees each node with its operands. The addresses found so are written through ggml's
own functions, so it makes no difference whether a tensor lies in main memory, on a GPU, or in
a layout that the CPU likes better. In plain main memory a tensor may change its type too: its
struct is told of the new one, and the next graph computes with that type's own kernels. The
model must have memory of its own (no mmap).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from localllm.engine import native, tensors
from localllm.engine.ggml_types import RowType
from localllm.engine.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fill = Callable[["NDArray[np.uint8]"], None]


class LiveWeights:
    """Finds the tensors called `names` while the first graph is computed: give `hook` to the
    context's options, compute once, then call `settle`.

    The context must be made with `op_offload` off: llama.cpp would otherwise compute with
    copies that it makes of weights in main memory.
    """

    def __init__(self, names: Iterable[str]) -> None:
        tensors.check_layout()
        self._wanted = {name.encode() for name in names}
        self._found: dict[str, dict[int, int]] = {}  # name -> address of data -> of the tensor
        self._viewed: set[str] = set()  # a view has strides of its own
        self._settled = False

    def hook(self, address: int, ask: bool) -> bool:
        """See EvalHook in engine.options."""
        if ask and not self._settled:
            for source in Tensor.from_address(address).src:
                if source:
                    self._note(source)
        return False

    def settle(self) -> None:
        """What was found so far is all that there is; the hook costs nothing any more."""
        self._settled = True

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def takes_types(self, name: str) -> bool:
        """Whether `hold` can give this tensor another type."""
        places = self._found[name].values()
        buffers = [Tensor.from_address(place).buffer for place in places]
        return name not in self._viewed and all(map(_functions().is_host, buffers))

    def hold(self, name: str, kind: RowType, packed: NDArray[np.uint8]) -> None:
        """Let a tensor that `takes_types` be of type `kind`, with the bytes `packed` (n_rows,
        bytes a row), which must be no more than it had when the model was loaded."""
        rows = packed if packed.flags.c_contiguous else packed.copy()
        for place in self._found[name].values():
            tensor = Tensor.from_address(place)
            tensor.type = kind.id
            tensor.nb[0], tensor.nb[1] = kind.block_bytes, kind.row_bytes(tensor.ne[0])
            for axis in (2, 3):
                tensor.nb[axis] = tensor.nb[axis - 1] * tensor.ne[axis - 1]
            ctypes.memmove(tensor.data, rows.ctypes.data, rows.nbytes)

    def store(self, name: str, fill: Fill) -> None:
        """Let `fill` write a tensor's bytes, all of them, into the buffer that it is given.

        A tensor that llama.cpp holds twice (a tied embedding on a GPU) changes in both places.
        """
        import numpy as np

        functions = _functions()
        places = list(self._found[name].values())
        n_bytes = int(functions.n_bytes(places[0]))
        hosts = [p for p in places if functions.is_host(Tensor.from_address(p).buffer)]
        if hosts:
            data = _memory(Tensor.from_address(hosts[0]).data, n_bytes)
        else:
            data = np.empty(n_bytes, dtype=np.uint8)
        fill(data)
        for place in places:
            if not hosts or place != hosts[0]:
                functions.set(place, data.ctypes.data, 0, n_bytes)

    def _note(self, address: int) -> None:
        tensor = Tensor.from_address(address)
        viewed = bool(tensor.view_src)
        if viewed:  # a part or another shape of it
            address = tensor.view_src
            tensor = Tensor.from_address(address)
        if tensor.name in self._wanted and tensor.buffer and tensor.data:
            name = tensor.name.decode()
            self._found.setdefault(name, {})[tensor.data] = address
            if viewed:
                self._viewed.add(name)


def _memory(address: int, n_bytes: int) -> Any:
    import numpy as np

    return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))


class _Functions:
    def __init__(self) -> None:
        self.n_bytes = native.ggml("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
        self.is_host = native.ggml("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p)
        self.set = native.ggml(
            "ggml_backend_tensor_set", None,
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t,
        )  # fmt: skip


_made: list[_Functions] = []


def _functions() -> _Functions:
    if not _made:
        _made.append(_Functions())
    return _made[0]
