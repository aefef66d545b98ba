"""What is prepared, and how."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTokenizerConfig:
    """A tokenizer that is learned from the text first."""

    vocab_size: int | None = None
    """Tokens of a byte-level BPE to learn, bytes, begin and end included; null: none is
    learned. It is written to tokenizer.json in the output."""

    sample_documents: int = 100_000
    """Documents to learn it from, at most, from all over the text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Text in, shards of tokens out."""

    input: str | list[str]
    """Locations of text, as in data.text.domains: files, folders, globs, hf:NAME?OPTIONS,
    python:code, python:docs."""

    output: str
    """Folder for the shards: a new one, or one to continue."""

    field: str = "text"
    """Field or column that holds the text, where there are several."""

    tokenizer: str = "byte"
    """byte, or a file: tokenizer.json of Hugging Face, a SentencePiece model, or a tiktoken
    ranks file (Llama 3's tokenizer.model)."""

    bos_token: str | None = None
    """Token that begins a document, where the tokenizer's file does not tell."""

    eos_token: str | None = None
    """Token that ends a document, where the tokenizer's file does not tell."""

    train_tokenizer: TrainTokenizerConfig = dataclasses.field(default_factory=TrainTokenizerConfig)
    """A tokenizer that is learned from the text first."""

    shard_documents: int = 20_000
    """Documents of a shard, at most. What is done of a shard is lost when the command is
    killed; training keeps every shard open."""

    workers: int | None = None
    """Processes that work at the same time; null: one per core. 1 starts none."""

    max_skipped: float = 0.01
    """Share of unreadable documents that is borne; each is counted, the first are reported."""

    def __post_init__(self) -> None:
        if not self.locations or not all(self.locations):
            raise ValueError(f"input {self.input!r}: name at least one location")
        if not self.output:
            raise ValueError("output '': name a folder")
        for name, count in (
            ("shard_documents", self.shard_documents),
            ("workers", self.workers),
            ("train_tokenizer.sample_documents", self.train_tokenizer.sample_documents),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{name} {count}: must be at least 1")
        if not 0.0 <= self.max_skipped <= 1.0:
            raise ValueError(f"max_skipped {self.max_skipped}: must be in [0, 1]")
        if self.train_tokenizer.vocab_size is None:
            return
        for name, token in (("bos_token", self.bos_token), ("eos_token", self.eos_token)):
            if token is not None:
                raise ValueError(f"{name} {token}: a tokenizer that is learned has its own")
        if self.tokenizer != "byte":
            raise ValueError(
                f"tokenizer {self.tokenizer}: train_tokenizer.vocab_size "
                f"{self.train_tokenizer.vocab_size} learns one; set one of the two"
            )

    @property
    def locations(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input
