"""The compiled path on CPU: Q-learning with NatureCNN in `native.cpp`, for processors with
bf16 instructions (AVX512-BF16: AMD from 2022 on; and Intel's AMX, from 2023 on).

A `NativeQNetwork` is a `QNetwork` of float32 weights whose passes run in bfloat16 on a copy of them, laid out for the
processor; gradients and steps are float32. The C++ file is compiled once, by the machine's own compiler for the
machine's own processor, and kept in the user's cache.
"""

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.networks import QNetwork
from agents.updates import LEARNED, PreparedBatch
from perception.backbones import Backbone, NatureCNN

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++17", "-shared", "-fPIC")
STACK, FRAME_SHAPE = 4, (84, 84)


def fits(backbone: Backbone, frame_shape: tuple[int, int]) -> bool:
    """Whether the compiled passes are for this network, and this machine can compile and run them."""
    known = isinstance(backbone, NatureCNN) and backbone.in_channels == STACK and frame_shape == FRAME_SHAPE
    return known and library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled passes; None where the processor or the compiler for them is missing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line for line in lines if line.startswith("flags")), "")
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if "avx512_bf16" not in processor or compiler is None:
        return None
    command = [compiler, *FLAGS]
    key = hashlib.sha256("\0".join((SOURCE.read_text(), *command, processor)).encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saccade"
        folder.mkdir(parents=True, exist_ok=True)
        passes = _load(folder / f"native-{platform.machine()}-{key}.so", command)
    except (OSError, RuntimeError, subprocess.CalledProcessError):  # no home, no room, no such compiler
        return None
    return passes if passes.saccade_begin() == 0 else None


def _load(built: Path, command: list[str]) -> ctypes.CDLL:
    """Load what was built before; build it where it is not there, or another machine or a power cut spoilt it."""
    if built.exists():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(built))
    partial = built.with_suffix(f".{os.getpid()}")
    subprocess.run([*command, str(SOURCE), "-o", str(partial)], check=True, capture_output=True)
    partial.replace(built)
    return ctypes.CDLL(str(built))


def _at(tensor: Tensor | None, dtype: torch.dtype = torch.float32) -> ctypes.c_void_p:
    """Return where the tensor's numbers lie.

    Raises:
        TypeError: they are others than the compiled code takes them for.
    """
    if tensor is None:
        return ctypes.c_void_p(None)
    if tensor.dtype != dtype or not tensor.is_contiguous():
        raise TypeError(f"need a contiguous tensor of {dtype}, not {tensor.dtype} of {tuple(tensor.shape)}")
    return ctypes.c_void_p(tensor.data_ptr())


class NativeQNetwork(QNetwork):
    """A `QNetwork` whose backbone and hidden layers are compiled. Call `take` after its weights changed."""

    packed: Tensor

    def __init__(self, backbone: Backbone, frame_shape: tuple[int, int], num_actions: int, dueling: bool) -> None:
        super().__init__(backbone, frame_shape, num_actions, dueling)
        passes = library()
        assert passes is not None
        self._hidden_at = passes.saccade_packed_size(0)
        self._units = sum(layer.out_features for layer in self.head.hidden_layers())
        size = passes.saccade_packed_size(self._units)
        self.register_buffer("packed", torch.zeros(size, dtype=torch.bfloat16), persistent=False)
        self.take(self)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Return action values (B, A), float32, of frames uint8 (B, 4, 84, 84); no gradient flows back."""
        if frames.shape[1:] != (STACK, *FRAME_SHAPE):
            raise ValueError(f"need frames (B, {STACK}, {FRAME_SHAPE[0]}, {FRAME_SHAPE[1]}), not {tuple(frames.shape)}")
        frames = frames.contiguous()
        hidden = torch.empty(len(frames), self._units)
        biases = [layer.bias for layer in self.convolutions()]
        biases.append(torch.cat([layer.bias for layer in self.head.hidden_layers()]))
        _library().saccade_forward(
            _at(frames, torch.uint8),
            len(frames),
            _at(self.packed, torch.bfloat16),
            *map(_at, biases),
            self._units,
            _at(hidden),
        )
        return self.head.values(hidden)

    def convolutions(self) -> list[nn.Conv2d]:
        """Return the backbone's layers."""
        assert isinstance(self.backbone, NatureCNN)
        return [self.backbone.conv1, self.backbone.conv2, self.backbone.conv3]

    def cast(self, dtype: torch.dtype) -> "NativeQNetwork":
        """Return itself: the weights stay float32, the passes are bfloat16 as they are."""
        assert dtype == torch.bfloat16
        return self

    @torch.no_grad()
    def take(self, other: QNetwork) -> None:
        """Copy the other's weights into these, and lay them out for the passes."""
        super().take(other)
        weights = [_at(layer.weight) for layer in self.convolutions()]
        _library().saccade_pack(*weights, _at(self.packed, torch.bfloat16))
        self.packed[self._hidden_at :].copy_(torch.cat([h.weight.flatten() for h in self.head.hidden_layers()]))


class _Parameter(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "first", "second")),
        ("count", ctypes.c_int64),
        ("square", ctypes.c_double),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("frames_tm1", "frames_t", "a_tm1", "r_t", "discount_t", "q_t")),
        ("samples", ctypes.c_int),
        ("actions", ctypes.c_int),
    )


def _batch(prepared: PreparedBatch) -> _Batch:
    """Return where a batch lies.

    Raises:
        ValueError: its frames have another shape than the compiled code takes them for.
        TypeError: as `_at`.
    """
    samples, actions = prepared.q_t.shape
    stacks = (samples, STACK, *FRAME_SHAPE)
    frames_t = prepared.frames_t if prepared.frames_t.numel() else None
    if prepared.frames_tm1.shape != stacks or (frames_t is not None and frames_t.shape != stacks):
        raise ValueError(f"need frames {stacks}, not {tuple(prepared.frames_tm1.shape)}")
    return _Batch(
        _at(prepared.frames_tm1, torch.uint8),
        _at(frames_t, torch.uint8),
        _at(prepared.a_tm1, torch.int64),
        *map(_at, (prepared.r_t, prepared.discount_t, prepared.q_t)),
        samples,
        actions,
    )


class NativeUpdate:
    """Updates of a `NativeQNetwork` by Adam (Kingma & Ba 2014): what `EagerUpdate` does, compiled."""

    def __init__(self, network: NativeQNetwork, optimizer: torch.optim.Adam, clip_norm: float) -> None:
        """The moments live in `optimizer.state`, where torch has them too. A `clip_norm` of 0 does not clip."""
        self.network, self._optimizer, self._clip_norm = network, optimizer, clip_norm
        hidden, outputs = network.head.hidden_layers(), network.head.output_layers()
        self._parameters = [w for layer in (*network.convolutions(), *hidden, *outputs) for w in layer.parameters()]
        self._backbone = 2 * len(network.convolutions())  # the first of the parameters
        self._frozen, self._held = False, ctypes.c_bool(False)
        self._structs = (_Parameter * len(self._parameters))()
        self._hidden_layers = len(hidden)
        without_gradient = {layer.weight for layer in hidden}
        for weight in self._parameters:
            weight.grad = None if weight in without_gradient else torch.zeros_like(weight)
            moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[weight] = {"step": torch.zeros(()), **moments}

    def learn(self, prepared: PreparedBatch, shown: None = None) -> Tensor:
        """Make the update; return `LEARNED`, (4,). There is no auxiliary task here: nothing is `shown`."""
        assert shown is None
        return self.learn_each([prepared])[0]

    def learn_each(self, batches: list[PreparedBatch]) -> list[Tensor]:
        """Make an update with each batch, all in one call; return `LEARNED`, (4,), of each."""
        structs = (_Batch * len(batches))(*map(_batch, batches))
        adam = ((ctypes.c_float * 8) * len(batches))(*(self._adam(update) for update in range(1, len(batches) + 1)))
        for index, (struct, weight) in enumerate(zip(self._structs, self._parameters, strict=True)):
            state = self._optimizer.state[weight]
            if not self._frozen or index >= self._backbone:
                state["step"] += len(batches)
            struct.weight, struct.gradient, struct.count = _at(weight), _at(weight.grad), weight.numel()
            struct.first, struct.second = _at(state["exp_avg"]), _at(state["exp_avg_sq"])
        learned = torch.empty(len(batches), len(LEARNED))
        _library().saccade_learn(
            structs,
            len(batches),
            _at(self.network.packed, torch.bfloat16),
            self._structs,
            self._hidden_layers,
            ctypes.c_bool(self._frozen),
            adam,
            ctypes.byref(self._held),
            _at(learned),
        )
        return list(learned)

    def _adam(self, update: int) -> tuple[float, ...]:
        """Return the numbers of Adam's step that comes as the `update`-th from now, counted from 1."""
        backbone, group = self._optimizer.param_groups
        beta1, beta2 = group["betas"]

        def corrected(rate: float, weight: Tensor) -> tuple[float, float]:
            steps = float(self._optimizer.state[weight]["step"]) + update
            return rate / (1 - beta1**steps), 1 / math.sqrt(1 - beta2**steps)

        rates = *corrected(group["lr"], self._parameters[-1]), *corrected(backbone["lr"], self._parameters[0])
        return *rates, self._clip_norm, beta1, beta2, group["eps"]

    @contextlib.contextmanager
    def weights_held(self) -> Iterator[None]:
        """Let updates that begin meanwhile wait, before they change a weight, until this ends."""
        self._held.value = True
        try:
            yield
        finally:
            self._held.value = False

    def freeze(self, frozen: bool) -> None:
        """Leave the backbone and Adam's moments of it as they are in the updates from now on; or no longer."""
        self._frozen = frozen

    def help_until(self, done: Callable[[], bool]) -> None:
        """Take part in the updates that another thread makes. Nothing that they compute depends on it."""
        while not done():
            _library().saccade_help()

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the last update's gradient of each weight, by name."""
        squares = {weight: struct.square for weight, struct in zip(self._parameters, self._structs, strict=True)}
        frozen = set(self._parameters[: self._backbone] if self._frozen else ())
        return {name: math.sqrt(squares[w]) for name, w in self.network.named_parameters() if w not in frozen}


def _library() -> ctypes.CDLL:
    passes = library()
    assert passes is not None
    return passes
