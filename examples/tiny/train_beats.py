r"""Trains the tiny BEATs: a small encoder of the real architecture, taught by YAMNet and by what was mixed.

    for seed in 1 2 3 4 9; do
        python examples/tiny/beats_pool.py --corpus corpus/aac_train.json --teacher yamnet.safetensors \
            --out pool --seed $seed
    done
    mkdir validation && mv pool/pool_9.safetensors validation/
    python examples/tiny/beats_pool.py --corpus corpus/aac_valid.json --teacher yamnet.safetensors \
        --out unseen --seed 1 --count 200
    python examples/tiny/train_beats.py --pool pool --mixtures validation/pool_9.safetensors \
        --unseen unseen/pool_1.safetensors --out beats

The student learns, every 0.32 s, the teacher's embedding (its first 192 principal components), every 0.96 s
the teacher's class probabilities, and every 0.32 s and per clip which recordings can be heard. The learning
rate follows the clock and reaches zero when ``--minutes`` are over. Every three minutes ``--out`` gets
``curve.json`` and, if validation improved, ``beats_tiny.pt`` in the layout of the published checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from beats_pool import Pool, load_pools
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from yamnet import CLASSES, STEPS_PER_PATCH

from audiolm_compress.salmonn.beats import Beats, load_beats
from audiolm_compress.salmonn.beats_layers import BeatsConfig, WeightNormConv

CONFIG = BeatsConfig(
    input_patch_size=16,
    embed_dim=128,
    encoder_layers=4,
    encoder_embed_dim=160,
    encoder_ffn_embed_dim=640,
    encoder_attention_heads=4,
    conv_pos=128,
    conv_pos_groups=16,
    deep_norm=True,
    gru_rel_pos=True,
    relative_position_embedding=True,
    num_buckets=320,
    max_distance=800,
    dropout=0.0,
    attention_dropout=0.0,
)
COMPONENTS = 192
BATCH_PATCHES = 80
NORMALISED_DECIBEL = math.log(10) / 10 / (2 * 6.55582)  # one dB in beats_fbank's unit
LOG_STEPS = 50
SAVE_SECONDS = 180
WARM_UP = 0.05  # share of the time
TOKENS_PER_STEP = 16  # two time patches of eight frequencies


class FourierConv(WeightNormConv):
    """The same convolution through Fourier transforms: a tenth of the time at this width."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [batch, width, tokens]; computed and returned in float32."""
        width, inputs, kernel = self.weight_v.shape
        size = x.shape[2] + kernel
        norm = torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True)
        weight = torch.fft.rfft(self.weight_v * (self.weight_g / norm), n=size).conj()
        padded = torch.fft.rfft(F.pad(x.float(), (kernel // 2, 0)), n=size)
        product = torch.einsum(
            "bgif,goif->bgof",
            padded.unflatten(1, (self.groups, inputs)),
            weight.unflatten(0, (self.groups, width // self.groups)),
        )
        return torch.fft.irfft(product.flatten(1, 2), n=size)[..., : x.shape[2]] + self.bias[:, None]


class Student(nn.Module):
    """The encoder and the heads that only training needs."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.beats = Beats(CONFIG)
        width = CONFIG.encoder_embed_dim
        self.beats.encoder.pos_conv[0] = FourierConv(width, CONFIG.conv_pos, CONFIG.conv_pos_groups)
        self.embedding = nn.Linear(width, COMPONENTS)
        self.classes = nn.Linear(width, CLASSES)
        self.present = nn.Linear(width, labels)
        nn.init.constant_(self.classes.bias, -5.0)  # nearly all classes are absent nearly always
        nn.init.constant_(self.present.bias, -4.0)

    def forward(self, fbank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Components [batch, steps, 192]; logits of classes [batch, patches, 521] and of labels per step."""
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.beats.encode_fbank(fbank).features.float()
        steps = tokens.unflatten(1, (-1, TOKENS_PER_STEP)).mean(dim=2)
        by_patch = steps.unflatten(1, (-1, STEPS_PER_PATCH)).mean(dim=2)
        return self.embedding(steps), self.classes(by_patch), self.present(steps)


@dataclass(frozen=True)
class Components:
    """Principal components of the teacher's embeddings, half-way whitened so that small ones count too."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Components:
        """From embeddings [n, 1024]."""
        mean = embeddings.mean(dim=0)
        variance, basis = torch.linalg.eigh(torch.cov((embeddings - mean).T.double()))
        deviation = variance[-COMPONENTS:].clamp_min(1e-8).sqrt().float()
        scale = deviation.sqrt()
        return cls(mean, basis[:, -COMPONENTS:].float(), scale * (deviation / scale).square().mean().sqrt())

    def encode(self, embeddings: Tensor) -> Tensor:
        """Targets [..., 192] of embeddings [..., 1024]."""
        return (embeddings - self.mean) @ self.basis / self.scale

    def decode(self, targets: Tensor) -> Tensor:
        """Embeddings around their mean."""
        return (targets * self.scale) @ self.basis.T


def losses(
    student: Student, fbank: Tensor, pool: Pool, rows: Tensor, components: Components
) -> dict[str, Tensor]:
    """The four losses on some rows of a pool, each of the order of one at the start."""
    embedding, classes, present = student(fbank)
    target = pool.present[rows].float()
    clip = F.binary_cross_entropy_with_logits(present.amax(dim=1), target.amax(dim=1), reduction="none")
    step = F.binary_cross_entropy_with_logits(present, target, reduction="none")
    taught = pool.classes[rows].float()
    teacher_classes = F.binary_cross_entropy_with_logits(classes, taught, reduction="none")
    return {
        "embedding": F.mse_loss(embedding, components.encode(pool.embedding[rows].float())),
        "classes": teacher_classes.sum(dim=-1).mean() / 5,
        "clip": clip.sum(dim=-1).mean() / 5,
        "steps": step.sum(dim=-1).mean() / 5,
    }


@torch.no_grad()
def evaluate(student: Student, pool: Pool, components: Components) -> dict[str, float]:
    """How well recordings are recognised and the teacher's embedding is met (cosine around the mean)."""
    student.eval()
    rows = torch.arange(len(pool.fbank)).split(16)
    outputs = [student(pool.fbank[part].float()) for part in rows]
    student.train()
    embedding, classes, present = (torch.cat(column) for column in zip(*outputs, strict=True))
    teacher = pool.embedding.float() - components.mean
    figures = {
        "cosine": F.cosine_similarity(components.decode(embedding), teacher, dim=-1).mean().item(),
        "top_class": (classes.argmax(-1) == pool.classes.argmax(-1)).float().mean().item(),
    }
    if pool.present.any():
        figures["clip_map"] = mean_average_precision(present.amax(dim=1), pool.present.any(dim=1))
        figures["step_map"] = mean_average_precision(present.flatten(0, 1), pool.present.flatten(0, 1))
        figures["clip_recall"] = recall_at_count(present.amax(dim=1), pool.present.any(dim=1))
    return figures


def mean_average_precision(scores: Tensor, truth: Tensor) -> float:
    """Mean over labels that occur, of the average precision of ranking all rows; both [rows, labels]."""
    ranked = truth.gather(0, scores.argsort(dim=0, descending=True)).float()
    precision = ranked.cumsum(dim=0) / torch.arange(1, len(ranked) + 1)[:, None]
    occurs = truth.any(dim=0)
    return ((precision * ranked).sum(dim=0)[occurs] / ranked.sum(dim=0)[occurs]).mean().item()


def recall_at_count(scores: Tensor, truth: Tensor) -> float:
    """Share of a row's k true labels among its k best scores, over all rows; both [rows, labels]."""
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1)
    return ((rank < truth.sum(dim=1, keepdim=True)) & truth).sum().item() / truth.sum().item()


def save(beats: Beats, out: Path) -> None:
    """Write ``beats_tiny.pt`` in the published layout; a reader never sees half a file."""
    torch.save({"cfg": CONFIG.to_dict(), "model": beats.upstream_state_dict()}, out / "beats_tiny.tmp")
    (out / "beats_tiny.tmp").replace(out / "beats_tiny.pt")


def make_optimiser(student: Student) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    decayed = [parameter for parameter in student.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in student.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def train(
    student: Student,
    folder: Path,
    validation: dict[str, Pool],
    components: Components,
    minutes: float,
    peak_rate: float,
    out: Path,
) -> None:
    """Optimise until the time is over; keep the checkpoint with the best sum of validation figures."""
    optimiser = make_optimiser(student)
    generator = torch.Generator().manual_seed(0)
    curve: list[dict[str, float | dict[str, float]]] = []
    start = saved = time.monotonic()
    best, step, sums = -math.inf, 0, dict[str, float]()
    files: list[Path] = []
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        if step % LOG_STEPS == 0 and files != (found := sorted(folder.glob("*.safetensors"))):
            files, pools = found, list(load_pools(found).values())  # drawing may go on beside training
            weights = torch.tensor([float(pool.fbank.shape[0] * pool.fbank.shape[1]) for pool in pools])
            print(f"{len(files)} pool files with {len(pools[0].fbank)} short mixtures", flush=True)
        pool = pools[int(torch.multinomial(weights, 1, generator=generator))]
        batch = BATCH_PATCHES // pool.classes.shape[1]
        rows = torch.randint(len(pool.fbank), (batch,), generator=generator)
        # Another level adds a constant to a log spectrogram: up to 8 dB either way.
        gain = (torch.rand(batch, 1, 1, generator=generator) * 16 - 8) * NORMALISED_DECIBEL
        parts = losses(student, pool.fbank[rows].float() + gain, pool, rows, components)
        rate = peak_rate * min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        step += 1
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.item() / LOG_STEPS
        if step % LOG_STEPS == 0:
            print(f"{share:5.1%} step {step}:", json.dumps(sums), flush=True)
            curve.append({"step": step, "minutes": share * minutes, "rate": rate, **sums})
            sums.clear()
        finished = time.monotonic() - start > 60 * minutes - 10
        if finished or time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            figures = {name: evaluate(student, held_out, components) for name, held_out in validation.items()}
            print(json.dumps(figures), flush=True)
            curve.append({"step": step, "minutes": share * minutes, **figures})
            (out / "curve.json").write_text(json.dumps(curve, indent=1))
            score = sum(sum(each.values()) for each in figures.values())
            if score > best:
                best = score
                save(student.beats, out)
                save_file(student.state_dict(), out / "student.safetensors")
            if finished:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tiny BEATs.")
    parser.add_argument("--pool", type=Path, required=True, help="folder of pool files to learn from")
    parser.add_argument("--mixtures", type=Path, required=True, help="a pool file to validate on")
    parser.add_argument("--unseen", type=Path, required=True, help="a pool file of sounds not learnt from")
    parser.add_argument("--resume", type=Path, help="student.safetensors of an earlier run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    validation = {name: load_pools([getattr(args, name)])["short"] for name in ("mixtures", "unseen")}
    labels = validation["mixtures"].present.shape[-1]
    validation["unseen"].present.fill_(False)  # the labels of a pool number its own recordings
    components = Components.of(validation["mixtures"].embedding.float().flatten(0, 1))
    student = Student(labels)
    if args.resume:
        student.load_state_dict(load_file(args.resume))
    train(student, args.pool, validation, components, args.minutes, args.rate, args.out)
    load_beats(args.out / "beats_tiny.pt")  # the checkpoint opens


if __name__ == "__main__":
    main()
