"""``audiolm-compress export``: a model in a form that other programs open."""

from __future__ import annotations

import click

from audiolm_compress.cli.options import threads_option

# As `audiolm_compress.export.FORMS`, which would import torch.
FORMS = ("gptq", "safetensors16", "gguf", "onnx", "upstream")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")  # as `audiolm_compress.export.gguf.TYPES`
EXAMPLES = """\b
Examples:
  audiolm-compress export out/mine --to gptq --out out/mine_gptq
  audiolm-compress export out/mine --to safetensors16 --out out/mine_plain
  audiolm-compress export out/mine --to gguf --gguf-type q8_0 --out out/mine_gguf
  audiolm-compress export out/mine --to onnx --out out/mine_onnx
  audiolm-compress export out/mine --to upstream --out out/mine_upstream

\b
Forms:
  gptq           the LLM as a Hugging Face GPTQ checkpoint, for GPTQModel and
                 vLLM; packed layers bit for bit, all others 16 bit
  safetensors16  every part in 16 bit; llm/ and speech_encoder/ are folders of
                 transformers
  gguf           the LLM as one GGUF file for llama.cpp, of types llama, gemma2
                 and qwen2; needs pip install 'audiolm-compress[gguf]'
  onnx           both encoders and the connector in float32 for ONNX Runtime,
                 from samples to the LLM's audio embeddings, for any length;
                 needs pip install 'audiolm-compress[onnx]'
  upstream       config.yaml, .pth and parts as upstream SALMONN loads them,
                 plain weights, LoRA kept
"""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@click.option("--to", "form", required=True, type=click.Choice(FORMS), help="Form to write.")
@click.option("--out", required=True, help="Folder to write: new, empty or an earlier export.")
@click.option(
    "--dtype",
    type=click.Choice(("bfloat16", "float16")),
    help="Type of what is not packed. Default: the model's own, or bfloat16 where it is float32.",
)
@click.option(
    "--gguf-type",
    type=click.Choice(GGUF_TYPES),
    help="Type of the matrices of a GGUF file. Default: the model's own, or bf16 where it is float32.",
)
@threads_option
def export(model: str, form: str, out: str, dtype: str | None, gguf_type: str | None) -> None:
    """Write a model in a form that other programs open.

    MODEL is a folder that `run` saved, or any other model. What the form cannot hold is dequantised, which
    the lines printed and the folder's README say. What was written is read back and compared.
    """
    import torch

    from audiolm_compress.export import export as write

    weights = None if dtype is None else getattr(torch, dtype)
    done = write(model, form, out, dtype=weights, gguf_type=gguf_type)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"Exported to {done.path}")
