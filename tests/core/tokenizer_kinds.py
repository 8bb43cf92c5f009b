"""Tokenizers of other makes than the tiny model's, trained on a few lines."""

import json

SPECIAL = ["<unk>", "<s>", "</s>"]


def tokenizer_of(kind, lines, *, plain=False):
    """Make a fast tokenizer.

    Args:
        kind: `Metaspace`, `Llama 2` (SentencePiece as Transformers writes it: no words, every space a ▁, one more in
            front), `Unigram` or `WordPiece`.
        lines: what it is trained on.
        plain: bytes are plain pieces, as in Llama 2, and not added tokens; Unigram has no normalizer.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    if kind == "Metaspace":
        backend = Tokenizer(bpe)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    elif kind == "Llama 2":
        backend = Tokenizer(bpe)
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "Unigram":
        backend = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
        if not plain:
            backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(lines, trainer)
    if plain:
        layout = json.loads(backend.to_str())
        layout["added_tokens"] = layout["added_tokens"][: len(SPECIAL)]
        backend = Tokenizer.from_str(json.dumps(layout))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
