"""What the layers of a part read and write on calibration clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.passes.part_calibration import evaluating, part_calibration
from audiolm_compress.quantization.blocks import hidden_states
from audiolm_compress.salmonn.model import Salmonn


def layer_states(
    model: Salmonn, part: str, examples: Sequence[Example], batch_size: int
) -> Iterator[tuple[list[Tensor], Tensor | None]]:
    """The stream of hidden states through a part's layers, batch by batch, without dropout or gradients.

    A batch is in memory whole: layers + 1 times its hidden states. Statistics over many long clips are
    better gathered in hooks (``block_influence`` of ``layer_drop``).

    Args:
        model: any model.
        part: ``speech_encoder``, ``audio_encoder`` or ``llm``; what comes before it is computed as well. The
            LLM reads prompt, audio and reference text, padded on the right.
        examples: calibration clips.
        batch_size: clips computed together.

    Yields:
        Of each batch the input of every layer, in order, and the output of the last; and the mask int64
        [batch, length] of positions that count, None where all do. States are [batch, length, width].

    Raises:
        PassError: the model has no such part, or it has no layers of this kind.
    """
    layers = model.layers(part)
    states: list[Tensor] = []

    def note_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(hidden_states(args, kwargs))

    def note_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    with evaluating(model):
        run, masks = part_calibration(model, part, examples, batch_size)
    for batch, mask in enumerate(masks):
        states.clear()
        handles = [layer.register_forward_pre_hook(note_input, with_kwargs=True) for layer in layers]
        handles.append(layers[-1].register_forward_hook(note_output))
        try:
            with evaluating(model):
                run(batch)
        finally:
            for handle in handles:
                handle.remove()
        yield list(states), mask
