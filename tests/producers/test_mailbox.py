from threading import Event

import pytest

from headrace.producers.mailbox import MAX_HELD, Board, Mailbox
from headrace.schemas.errors import BrokerUnavailable


def fresh(channel: str = "c") -> Mailbox[Event]:
    """A mailbox whose reader has read the log."""
    mailbox = Mailbox(channel, Event())
    assert mailbox.take() is None
    return mailbox


def test_a_new_reader_is_told_to_read_the_log() -> None:
    assert Mailbox("c", Event()).take() is None


def test_messages_come_once_and_in_order() -> None:
    mailbox = fresh()
    mailbox.put(b"1")
    mailbox.put(b"2")
    assert mailbox.news.is_set()
    assert mailbox.take() == [b"1", b"2"]
    assert not mailbox.news.is_set()
    assert mailbox.take() == []


def test_an_overflow_drops_the_messages_and_sends_the_reader_to_the_log() -> None:
    mailbox = fresh()
    for _ in range(MAX_HELD + 5):
        mailbox.put(b"x")
    assert mailbox.take() is None
    assert mailbox.take() == []


def test_nothing_is_kept_while_the_reader_has_yet_to_read_the_log() -> None:
    mailbox = fresh()
    mailbox.resync()
    mailbox.put(b"in the log by now")
    assert mailbox.take() is None
    assert mailbox.take() == []


def test_a_closed_mailbox_says_so() -> None:
    mailbox = fresh()
    mailbox.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        mailbox.take()


def test_the_board_subscribes_once_a_channel_and_unsubscribes_with_its_last_listener() -> None:
    board, first, second = Board(), fresh(), fresh()
    assert board.add(first)
    assert not board.add(second)
    assert not board.remove(first)
    assert board.remove(second)
    assert not board.remove(second)
    assert not board


def test_a_confirmed_subscription_sends_its_readers_to_the_log() -> None:
    board, mailbox, other = Board(), fresh(), fresh("other")
    board.add(mailbox)
    board.add(other)
    board.route([b"subscribe", b"c", 1])
    assert mailbox.take() is None
    assert other.take() == []


def test_a_reader_that_joins_a_confirmed_channel_is_sent_to_the_log() -> None:
    board, first, second = Board(), fresh(), fresh()
    board.add(first)
    board.route([b"subscribe", b"c", 1])
    board.add(second)
    assert second.take() is None


def test_messages_reach_the_listeners_of_their_channel_alone() -> None:
    board, mailbox, other = Board(), fresh(), fresh("other")
    board.add(mailbox)
    board.add(other)
    board.route([b"message", b"c", b"hello"])
    board.route([b"message", b"nobody's", b"hello"])
    board.route(b"PONG")
    assert mailbox.take() == [b"hello"]
    assert other.take() == []
