"""Small files of every kind of tokenizer."""

import base64
import io

import sentencepiece
import tokenizers

from mta_jax.data.tokenizers import train_bpe
from mta_jax.data.tokenizers.tiktoken_ranks import Vocabulary

TEXTS = [
    f"the quick brown fox {index} jumps over the lazy dog, don't they?\n\tGröße 注意 {index * 7}"
    for index in range(60)
]
# Byte-pair encoding finds a token only where a pair of others makes it.
MERGED = [
    *(word.encode() for word in ("th", "the", " th", " the", "qu", "é", "\n\n", "<|", "|>", "..")),
    *("注".encode()[:2], "注".encode(), "意".encode()[:2], "意".encode(), "注意".encode()),
]
RANKS = 256 + len(MERGED)
# As much of a vocabulary as a small file needs; the split is simple, and so is the end.
SMALL = Vocabulary(r"\s*\S+|\s+", {"<|a|>": RANKS, "<|b|>": RANKS + 3}, "<|a|>", "<|b|>")


def byte_level(path):
    train_bpe(TEXTS, 320, path)


def write_json(path, model, **parts):
    """A `tokenizers` file; `special` are special tokens, the rest parts by name."""
    made = tokenizers.Tokenizer(model)
    made.add_special_tokens(parts.pop("special", []))
    for name, part in parts.items():
        setattr(made, name, part)
    made.save(str(path))


def llama2_like(path):
    """BPE on characters with U+2581 for spaces, and bytes for what is unknown."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", "t", "h", "e", "ö", "th", "the", "▁the"]
    decoders = tokenizers.decoders
    write_json(
        path,
        tokenizers.models.BPE(
            {name: index for index, name in enumerate(names)},
            [("t", "h"), ("th", "e"), ("▁", "the")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        ),
        special=["<unk>", "<s>", "</s>"],
        normalizer=tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        ),
        decoder=decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        post_processor=tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        ),
    )


def word_level(path, *special):
    write_json(path, tokenizers.models.WordLevel({"a": 0, "b": 1}, "b"), special=list(special))


def sentence_piece(path, **settings):
    """Of either kind; by default lossless, as Llama 2's."""
    settings = {
        "model_type": "bpe",
        "vocab_size": 330,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    } | settings
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, minloglevel=2, **settings
    )
    path.write_bytes(written.getvalue())


def ranks_of(tokens):
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    return "\n".join(lines) + "\n"


def small_ranks(path):
    tokens = [bytes([byte]) for byte in range(256)]
    path.write_text(ranks_of([*tokens, *MERGED]))
