"""A part's graph as an ONNX file, by torch's exporter, and the file's output by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.export.graphs import AudioGraph, ConnectorGraph, SpeechGraph
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import FRAME_SAMPLES, LONGEST_FRAMES

OPSET = 20  # the first with Gelu; ONNX Runtime has it since 1.17


class Graph(NamedTuple):
    """A part to be written.

    Attributes:
        module: takes tensors, gives one.
        inputs: name -> what to trace it with, a batch of two.
        lengths: name -> the second dimension of that input; None where there is none.
        output: its name.
        shape: of the output.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    lengths: dict[str, Any]
    output: str
    shape: tuple[str | int, ...]


def graph_of(model: Salmonn, part: nn.Module) -> Graph:
    """The graph of a plain copy of a part, which must not be used as a module afterwards."""
    if isinstance(part, Beats):
        return Graph(
            AudioGraph(part),
            {"waveforms": torch.zeros(2, 32_000), "lengths": torch.tensor([32_000, 20_000])},
            {"waveforms": Dim("samples", min=SAMPLE_RATE), "lengths": None},
            "audio_states",
            ("batch", "tokens", part.config.encoder_embed_dim),
        )
    if isinstance(part, Connector):
        config = part.config
        frames = config.window + 3 * config.stride + 40
        streams = {"speech_states": torch.zeros(2, frames, config.speech_width)}
        lengths = {"speech_states": Dim("frames", min=max(2, config.window))}
        if config.audio_width:
            streams["audio_states"] = torch.zeros(2, frames // 2, config.audio_width)
            lengths["audio_states"] = Dim("tokens", min=2)
        return Graph(
            ConnectorGraph(part), streams, lengths, "embeddings", ("batch", "audio tokens", config.llm_width)
        )
    graph = SpeechGraph(part, model.feature_extractor)
    longest = Dim("frames", min=2, max=LONGEST_FRAMES)
    return Graph(
        graph,
        {"waveforms": torch.zeros(2, 100 * FRAME_SAMPLES)},
        {"waveforms": FRAME_SAMPLES * longest},
        "speech_states",
        ("batch", "frames", model.connector.config.speech_width),
    )


def write_graph(graph: Graph, file: Path) -> dict[str, Any]:
    """Write an ONNX file with its weights beside it, and describe it."""
    import onnx_ir

    batch = Dim("batch", min=1)
    dynamic = {
        name: {0: batch} if length is None else {0: batch, 1: length}
        for name, length in graph.lengths.items()
    }
    # One arithmetic for attention: the fused ones promise strides that the exporter cannot keep symbolic.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _quiet_exporter():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamic_shapes=tuple(dynamic.values()),
            input_names=list(graph.inputs),
            output_names=[graph.output],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "the exporter of dynamo gives a program"
        program.model.graph.outputs[0].shape = onnx_ir.Shape(graph.shape)
        program.save(file, external_data=True)
    inputs = [
        {
            "name": name,
            "dtype": str(one.dtype).removeprefix("torch."),
            "shape": _shape(one, graph.lengths[name]),
        }
        for name, one in graph.inputs.items()
    ]
    outputs = [{"name": graph.output, "dtype": "float32", "shape": list(graph.shape)}]
    return {"file": file.name, "inputs": inputs, "outputs": outputs}


def run_file(file: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    """The output of an ONNX file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: one.numpy() for name, one in inputs.items()})[0])


def _shape(traced: Tensor, length: Any) -> list[str | int]:
    """An input's sizes, by name where they vary."""
    return ["batch"] if length is None else ["batch", length.__name__, *traced.shape[2:]]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what the exporter says of itself; what matters of its result is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
