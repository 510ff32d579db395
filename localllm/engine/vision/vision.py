"""Images for a model that has a projector (mmproj) beside it, through llama.cpp's mtmd.

with Vision(model, mmproj_path) as vision:
    generator = LocalGenerator(context, vision=vision)
    generator.generate([Message("user", "What is this?", {"images": (png,)})], sampling)
"""

from __future__ import annotations

import ctypes
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.engine import native
from localllm.engine.context import Context, ContextFull
from localllm.engine.handle import NativeObject
from localllm.engine.memory import buffers_of
from localllm.engine.model import Model
from localllm.engine.template import ChatTemplate, Rendered
from localllm.engine.threads import default_threads
from localllm.engine.vision import native as vision_native
from localllm.engine.vision.chunks import MARKER, Chunks, Pictures, checked
from localllm.engine.vision.image import PictureCache
from localllm.engine.vision.loading import load_projector
from localllm.engine.vision.prompt import MediaPrompt, Run, place_codes
from localllm.errors import EngineError, FileGone, Interrupted, UsageProblem
from localllm.generation import Message

__all__ = ["MARKER", "Pictures", "Vision", "has_images", "seeing"]

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NO_SLOT, _ABORTED = 1, 2  # llama_decode's answers
_KEPT_BYTES = 256 * 1024 * 1024  # of encoded images
_LONGEST_S = 120.0  # an image's encoder, on a slow machine


class Vision(NativeObject):
    """A model's projector. One image is encoded at a time; safe to use from threads.

    Raises FileGone, DamagedFile, EngineError for a file that is no projector of this model.
    """

    kind = "projector"

    def __init__(
        self,
        model: Model,
        path: Path,
        *,
        use_gpu: bool = True,
        n_threads: int = 0,
        image_min_tokens: int = -1,
        image_max_tokens: int = -1,
    ) -> None:
        """`use_gpu` takes the first GPU, where there is one. The limits are for models that see
        images at several sizes; -1 takes what the file says."""
        self._mtmd = mtmd = vision_native.lib()
        if not path.is_file():
            raise FileGone(f"there is no file {path}")
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = use_gpu
        params.print_timings = False
        params.warmup = True  # reserves its buffers, computes nothing
        params.n_threads = n_threads or default_threads()
        params.image_min_tokens = image_min_tokens
        params.image_max_tokens = image_max_tokens
        with native.capture() as log:
            handle = load_projector(mtmd, model, path, params)
        super().__init__(handle, mtmd.mtmd_free, [model, params])
        self.buffers = buffers_of(log.lines)  # for computing, of the usual size of image
        model.depend(self)
        self.model = model
        self.path = path
        self._lock = threading.Lock()
        self._gate = threading.Condition()
        self._n_inside = 0  # native calls under way
        self._pictures = PictureCache()
        self._encoded: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        if not mtmd.mtmd_support_vision(self.handle):
            self.close()
            raise EngineError(f"{path.name} reads no images", "give the model's own --mmproj FILE")
        # What this projector makes of an image depends on these, too.
        self._salt = f"{path} {image_min_tokens} {image_max_tokens} ".encode()

    # --- from messages to a prompt -------------------------------------------------------

    def render(
        self, template: ChatTemplate, messages: Sequence[Message]
    ) -> tuple[Rendered, MediaPrompt]:
        """`template.render` for messages with images. Raises as `marked`, it, and `read` do."""
        marked, pictures = self.marked(messages)
        rendered = template.render(marked)
        return rendered, self.read(rendered.text, pictures)

    def marked(self, messages: Sequence[Message]) -> tuple[list[Message], Pictures]:
        """`messages` for the template, their images taken out and marked in the text.

        Raises UsageProblem for an image that cannot be read, naming its message.
        """
        pictures = Pictures(f"<__{secrets.token_hex(8)}__>", self._pictures)
        return [pictures.take(message, i) for i, message in enumerate(messages)], pictures

    def read(self, text: str, pictures: Pictures) -> MediaPrompt:
        """The prompt of a rendered text whose images `marked` took out.

        Raises UsageProblem when the template dropped or repeated an image's mark.
        """
        parts = text.split(pictures.mark)
        if len(parts) != len(pictures.found) + 1:
            raise UsageProblem(
                f"the chat template keeps {len(parts) - 1} of {len(pictures.found)} images",
                "give another one with --template FILE",
            )
        with self._inside():
            chunks = Chunks(self, parts, pictures.found)
            return self._prompt(chunks, [picture.digest for picture in pictures.found])

    def _prompt(self, chunks: Chunks, digests: list[bytes]) -> MediaPrompt:
        tokens: list[int] = []
        runs: list[Run] = []
        seen: Counter[bytes] = Counter()
        each: Counter[bytes] = Counter(chunks.id_of(c) for c in chunks.images)
        wanted = Counter(digest.hex().encode() for digest in digests)
        bos = chunks.missing_bos(self.model.tokenizer)
        if bos is not None:
            tokens.append(bos)
            runs.append(Run(0, 1, 1))
        for chunk in chunks.all:
            start = len(tokens)
            if chunk not in chunks.images:
                tokens += chunks.text_of(chunk)
                runs.append(Run(start, len(tokens) - start, len(tokens) - start))
                continue
            name = chunks.id_of(chunk)
            per_picture = max(1, each[name] // max(1, wanted[name]))
            key = self._salt + name + b" %d" % (seen[name] % per_picture)
            seen[name] += 1
            n_pos = int(self._mtmd.mtmd_input_chunk_get_n_pos(chunk))
            n_cells = int(self._mtmd.mtmd_input_chunk_get_n_tokens(chunk))
            tokens += place_codes(key, n_pos)
            runs.append(Run(start, n_pos, n_cells, chunk, key))
        return MediaPrompt(self, chunks, tokens, runs)

    # --- computing -----------------------------------------------------------------------

    @property
    def uses_mrope(self) -> bool:
        """Whether an image's tokens have positions in two dimensions."""
        return bool(self._mtmd.mtmd_decode_use_mrope(self.handle))

    def whole_in_one(self, chunk: int) -> bool:
        """Whether this image's tokens see each other, so that all are computed at once."""
        return bool(self._mtmd.mtmd_decode_use_non_causal(self.handle, chunk))

    def encode(self, run: Run) -> NDArray[np.float32]:
        """The image as the text model's embeddings: float32 [n_cells, n_embd]; the latest are
        kept. Not interrupted: Ctrl-C ends it when it is done."""
        import numpy as np

        with self._inside(), self._lock:
            found = self._encoded.get(run.key)
            if found is None:
                handle, chunk = self.handle, run.chunk
                checked(
                    f"{self.path.name} could not encode an image",
                    lambda: self._mtmd.mtmd_encode_chunk(handle, chunk),
                )
                n_embd = int(native.lib().llama_model_n_embd_inp(self.model.handle))
                pointer = self._mtmd.mtmd_get_output_embd(self.handle)
                found = np.ctypeslib.as_array(pointer, (run.n_cells, n_embd)).copy()
                if not np.isfinite(found).all():
                    raise EngineError(f"{self.path.name} computes NaN: the file is damaged")
                self._encoded[run.key] = found
                while len(self._encoded) > 1 and self.kept_bytes > _KEPT_BYTES:
                    self._encoded.popitem(last=False)
            self._encoded.move_to_end(run.key)
            return found

    @property
    def kept_bytes(self) -> int:
        """Main memory that the latest encoded images take."""
        return sum(one.nbytes for one in self._encoded.values())

    def evaluate(self, context: Context, run: Run, sequence: int) -> None:
        """Put an image into `sequence`, at its start position.

        Raises ContextFull, Interrupted, EngineError; a part of it may then be in memory.
        """
        self.decode(context, run, self.encode(run), sequence, context.n_batch)

    def decode(
        self, context: Context, run: Run, embeddings: NDArray[np.float32], sequence: int,
        n_batch: int,
    ) -> None:  # fmt: skip
        """The second half of `evaluate`: what `encode` gave, `n_batch` cells at once, or all where
        they see each other. Raises as it does."""
        if self.whole_in_one(run.chunk or 0):
            n_batch = max(n_batch, run.n_cells)  # MediaPrompt.check has seen that there is room
        data = embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        after = ctypes.c_int32(0)
        codes: list[int] = []
        callback = self._mtmd.mtmd_helper_post_decode_callback()  # none

        def decode() -> None:
            with context.lock:
                codes.append(
                    self._mtmd.mtmd_helper_decode_image_chunk(
                        self.handle, context.handle, run.chunk, data, run.start, sequence,
                        n_batch, ctypes.byref(after), callback, None,
                    )
                )  # fmt: skip

        with self._inside(), native.capture() as log:
            context.interruptible(decode)
        if codes[0] == _NO_SLOT:
            raise ContextFull(f"the context of {context.n_ctx} tokens is full")
        if codes[0] == _ABORTED:
            raise Interrupted("the computation was stopped")
        if codes[0]:
            raise native.failure("llama.cpp could not decode an image", log)

    # --- ending --------------------------------------------------------------------------

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """While native code works with this projector, which other threads may want to close."""
        entered = 0
        try:
            with self._gate:
                _ = self.handle  # raises once it is closed
                self._n_inside += 1
                entered = 1
            yield
        finally:
            with self._gate:
                self._n_inside -= entered
                self._gate.notify_all()

    def close(self) -> None:
        """Wait for the calls under way, then free. May be called twice."""
        with self._gate:
            # Not for ever: a Ctrl-C at the wrong moment may have cost us a count.
            self._gate.wait_for(lambda: self._n_inside == 0, _LONGEST_S)
            super().close()


def has_images(messages: Sequence[Message]) -> bool:
    return any(message.extra.get("images") for message in messages)


def seeing(vision: Vision | None, name: str) -> Vision:
    """`vision`. Raises UsageProblem where there is none, since `name` was shown an image."""
    if vision is None:
        raise UsageProblem(
            f"{name} was loaded without a projector (mmproj) and cannot see images",
            "name the projector's file with --mmproj FILE",
        )
    return vision
