"""``audiolm-compress export``: a model in a form that other programs open."""

from __future__ import annotations

import click

from audiolm_compress.cli.options import threads_option

# As `audiolm_compress.export.FORMS`, which would import torch.
FORMS = ("gptq", "safetensors16", "onnx", "upstream")
EXAMPLES = """\b
Examples:
  audiolm-compress export out/mine --to gptq --out out/mine_gptq
  audiolm-compress export out/mine --to safetensors16 --out out/mine_plain
  audiolm-compress export out/mine --to onnx --out out/mine_onnx
  audiolm-compress export out/mine --to upstream --out out/mine_upstream

\b
Forms:
  gptq           the LLM as a Hugging Face GPTQ checkpoint, for GPTQModel and
                 vLLM; packed layers bit for bit, all others 16 bit
  safetensors16  every part in 16 bit; llm/ and speech_encoder/ are folders of
                 transformers
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
@threads_option
def export(model: str, form: str, out: str, dtype: str | None) -> None:
    """Write a model in a form that other programs open.

    MODEL is a folder that `run` saved, or any other model. What the form cannot hold is dequantised, which
    the lines printed and the folder's README say. What was written is read back and compared.
    """
    import torch

    from audiolm_compress.export import export as write

    done = write(model, form, out, dtype=None if dtype is None else getattr(torch, dtype))
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"Exported to {done.path}")
