"""The inner widths of a Transformer layer: what can be removed inside it without its neighbours noticing.

An FFN and an attention have the same form. Some Linears write an inner vector, something without weights
happens to it, and one Linear reads it. The inner vector falls into units: the channels of an FFN, the heads
of an attention, or, where several query heads share one key and value head (arXiv:2305.13245), that whole
group. To remove a unit is to remove its rows from the writers and its columns from the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from audiolm_compress.errors import PassError

_FFNS = (("fc1",), "fc2"), (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
_READERS = ("out_proj", "o_proj")


@dataclass(frozen=True)
class Inner:
    """One inner width.

    Attributes:
        name: of the layer that it is in.
        writers: their rows belong to the units in order, the same number to each unit.
        reader: so do its columns.
        units: how many there are.
        module: what a trace runs to find the FFN's Linears; None for an attention, see `groups.py`.
        run: calls ``module`` with [batch, length, width].
    """

    name: str
    writers: tuple[nn.Linear, ...]
    reader: nn.Linear
    units: int
    module: nn.Module | None = None
    run: Callable[[nn.Module, Tensor], Tensor] | None = None


def read_ffn(name: str, layer: nn.Module) -> Inner:
    """The FFN of a layer of Whisper, BEATs, or an LLM with gate, up and down projections.

    Raises:
        PassError: the layer has no such FFN, or not of plain Linears.
    """
    for writers, reader in _FFNS:
        if _has(layer, reader):
            linears = [_plain(name, layer, path) for path in writers]
            down = _plain(name, layer, reader)
            gated = len(writers) > 1
            return Inner(
                name,
                tuple(linears),
                down,
                down.in_features,
                layer.get_submodule("mlp") if gated else layer,
                _call if gated else _call_encoder_layer,
            )
    raise PassError(
        f"prune_width: {name} ({type(layer).__name__}) has neither fc1 and fc2 nor mlp.gate_proj, "
        f"mlp.up_proj and mlp.down_proj; leave ffn at 1.0 for this model"
    )


def read_attention(name: str, layer: nn.Module, head_dim: int) -> Inner:
    """The attention of such a layer; ``head_dim`` is the width of a head.

    Raises:
        PassError: it has other weights than query, key, value and output projections that belong to a head.
    """
    attention = getattr(layer, "self_attn", None)
    reader = next((r for r in _READERS if isinstance(attention, nn.Module) and _has(attention, r)), None)
    if not isinstance(attention, nn.Module) or reader is None or not _has(attention, "k_proj"):
        raise PassError(
            f"prune_width: {name} ({type(layer).__name__}) has no self_attn with q_proj, k_proj, v_proj and "
            f"an output projection; leave heads at 1.0 for this model"
        )
    writers = tuple(_plain(name, attention, path) for path in ("q_proj", "k_proj", "v_proj"))
    output = _plain(name, attention, reader)
    units = writers[1].out_features // head_dim
    # A norm over all heads together, or one number a head that nobody here knows of, would be left behind.
    known = {id(p) for linear in (*writers, output) for p in linear.parameters()}
    for path, parameter in attention.named_parameters():
        if id(parameter) not in known and not path.startswith("grep_") and parameter.shape != (head_dim,):
            raise PassError(
                f"prune_width: {name}.self_attn.{path} of shape {list(parameter.shape)} may belong to "
                f"single heads; leave heads at 1.0 for this model"
            )
    return Inner(name, writers, output, units)


def narrow(inner: Inner, units: int) -> None:
    """Keep the first ``units``, whichever they are: for empty models, of which only sizes count."""
    rows = [linear.out_features // inner.units * units for linear in inner.writers]
    for linear, number in zip(inner.writers, rows, strict=True):
        linear.weight, linear.out_features = nn.Parameter(linear.weight[:number].detach()), number
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias[:number].detach())
    columns = inner.reader.in_features // inner.units * units
    inner.reader.weight = nn.Parameter(inner.reader.weight[:, :columns].detach())
    inner.reader.in_features = columns


def _has(module: nn.Module, path: str) -> bool:
    for step in path.split("."):
        if not isinstance(child := getattr(module, step, None), nn.Module):
            return False
        module = child
    return True


def _plain(name: str, layer: nn.Module, path: str) -> nn.Linear:
    """A Linear whose weights can be cut."""
    linear = layer.get_submodule(path)
    if type(linear) is not nn.Linear:
        adapted = hasattr(linear, "base_layer")
        raise PassError(
            f"prune_width: {path} in {name} is a {type(linear).__name__}, whose channels cannot be removed; "
            + ("put merge_lora before it" if adapted else "put prune_width before the pass that made it")
        )
    return linear


def _call(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def _call_encoder_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of Whisper or BEATs, whose masks and biases are all optional."""
    return layer(x, None) if hasattr(layer.self_attn, "num_heads") else layer(x, None, None)
