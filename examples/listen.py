"""A page to compare two models by ear: both answer the same clip, side by side, with the time that took.

    pip install -c constraints.txt '.[demo]'
    python examples/listen.py tiny out/gemma2_4bit           # then open the address that is printed

Times run from the waveform to the last word of one clip: what a difference is worth, `bench` says.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from audiolm_compress import Salmonn, load_model
from audiolm_compress.data.audio import load_audio
from audiolm_compress.errors import AudioLMError, DataError

TASKS = {"what is said": "asr", "what is heard": "audiocaption"}


def answers(models: Mapping[str, Salmonn], file: str | None, task: str, question: str = "") -> list[str]:
    """What each model says of an audio file, and the seconds it took; a question of one's own goes first."""
    if file is None:
        return ["first record or upload a clip"] * len(models)
    try:
        waveform = load_audio(file).waveform
    except DataError as error:
        return [str(error)] * len(models)
    found = []
    for model in models.values():
        begin = time.perf_counter()
        [text] = model.generate([waveform], task=TASKS[task], prompt=question.strip() or None)
        found.append(f"{text}\n\n({time.perf_counter() - begin:.2f} s)")
    return found


def page(models: Mapping[str, Salmonn]) -> Any:
    """The page, not yet served."""
    import gradio

    with gradio.Blocks(title="Two models, one clip") as blocks:
        gradio.Markdown(
            "# Two models, one clip\nRecord or upload a clip, and press *Listen*: each model answers."
        )
        clip = gradio.Audio(sources=["microphone", "upload"], type="filepath", label="clip, 30 s at most")
        task = gradio.Radio(list(TASKS), value=next(iter(TASKS)), label="to be told")
        question = gradio.Textbox(label="or a question of your own")
        with gradio.Row():
            told = [gradio.Textbox(label=name, lines=4) for name in models]
        gradio.Button("Listen").click(
            lambda *given: answers(models, *given), [clip, task, question], told, api_name="answers"
        )
    return blocks


if __name__ == "__main__":
    try:
        models = {name: load_model(name) for name in sys.argv[1:] or ["tiny"]}
    except AudioLMError as error:
        sys.exit(f"error: {error}")
    for model in models.values():
        model.generate([0.01 * torch.randn(16000)])  # the first answer of a process takes longer
    page(models).launch()
