"""What linear layers have in common whose weights exist only as a kernel wants them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

Buffers = Mapping[str, Tensor]


class Arrangement(Protocol):
    """A way to hold the weights of a layer.

    ``buffers`` may hold more than the kernel's own tensors, such as a bias.
    """

    name: str

    def arrange(self, stored: Buffers) -> dict[str, Tensor]:
        """The buffers that the kernel works on, from the stored form."""

    def restore(self, buffers: Buffers) -> dict[str, Tensor]:
        """The stored form."""


K = TypeVar("K", bound=Arrangement)


class PackedLinear(nn.Module, ABC, Generic[K]):
    """A linear layer whose weights are buffers in the arrangement of its ``kernel``, the only copy in memory.

    ``state_dict`` always holds the stored form. `prepare` rearranges it in place for the device's best
    kernel; moving, casting or loading a prepared layer does so again. Subclasses set ``kernel``, name and
    register the buffers in ``not_weights``, and give the stored form to `_hold`.
    """

    not_weights: ClassVar[tuple[str, ...]] = ("bias",)  # buffers that no kernel rearranges
    kernel: K

    def __init__(self, in_features: int, out_features: int) -> None:
        """Make a layer without buffers, not prepared."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._prepared = False

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the scales."""
        return self.get_buffer("scales").dtype

    def prepare(self) -> str:
        """Rearrange the weights for their device's best kernel; return its warning, "" if there is none."""
        kernel, warning = self._choose_kernel()
        if self._prepared and type(kernel) is type(self.kernel):  # what moves or casts prepares anew
            return warning
        self._hold(kernel.arrange(self.stored()))
        self.kernel, self._prepared = kernel, True
        return warning

    @abstractmethod
    def dense(self) -> Tensor:
        """The weights as a matrix [out, in]."""

    @torch.no_grad()
    def set_scales(self, scales: Tensor, bias: Tensor | None = None) -> None:
        """Give the same integers other scales, of the stored form's shape, and the layer another bias.

        Both are rounded to the dtype of the scales; None leaves the bias as it is.

        Raises:
            ValueError: a scale is 0 or not finite, which would lose the integers.
        """
        rounded = scales.to(self.dtype)
        if not (rounded.isfinite() & (rounded != 0)).all():
            raise ValueError("a scale of a packed layer would be 0 or not finite; train it more slowly")
        with self._in_stored_form():
            self.get_buffer("scales").copy_(rounded)
            if bias is not None:
                self.get_buffer("bias").copy_(bias)

    def scale_outputs(self, factors: Tensor) -> None:
        """Multiply what the weights give, not the bias, by ``factors`` [out]; integers stay as they are."""
        self.set_scales(self.stored()["scales"].float() * factors)  # [out], or [groups or 1, out]

    @abstractmethod
    def _choose_kernel(self) -> tuple[K, str]:
        """The best kernel where the weights are, and its warning."""

    @abstractmethod
    def _kernel_of_stored_form(self) -> K:
        """The kernel that works on the stored form."""

    def _weights(self) -> dict[str, Tensor]:
        """The module's own dictionary of buffers: looking up attributes costs as much as a small product."""
        return self._buffers  # type: ignore[return-value]  # those that are no weights may be None

    def _hold(self, buffers: Buffers) -> None:
        """Make ``buffers`` the weights, and nothing else."""
        for name in [name for name in self._buffers if name not in self.not_weights]:
            delattr(self, name)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def stored(self) -> dict[str, Tensor]:
        """The weights in the stored form, which may share memory with the layer's."""
        return self.kernel.restore(self._weights())

    @contextmanager
    def _in_stored_form(self) -> Iterator[None]:
        """Inside, the buffers are the stored form; a prepared layer is prepared again afterwards."""
        self._hold(self.stored())
        self.kernel = self._kernel_of_stored_form()
        yield
        if self._prepared:
            self.prepare()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear[K]:
        with self._in_stored_form():
            super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.stored().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        for name in self.not_weights:
            if self._buffers[name] is not None:
                destination[prefix + name] = self._buffers[name]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._in_stored_form():
            super()._load_from_state_dict(*args, **kwargs)
