"""Tokenizers of the kinds that models come with, learnt on a few lines."""

import json

TEXT = """The notice term is thirty days. Say why in writing, and name the risk. Yes, by notice, in thirty days.
def double(n):
    return 2 * n
May either party end this? What is the fix? Double two and you get four."""
INFILLING = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]


def sentencepiece_like(style):
    """Llama 2's kind: a BPE over characters with ▁ for a space, bytes for what it doesn't know, BOS before a text.

    Args:
        style: how ▁ gets in: `normalizer` (older files) or `metaspace` (newer ones).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    learnt = Tokenizer(models.BPE())
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    learnt.train_from_iterator(["▁" + line.replace(" ", "▁") for line in TEXT.split("\n")], trainer)
    model = json.loads(learnt.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    bpe = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if style == "normalizer":
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(steps)
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in ["<unk>", "<s>", "</s>", *INFILLING]])
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return bpe


def byte_level(pattern=None, normalizer=None):
    """GPT-2's kind, or with a pattern of its own as Llama 3's and Qwen's are: a BPE over bytes, no BOS of itself."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*split, whole]) if split else whole
    bpe.normalizer = normalizers.NFC() if normalizer else None
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|begin|>", "<|end|>", "<|turn|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXT.split("\n"), trainer)
    return bpe


CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def fast(tokenizer, template, bos, eos, **more):
    """Wrap a tokenizer as transformers does."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos, **more)
    wrapped.chat_template = template
    return wrapped
