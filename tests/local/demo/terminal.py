"""A terminal as pyte reads it, and with the second page that programs which fill the screen draw on."""

from typing import Any

import pyte

_SECOND_PAGE = 1049


class Terminal(pyte.Screen):
    """What a person would see; feed it what a program writes."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self._stream = pyte.Stream(self)
        self._first_page: tuple[Any, int, int] | None = None

    def feed(self, written: str) -> None:
        self._stream.feed(written)

    @property
    def text(self) -> str:
        """The lines on it, without the blanks at their ends and the empty lines below."""
        return "\n".join(line.rstrip() for line in self.display).rstrip("\n") + "\n"

    def set_mode(self, *modes: int, **how: Any) -> None:
        if how.get("private") and _SECOND_PAGE in modes:
            lines = {at: dict(line) for at, line in self.buffer.items()}
            self._first_page = lines, self.cursor.y, self.cursor.x
            self.erase_in_display(2)
        super().set_mode(*modes, **how)

    def reset_mode(self, *modes: int, **how: Any) -> None:
        super().reset_mode(*modes, **how)
        if how.get("private") and _SECOND_PAGE in modes and self._first_page is not None:
            lines, self.cursor.y, self.cursor.x = self._first_page
            self.erase_in_display(2)
            for at, line in lines.items():
                self.buffer[at].update(line)
            self._first_page = None
