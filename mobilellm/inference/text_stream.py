"""Text of tokens that arrive one by one, piece by piece."""

from mobilellm.data.tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are not a character, such as the first byte of one."""


class TextStream:
    """Decodes tokens one by one; the pieces, joined, are the decoded text of all tokens.

    All tokens are decoded again for every piece, since the text of a token depends on those before
    it: a character may consist of several tokens, and SentencePiece writes the space before a word
    only within a text. This takes much less time than computing a token.

    Some tokenizers with byte fallback replace whole characters too, once bytes follow that are no
    character. The pieces that were returned stay then.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin an empty text."""
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self.text = ""
        """All pieces so far."""

    def add(self, token: int) -> str:
        """Add a token and return the new text; empty while a character is incomplete."""
        # A padded embedding has more rows than the tokenizer has tokens.
        if token >= self._tokenizer.vocab_size:
            return ""
        self._tokens.append(token)
        return self._extend(self._tokenizer.decode(self._tokens).rstrip(_REPLACEMENT))

    def end(self) -> str:
        """Return what is left: replacement characters for an incomplete character."""
        return self._extend(self._tokenizer.decode(self._tokens))

    def _extend(self, text: str) -> str:
        piece = text[len(self.text) :]
        self.text += piece
        return piece
