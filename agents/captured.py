"""The update on a GPU: torch's own, captured once as a CUDA graph and launched whole from then on.

An update of NatureCNN is some sixty kernels of a few microseconds, and launching them one by one takes many times as
long as running them.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from agents.updates import EagerUpdate, PreparedBatch

WARM_UP_UPDATES = 3  # made kernel by kernel: the libraries set themselves up, the optimizer makes its moments


class CapturedUpdate(EagerUpdate):
    """`EagerUpdate` without an auxiliary task, of batches of one size.

    Its optimizer is `capturable`, with tensors for learning rates. Where the capture fails, it warns and goes on as
    `EagerUpdate` does.
    """

    _graph: torch.cuda.CUDAGraph | None = None
    _stream: torch.cuda.Stream | None = None
    _failed: torch.cuda.CUDAGraph | None = None  # kept, since torch's allocator may still hold its address
    _eager_left: float = WARM_UP_UPDATES
    _inputs: PreparedBatch
    _learned: Tensor

    def learn(self, prepared: PreparedBatch, shown: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Make the update; return `LEARNED`, (4,), on the device. While weights are held, it does not begin."""
        self._may_step.wait()
        if self._eager_left == 0 and self._graph is None:
            self._capture(prepared)
        if self._graph is None:
            self._eager_left -= 1
            with self._beside():
                return super().learn(prepared, shown)
        for mine, given in zip(self._inputs, prepared, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._learned.clone()

    def freeze(self, frozen: bool) -> None:
        """As `EagerUpdate`."""
        if frozen != self._frozen:
            self.forget()
        super().freeze(frozen)

    def forget(self) -> None:
        """Capture anew, once the optimizer has other moments or leaves out others."""
        self._graph, self._eager_left = None, max(self._eager_left, WARM_UP_UPDATES)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """Work on the stream that is captured later, in its turn: autograd and cuBLAS remember streams."""
        self._stream, current = self._stream or torch.cuda.Stream(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _capture(self, prepared: PreparedBatch) -> None:
        """Record an update of batches like `prepared`, without making it. Meanwhile other threads may use the GPU."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._inputs = PreparedBatch(*(tensor.clone() for tensor in prepared))
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._learned = super().learn(self._inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # which a capture that breaks off leaves
            self._eager_left, self._failed = float("inf"), graph
            cause: BaseException = error  # ending the capture fails too, and hides it
            while cause.__context__ is not None:
                cause = cause.__context__
            warnings.warn(f"updates go kernel by kernel, since capturing one failed: {cause}", stacklevel=2)
        else:
            self._graph = graph
