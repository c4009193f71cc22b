"""Ids that llama.cpp tells only as text."""

from __future__ import annotations

from actors.lost_ids import MOST_LOST, Pieces

SMILE = "😊".encode()


def pieces(*given: bytes) -> Pieces:
    return Pieces(given)


def test_the_ids_of_a_torn_character_are_found_from_its_text() -> None:
    known = pieces(b" \xf0\x9f", SMILE[2:3], SMILE[3:], b"a")
    assert known.before(" 😊", last=2, count=2) == (0, 1)


def test_text_before_the_torn_character_does_not_hide_it() -> None:
    known = pieces(b"x\xf0\x9f\x98", SMILE[3:])
    assert known.before("x😊", last=1, count=1) == (0,)


def test_a_token_that_does_not_tear_a_character_was_not_withheld() -> None:
    known = pieces(b"ab", SMILE[:3], SMILE[3:])
    assert known.before("ab😊", last=2, count=2) == ()


def test_of_several_ways_the_longest_first_piece_counts() -> None:
    known = pieces(SMILE[:1], SMILE[1:3], SMILE[:2], SMILE[2:3], SMILE[3:])
    assert known.before("😊", last=4, count=2) == (2, 3)


def test_what_cannot_be_found_is_left_out() -> None:
    known = pieces(SMILE[:3], SMILE[3:])
    assert known.before("😊", last=1, count=2) == ()
    assert known.before("x", last=1, count=1) == ()
    assert known.before("😊", last=7, count=1) == ()
    assert known.before("😊", last=1, count=MOST_LOST + 1) == ()
    assert known.before("😊" * 1000, last=1, count=3) == ()
    assert Pieces(()).before("😊", last=0, count=1) == ()
