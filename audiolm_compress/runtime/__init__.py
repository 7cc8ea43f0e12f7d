"""Causal language models read token by token, straight over the modules of the transformers model.

transformers' own forward and ``generate`` spend most of a small model's time, and much of a quantised
one's, on bookkeeping: masks and positions of every step, caches that grow by concatenation, keys repeated for
grouped queries. Here the same numbers are computed with as few and as large operations as PyTorch offers:

    architecture    which models are known, and where in them the parts lie
    attention       rotary tables, masks and the two attention paths
    cache           keys and values in memory that is allocated once
    decoder         prompt in, logits of its last position out; then token by token
    answers         what greedy and beam search share; ``greedy`` and ``beam_search`` themselves
    prefixes        keys and values of prompts' constant beginnings, computed once
    compiled        decode steps through torch.compile
    engine          one decoder a model, kept as long as its weights are the same
    fallback        the same interface over transformers' forward, for models that are not known
"""
