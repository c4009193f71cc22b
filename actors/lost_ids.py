"""Finds ids that an engine generated but told only as text: llama.cpp withholds a token that ends inside a character, and
then tells the text of all of them with the id of the last alone.

Decides which ids stand for such a text. Where several do, the longest pieces first: the text is the same either way. It
must not know engines or requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MOST_LOST = 8
MOST_BYTES = 64


class Pieces:
    """Looks ids up by their bytes.

    Args:
        pieces: the bytes of each id; empty for those without text.

    >>> smile = "😊".encode()
    >>> Pieces([b"a", smile[:2], smile[2:3], smile[3:]]).before("😊", last=3, count=2)
    (1, 2)
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._ids: dict[bytes, int] = {}
        for token, piece in enumerate(pieces):
            if piece:
                self._ids.setdefault(piece, token)

    def before(self, text: str, *, last: int, count: int) -> tuple[int, ...]:
        """The `count` ids that make `text` together with the id `last`; empty when none do or they are too many."""
        whole = text.encode()
        tail = self._pieces[last] if 0 <= last < len(self._pieces) else b""
        if not 0 < count <= MOST_LOST or len(whole) > MOST_BYTES or not whole.endswith(tail):
            return ()
        return next(self._splits(whole[: len(whole) - len(tail)], count), ())

    def _splits(self, data: bytes, count: int) -> Iterator[tuple[int, ...]]:
        """All ways to cut bytes into `count` pieces that each end inside a character."""
        if count == 0:
            if not data:
                yield ()
            return
        for end in range(len(data) - count + 1, 0, -1):
            token = self._ids.get(data[:end])
            if token is not None and is_torn(data[:end]):
                yield from ((token, *rest) for rest in self._splits(data[end:], count - 1))


def is_torn(data: bytes) -> bool:
    """Whether bytes may end inside a character.

    >>> is_torn("é".encode()[:1]), is_torn("é".encode()), is_torn(b"a")
    (True, False, False)
    """
    return bool(data) and data[-1] >= 0x80 and not _ends_whole(data)


def _ends_whole(data: bytes) -> bool:
    """Whether the last bytes are one whole character."""
    for length in range(2, 5):
        try:
            if len(data[-length:].decode()) == 1 and len(data) >= length:
                return True
        except UnicodeDecodeError:
            continue
    return False
