"""The measured process: loads one model, times it, lets it answer, and writes what it found.

    python -m audiolm_compress.measurement.worker REQUEST RESULT

REQUEST is a JSON file (see ``Request``). RESULT is written as a whole at the end: ``{"measurements", "clips",
"places"}``, the answers with their places among all clips and without scores yet, or ``{"error": {"type",
"message"}}``. Progress goes to standard output, one JSON object a line: ``{"start": "reading", "total": 12}``
and ``{"advance": 1}``; what libraries print, to standard error.

Where several models are timed in turns, it says ``{"pause": "turn"}`` before each round, and goes on when a
line comes from standard input. So it does at ``{"pause": "timed"}``, before it answers, and at ``{"pause":
"answered"}``, before it times on: then other models, and the processes that share the clips, must have come
as far. Of several that share them each answers its share, and the first alone measures.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import Examples, load_examples
from audiolm_compress.errors import AudioLMError
from audiolm_compress.faults import explained
from audiolm_compress.measurement.batches import batch_latency
from audiolm_compress.measurement.data_hashes import data_hashes
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.latency import clips_latency, noise_latency, transformers_latency
from audiolm_compress.measurement.measurements import ClipResult, Measurements
from audiolm_compress.measurement.memory import PeakMeter, kv_cache_bytes_per_token
from audiolm_compress.measurement.quality import answer_clips, own_batches, used_decode
from audiolm_compress.measurement.reporter import Reporter
from audiolm_compress.measurement.request import Request
from audiolm_compress.measurement.rounds import Rounds
from audiolm_compress.quantization.modules import kernel_report, prepare_modules
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn


def measure_here(request: Request, progress: Reporter) -> Measurements:
    """Measure in this process, which should be fresh. Scores are left out: ``scoring.score`` adds them.

    The latency comes before the quality, so that every model meets it in the same state.
    """
    found, answers = measure_share(request, progress)
    return replace(found, clips=tuple(answers.values()))


def measure_share(request: Request, progress: Reporter) -> tuple[Measurements, dict[int, ClipResult]]:
    """Measurements without answers, and the answers to this process's share of the clips by their places."""
    settings, device = request.settings, torch.device(request.device)
    waits = request.in_turns or request.share[1] > 1
    torch.manual_seed(request.seed)
    loaded = _load_clips(request)
    examples = loaded.examples
    hashes = data_hashes(request.clips.test, examples)
    progress.start("loading the model", 1)
    meter = PeakMeter(device)
    begin = time.perf_counter()
    model, slow_kernels = _load_model(request)
    load_seconds = time.perf_counter() - begin
    meter.loaded()
    progress.advance()
    progress.loaded(meter.held(), meter.free())
    rounds = Rounds(device, settings.latency.rounds, progress, in_turns=request.in_turns)
    on_clips = clips_latency(model, examples, settings, rounds)
    meter.noise_protocol_begins()
    on_noise = noise_latency(model, settings, request.seed, rounds)
    meter.noise_protocol_ends()
    if waits:
        progress.pause("timed")
    answers = _answers(model, examples, request, progress)
    memory = meter.result()  # what comes after it must not add to it
    if waits:
        progress.pause("answered")
    in_transformers = None
    if settings.latency.transformers:
        in_transformers = transformers_latency(model, examples, settings, rounds)
    batches = [
        batch_latency(model, examples, settings, size, rounds) for size in settings.latency.batch_sizes
    ]
    by_part = model.weight_bytes()
    found = Measurements(
        source=request.source,
        weight_bytes=sum(by_part.values()),
        weight_bytes_by_part=by_part,
        memory=replace(memory, kv_cache_bytes_per_token=kv_cache_bytes_per_token(model)),
        clips_latency=on_clips,
        noise_latency=on_noise,
        scores={},
        unscored={},
        edits=None,
        groups=(),
        counts=loaded.counts(),
        skipped=tuple(loaded.bad),
        decode=used_decode(model, examples, settings),
        clips=(),
        environment=describe_environment(device, request.seed)
        | {"data": hashes, "kernels": kernel_report(model)},
        load_seconds=load_seconds,
        notes=(
            *filter(None, [model.runtime_note]),
            *slow_kernels,
            *_notes(on_clips.tokens),
            *rounds.notes,
        ),
        transformers_latency=in_transformers,
        batches=tuple(batches),
    )
    return found, answers


def answer_share(request: Request, progress: Reporter) -> dict[int, ClipResult]:
    """The answers of a process that measures nothing; its share may be empty."""
    examples = _load_clips(request).examples
    if not own_batches(examples, request.settings.batch_size, request.share):
        return {}
    model, _ = _load_model(request)
    return _answers(model, examples, request, progress)


def _load_clips(request: Request) -> Examples:
    spec = request.clips
    return load_examples(
        spec.test,
        prefix=spec.prefix,
        channel=spec.channel,
        on_bad_audio=spec.on_bad_audio,
        limit=request.settings.max_clips,
    )


def _load_model(request: Request) -> tuple[Salmonn, list[str]]:
    """As it is to be measured, and notes on kernels that will be slow."""
    model = load_model(request.source, device=request.device, allow_missing=request.allow_missing)
    if request.asking is not None:
        request.asking.give(model)
    model.runtime = request.settings.runtime
    return model, list(prepare_modules(model))


def _answers(
    model: Salmonn, examples: list[Example], request: Request, progress: Reporter
) -> dict[int, ClipResult]:
    settings, share = request.settings, request.share
    own = sum(len(batch) for _, batch in own_batches(examples, settings.batch_size, share))
    which = "all" if share[1] == 1 else f"{own} of {len(examples)}"
    progress.start(f"answering {which} clips", own)
    return answer_clips(model, examples, settings, progress.advance, seed=request.seed, share=share)


def main(arguments: list[str]) -> int:
    """Run as a process: 0 if the result holds measurements, 2 if it holds an error of ours."""
    request_file, result_file = map(Path, arguments)
    # Libraries print as they like; the parent must read nothing but progress on its end.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    request = Request.model_validate_json(request_file.read_text(encoding="utf-8"))
    reporter = Reporter(stream, sys.stdin)
    content: dict[str, Any] = {}
    try:
        with explained():
            if request.share[0] == 0:
                found, answers = measure_share(request, reporter)
                content["measurements"] = found.to_dict()
            else:
                answers = answer_share(request, reporter)
        content |= {"places": list(answers), "clips": [asdict(clip) for clip in answers.values()]}
    except AudioLMError as error:
        content = {"error": {"type": type(error).__name__, "message": str(error)}}
    partial = result_file.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(result_file)
    return 2 if "error" in content else 0


def _notes(tokens: float) -> tuple[str, ...]:
    if tokens > 1:
        return ()
    return ("every timed answer ended with its first token, so there is no TPOT on real clips",)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
