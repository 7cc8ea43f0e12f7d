"""GPTQModel opens an exported LLM and gives our logits: the judge of ``export --to gptq``.

Two environments, as GPTQModel pins packages of its own. The first writes what is expected, the second, with
``pip install gptqmodel``, compares and prints a line of JSON:

    python benchmarks/gptqmodel_round_trip.py expect MODEL EXPORTED
    python-with-gptqmodel -P benchmarks/gptqmodel_round_trip.py compare EXPORTED

``-P`` keeps the files beside this one from being taken for packages that transformers looks for.

The text is 256 random tokens; perplexity is theirs. Both models compute in the type of the checkpoint, with
other orders of summation: the reference beside both is our dequantised LLM in float32, and each side's
distance to it says what the type alone costs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

EXPECTED = "expected.safetensors"


def perplexity(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).exp().item()


@torch.inference_mode()
def expect(model_folder: str, exported: Path) -> None:
    """Our logits, from packed layers and from plain float32 weights, beside the exported folder."""
    from audiolm_compress.export.dense import dense_state
    from audiolm_compress.salmonn.load import load_model

    model = load_model(model_folder)
    model.merge_lora()
    llm = model.causal_lm
    ids = torch.randint(0, llm.config.vocab_size, (1, 256), generator=torch.Generator().manual_seed(0))
    ours = llm(input_ids=ids).logits.float()
    dense = dense_state(llm).tensors
    reference = type(llm)(llm.config).float().eval()
    reference.load_state_dict(dense)
    exact = reference(input_ids=ids).logits
    content = {"ids": ids, "ours": ours.contiguous(), "exact": exact.contiguous()}
    save_file(content, exported.with_name(f"{exported.name}.{EXPECTED}"))


@torch.inference_mode()
def compare(exported: Path) -> None:
    """GPTQModel's logits against those."""
    from gptqmodel import BACKEND, GPTQModel

    expected = load_file(exported.with_name(f"{exported.name}.{EXPECTED}"))
    opened = GPTQModel.load(
        str(exported), device="cpu", backend=BACKEND.TORCH, attn_implementation="eager"
    ).model.eval()
    kinds = [type(module).__name__ for module in opened.modules()]
    theirs = opened(input_ids=expected["ids"]).logits.float()
    ours, exact, ids = expected["ours"], expected["exact"], expected["ids"]
    print(
        json.dumps(
            {
                "quantised_layers": {
                    kind: kinds.count(kind) for kind in set(kinds) if "Torch" in kind or "Quant" in kind
                },
                "largest_logit": exact.abs().max().item(),
                "ours_to_theirs": (ours - theirs).abs().max().item(),
                "ours_to_float32": (ours - exact).abs().max().item(),
                "theirs_to_float32": (theirs - exact).abs().max().item(),
                "perplexity": {
                    "ours": perplexity(ours, ids),
                    "theirs": perplexity(theirs, ids),
                    "float32": perplexity(exact, ids),
                },
            },
            indent=1,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("expect")
    first.add_argument("model")
    first.add_argument("exported", type=Path)
    commands.add_parser("compare").add_argument("exported", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "expect":
        expect(chosen.model, chosen.exported)
    else:
        compare(chosen.exported)


if __name__ == "__main__":
    main()
