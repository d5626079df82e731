"""Live messages on their way from the one Pub/Sub connection to the readers.

Invariant: a mailbox either holds every message published since its reader last emptied it, or is *stale*,
which tells the reader to read the durable log instead. It is marked stale whenever a message may have been
lost: by a new subscription, a reconnect, or a reader too slow for its bound. A stale mailbox keeps nothing:
the reader clears the mark before it reads the log, and a script writes the log before it publishes.
"""

from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from ..schemas.errors import BrokerUnavailable

MAX_HELD = 512
"""Messages held for a slow reader; beyond them the log is the cheaper place to keep them."""


def client_closed() -> BrokerUnavailable:
    """The error of calls on a closed client."""
    return BrokerUnavailable("the client was closed")


class Signal(Protocol):
    """A `threading.Event` or an `asyncio.Event`."""

    def set(self) -> object:
        """Signal that there is news."""

    def clear(self) -> object:
        """Note that the news has been taken."""


S = TypeVar("S", bound=Signal)


class Filler(Protocol):
    """A hub, as mailboxes see it."""

    def join(self, mailbox: "Mailbox[Any]") -> None:
        """Fill the mailbox from now on."""

    def leave(self, mailbox: "Mailbox[Any]") -> None:
        """Stop filling it."""


class Listening(Protocol):
    """A mailbox, or many with one signal, as a reader that waits sees it."""

    @property
    def news(self) -> Any:
        """The event that is set while there is something to take."""

    def join(self, hub: Filler) -> None:
        """Be filled by `hub`, unless it is already."""

    def resync(self) -> None:
        """Tell the reader to look at Redis, because messages may have been missed."""


@dataclass(slots=True, eq=False)
class Mailbox(Generic[S]):
    """One reader's live messages, bounded; filled by a hub, emptied by the reader.

    Attributes:
        channel: the channel that it listens to.
        news: set while there is something to take.
    """

    channel: str
    news: S
    _hub: Filler | None = None
    _payloads: deque[bytes] = field(default_factory=deque)
    _stale: bool = True
    _closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def join(self, hub: Filler) -> None:
        """Be filled by `hub`, unless it is already."""
        if self._hub is not hub:
            self._hub = hub
            hub.join(self)

    def leave(self) -> None:
        """Stop being filled."""
        if self._hub is not None:
            self._hub.leave(self)

    def put(self, payload: bytes) -> None:
        """Deliver a message."""
        with self._lock:
            # What it held is in the log as well, and one read of that brings more at a time.
            if len(self._payloads) >= MAX_HELD:
                self._payloads.clear()
                self._stale = True
            elif not self._stale:
                self._payloads.append(payload)
            self.news.set()

    def resync(self) -> None:
        """Tell the reader to read the log, because messages may have been missed."""
        with self._lock:
            self._payloads.clear()
            self._stale = True
            self.news.set()

    def close(self) -> None:
        """Tell the reader that nothing more will come."""
        with self._lock:
            self._closed = True
            self.news.set()

    def take(self) -> list[bytes] | None:
        """The messages since the last call, or None: read the log.

        Raises:
            BrokerUnavailable: the client was closed.
        """
        with self._lock:
            if self._closed:
                raise client_closed()
            # Cleared before the messages are taken, both under the lock: one that comes after sets it again.
            self.news.clear()
            if self._stale:
                self._stale = False
                return None
            payloads = list(self._payloads)
            self._payloads.clear()
            return payloads


@dataclass(slots=True)
class _Channel:
    mailboxes: list[Mailbox[Any]] = field(default_factory=list)
    confirmed: bool = False


class Board:
    """The listeners of each channel of the Pub/Sub connection."""

    def __init__(self) -> None:
        self._channels: dict[bytes, _Channel] = {}

    def __bool__(self) -> bool:
        return bool(self._channels)

    @property
    def channels(self) -> list[bytes]:
        """Every channel that has listeners."""
        return list(self._channels)

    def add(self, mailbox: Mailbox[Any]) -> bool:
        """Add a listener; return whether its channel must be subscribed to."""
        channel = self._channels.setdefault(mailbox.channel.encode(), _Channel())
        channel.mailboxes.append(mailbox)
        # Redis has confirmed the channel to others before, and says nothing more of it: look at the log now.
        if channel.confirmed:
            mailbox.resync()
        return len(channel.mailboxes) == 1

    def remove(self, mailbox: Mailbox[Any]) -> bool:
        """Remove a listener; return whether its channel must be unsubscribed from."""
        name = mailbox.channel.encode()
        channel = self._channels.get(name)
        if channel is None or mailbox not in channel.mailboxes:
            return False
        channel.mailboxes.remove(mailbox)
        if channel.mailboxes:
            return False
        del self._channels[name]
        return True

    def route(self, reply: object) -> None:
        """Deliver what Redis sent on the connection."""
        match reply:
            case [b"message", bytes(name), bytes(payload)] if name in self._channels:
                for mailbox in self._channels[name].mailboxes:
                    mailbox.put(payload)
            case [b"subscribe", bytes(name), _] if name in self._channels:
                self._channels[name].confirmed = True
                for mailbox in self._channels[name].mailboxes:
                    mailbox.resync()

    def lost(self) -> None:
        """Note that the connection broke, so that nothing is subscribed any more."""
        for channel in self._channels.values():
            channel.confirmed = False

    def close(self) -> None:
        """Tell every listener that nothing more will come."""
        for channel in self._channels.values():
            for mailbox in channel.mailboxes:
                mailbox.close()
        self._channels.clear()
