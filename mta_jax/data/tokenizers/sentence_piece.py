"""SentencePiece models, usually called tokenizer.model or *.model."""

from mta_jax.data.tokenizers.files import FileTokenizer, first_line

_SPACE = "\u2581"


class SentencePieceTokenizer(FileTokenizer):
    """A SentencePiece model, with the begin and the end that it was trained with.

    Most models put a space in front of a text and take it away again when decoding;
    `byte_lengths` counts it. What the model's own normalization changes, often spaces
    and compatibility characters, does not come back, nor does U+2581, which stands for
    a space. Where a model does not fall back to bytes, an unknown character becomes
    its unknown token, of length 0.
    """

    def _open(self, content: bytes) -> None:
        sentencepiece = self._library("sentencepiece")
        try:
            # Given nothing, it makes a processor without a model.
            model = sentencepiece.SentencePieceProcessor(model_proto=content or b"\0")
        except Exception as error:  # which ones it raises differs between its versions
            raise self._error(
                "neither a SentencePiece model nor lines of 'base64 rank' as tiktoken has them "
                f"({first_line(error)})"
            ) from None
        self._model = model
        self.vocab_size = model.get_piece_size()
        self._special = {
            model.id_to_piece(index): index
            for index in range(self.vocab_size)
            if model.is_control(index)
        }

    def _usual_ends(self) -> tuple[int | None, int | None]:
        bos_id, eos_id = self._model.bos_id(), self._model.eos_id()
        return (bos_id if bos_id >= 0 else None), (eos_id if eos_id >= 0 else None)

    def _to_ids(self, text: str) -> list[int]:
        return self._model.encode(text)

    def _to_text(self, ids: list[int]) -> str:
        return self._model.decode(ids)

    def _lengths(self) -> list[int]:
        return [self._length(index) for index in range(self.vocab_size)]

    def _length(self, index: int) -> int:
        if self._model.is_unknown(index):
            return 0
        if self._model.is_byte(index):
            return 1
        return len(self._model.id_to_piece(index).replace(_SPACE, " ").encode())
