"""The model in the form in which it is trained: on cached encoder states, with the auxiliary CTC loss.

Three things make it learn in minutes what a language model alone would need hours for.

* CTC (Graves et al. 2006): every audio token must name the two sub-word units (or blanks) that are spoken in
  its first and second half. The classifier's weights are unit embeddings, so an audio token comes to be the
  sum of the embeddings of its units.
* Before there is any sound, the language model learns to read such sums, made from text, out loud.
* Padding up to 30 s costs nothing: the positions behind a clip's end are skipped (rotary positions and the
  sliding window count them), and only a few tokens of padding are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from data import WINDOW, States
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from audiolm_compress.salmonn.connector import Connector, ConnectorConfig
from audiolm_compress.salmonn.lora import add_lora
from audiolm_compress.salmonn.prompts import Prompts

TOKENS = 1500 // WINDOW  # audio tokens of the padded form
IGNORED = -100
END, UNKNOWN = "<eos>", 3
HALVES = 2  # units that an audio token can name
PROMPTS = Prompts(
    template="USER: {}\nASSISTANT:",
    test={
        "asr": "<Speech><SpeechHere></Speech> Recognize the speech and give me the transcription.",
        "audiocaption": "<Speech><SpeechHere></Speech> Please describe the audio.",
        "audiocaption_v2": "<Speech><SpeechHere></Speech> Please describe the audio.",
    },
    train={
        "asr": (
            "<Speech><SpeechHere></Speech> Recognize the speech and give me the transcription.",
            "<Speech><SpeechHere></Speech> Please transcribe the speech into a written format.",
            "<Speech><SpeechHere></Speech> What does the speaker say?",
        ),
        "audiocaption": (
            "<Speech><SpeechHere></Speech> Please describe the audio.",
            "<Speech><SpeechHere></Speech> What can be heard?",
        ),
        "audiocaption_v2": (
            "<Speech><SpeechHere></Speech> Please describe the audio.",
            "<Speech><SpeechHere></Speech> What can be heard?",
        ),
    },
)


def new_llm(tokenizer: PreTrainedTokenizerBase) -> Gemma2ForCausalLM:
    """A Gemma-2 of 4.6 M parameters with random weights."""
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=128,
        max_position_embeddings=1024,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        attn_implementation="eager",
    )
    llm = Gemma2ForCausalLM(config)
    # With the scale of sqrt(256) that Gemma puts on embeddings, their rows have entries of variance 1.
    nn.init.normal_(llm.model.embed_tokens.weight, std=256**-0.5)
    return llm


def new_connector(speech_width: int, audio_width: int) -> Connector:
    """A connector of 2.1 M parameters: 187 audio tokens for 30 s."""
    return Connector(
        ConnectorConfig(
            speech_width=speech_width,
            audio_width=audio_width,
            llm_width=256,
            hidden=256,
            heads=4,
            layers=2,
            intermediate=768,
            window=WINDOW,
            stride=WINDOW,
        )
    )


@dataclass(frozen=True)
class Words:
    """What stands around the audio of one clip, in token ids: before, after, and the answer with its end."""

    before: list[int]
    after: list[int]
    answer: list[int]


class Wording:
    """Turns tasks and texts into ids, exactly as `Salmonn.wrap` does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids without special tokens; remembered."""
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def text(self, ids: list[int]) -> str:
        """The words of generated ids, up to the end."""
        end = self.tokenizer.eos_token_id
        return self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids).strip()

    def __call__(self, instruction: str, text: str) -> Words:
        """Words of an instruction (with `<SpeechHere>`) and an answer."""
        before, after = PROMPTS.around("", instruction)
        answer = self.ids(text + END) if text else []
        return Words([self.tokenizer.bos_token_id, *self.ids(before)], self.ids(after), answer)


class Units(nn.Module):
    """Embeddings of sub-word units for each half of an audio token; also the classifier of the CTC loss."""

    def __init__(self, units: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(HALVES, units, width) * (HALVES * width) ** -0.5)
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.zeros(HALVES, units))

    def sum_of(self, ids: Tensor) -> Tensor:
        """Audio tokens [batch, tokens, width] that name ``ids`` [batch, tokens, halves]."""
        return sum(self.embedding[half][ids[..., half]] for half in range(HALVES))  # type: ignore[return-value]

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """[batch, tokens, width] to log-probabilities [batch, tokens * halves, units]."""
        logits = torch.einsum("btw,huw->bthu", tokens, self.embedding) * self.sharpness + self.bias
        return F.log_softmax(logits.float(), dim=-1).flatten(1, 2)


class Network(nn.Module):
    """Connector, language model and CTC units; the encoders are cached."""

    def __init__(self, connector: Connector, llm: PreTrainedModel, units: int) -> None:
        super().__init__()
        self.connector = connector
        self.llm = llm
        self.units = Units(units, 256)

    @torch.no_grad()
    def name_tokens(self, tokenizer: PreTrainedTokenizerBase, units: Tokenizer) -> None:
        """Start the language model's embeddings from the units that its tokens are made of.

        A word then resembles the audio tokens it is heard in, and the language model finds the place in the
        audio that it has written down so far without having to learn a dictionary first.
        """
        rows = self.llm.get_input_embeddings().weight
        both = self.units.embedding.sum(0)
        for token, row in zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), rows, strict=True):
            named = units.encode(token).ids
            if named and not token.startswith("<"):
                named_row = F.normalize(both[named].sum(0), dim=0)
                row.copy_(0.9 * named_row + 0.45 * row / row.norm())

    def hear(self, states: States) -> Tensor:
        """Audio tokens of a batch; each row as `Connector.forward` gives it for the clip alone."""
        connector = self.connector
        audio = connector.ln_audio(states.audio) * states.audio_mask
        joined = torch.cat((connector.ln_speech(states.speech), audio), dim=-1)
        return connector.projection(connector.qformer(joined).flatten(1, 2))

    def ctc_loss(self, tokens: Tensor, own: Tensor, targets: list[list[int]]) -> Tensor:
        """Mean CTC loss per unit of the rows that have targets; ``own`` tokens of each row are read."""
        spoken = [i for i, target in enumerate(targets) if target]
        lengths = torch.tensor([len(targets[i]) for i in spoken])
        flat = torch.tensor([unit for i in spoken for unit in targets[i]])
        scores = self.units.log_probabilities(tokens[spoken]).transpose(0, 1)
        return F.ctc_loss(scores, flat, own[spoken] * HALVES, lengths, zero_infinity=True)

    def text_loss(
        self, tokens: Tensor, kept: Tensor, words: list[Words], corrupt: float = 0.0, gap: bool = True
    ) -> Tensor:
        """Mean cross-entropy of the answers.

        Args:
            tokens: audio tokens [batch, tokens, hidden].
            kept: how many of them each row reads, int64 [batch].
            words: what stands around them; ``before`` has the same length in all rows.
            corrupt: share of the answers' tokens that the model does not get to see, so that it must listen.
            gap: what follows the audio has the positions of the padded form, however many tokens are kept.
        """
        hidden, positions, labels, mask = self._layout(tokens, kept, words, corrupt, gap)
        base = self.llm.get_base_model() if hasattr(self.llm, "peft_config") else self.llm
        states = base.model(
            inputs_embeds=hidden, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        wanted = labels[:, 1:] != IGNORED
        logits = base.lm_head(states[:, :-1][wanted]).float()
        cap = base.config.final_logit_softcapping
        return F.cross_entropy(torch.tanh(logits / cap) * cap, labels[:, 1:][wanted])

    def greedy(
        self, tokens: Tensor, kept: Tensor, words: list[Words], longest: int, gap: bool = True
    ) -> list[list[int]]:
        """The likeliest next token again and again; without a cache, which short texts allow."""
        base = self.llm.get_base_model() if hasattr(self.llm, "peft_config") else self.llm
        written: list[list[int]] = [[] for _ in words]
        ends = torch.tensor([len(w.before) + len(w.after) for w in words]) + kept - 1
        for step in range(longest):
            asked = [Words(w.before, w.after, ids) for w, ids in zip(words, written, strict=True)]
            hidden, positions, _, mask = self._layout(tokens, kept, asked, 0.0, gap)
            states = base.model(
                inputs_embeds=hidden, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            last = states[torch.arange(len(words)), ends + step]
            for ids, token in zip(written, base.lm_head(last).argmax(-1).tolist(), strict=True):
                ids.append(token)
            if all(base.config.eos_token_id in ids for ids in written):
                break
        return written

    def _layout(
        self, tokens: Tensor, kept: Tensor, words: list[Words], corrupt: float, gap: bool
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Embeddings, positions, labels and masks."""
        base = self.llm.get_base_model() if hasattr(self.llm, "peft_config") else self.llm
        embedding, start = base.get_input_embeddings(), len(words[0].before)
        counts = kept.tolist()
        length = max(start + n + len(w.after) + len(w.answer) for n, w in zip(counts, words, strict=True))
        ids = torch.zeros(len(words), length, dtype=torch.int64)
        labels, positions = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        valid, is_audio = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for row, (n, w) in enumerate(zip(counts, words, strict=True)):
            after, answer = start + n, start + n + len(w.after)
            end = answer + len(w.answer)
            ids[row, :start] = torch.tensor(w.before)
            ids[row, after:end] = torch.tensor(w.after + w.answer)
            labels[row, answer:end] = torch.tensor(w.answer)
            positions[row, :after] = torch.arange(after)
            positions[row, after:] = torch.arange(length - after) + start + (TOKENS if gap else n)
            is_audio[row, start:after] = True
            valid[row, :end] = True
        if corrupt:
            hidden = (labels != IGNORED) & (torch.rand(ids.shape) < corrupt)
            ids = ids.masked_fill(hidden, UNKNOWN)
        embeds = embedding(ids)
        heard = (tokens * embedding.embed_scale).to(embeds.dtype)
        used = torch.arange(tokens.shape[1])[None] < kept[:, None]
        embeds = embeds.masked_scatter(is_audio[..., None], heard[used])
        order = torch.arange(length)
        causal = (order[:, None] >= order[None])[None] & valid[:, None]
        distance = positions[:, :, None] - positions[:, None]
        window = causal & (distance < base.config.sliding_window)
        masks = {"full_attention": causal, "sliding_attention": window}
        lowest = torch.finfo(torch.float32).min
        additive = {name: torch.where(m, 0.0, lowest)[:, None] for name, m in masks.items()}
        return embeds, positions, labels, additive


def freeze_llm(network: Network) -> None:
    """Round the language model to bfloat16, as it will be stored, and put a LoRA beside it to be trained."""
    for parameter in network.llm.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    network.llm = add_lora(
        network.llm, r=8, lora_alpha=32, lora_dropout=0.1, target_modules=("q_proj", "v_proj")
    )
    network.units.requires_grad_(False)
