"""An uploaded file on its way to the store: a multipart form, read piece by piece and never held whole."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from .errors import Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch", "user_data"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600},
                    },
                }
            }
        },
    }
}
"""What `/openapi.json` says of it."""

MOST_PARTS = 16
MOST_FIELD_BYTES = 4096
MOST_HEADER_BYTES = 4096
"""Bounds of what a form contains besides its file."""


class UploadForm:
    """The form of `POST /v1/files`. Once `pieces` has ended, all of it is known.

    Attributes:
        fields: its fields by name.
        filename: the file's name; None if there is no file.

    Raises:
        Refusal: the request has no form.
    """

    def __init__(self, request: Request) -> None:
        kind, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            message = "Send the file as multipart/form-data, with the fields `purpose` and `file`."
            raise Refusal(415, message, code="unsupported_media_type")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._stream = request.stream
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._content: list[bytes] = []
        self._ended = False
        callbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._on_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._on_header(1, data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, cast("MultipartCallbacks", callbacks))
        except FormParserError:
            raise _bad("The form's boundary is too long.") from None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file's content.

        Raises:
            Refusal: it isn't a form with exactly one file.
        """
        try:
            async for chunk in self._stream():
                self._parser.write(chunk)
                content, self._content = self._content, []
                for piece in content:
                    yield piece
        except FormParserError:
            raise _bad("The body is not a multipart form.") from None
        except ClientDisconnect:
            raise Refusal(400, "The body ended early.", code="incomplete_body") from None
        # A body that breaks off between two parts is parsed without an error.
        if not self._ended:
            raise _bad("The form ended early.")
        if self.filename is None:
            raise _bad("file: the form has none.", "file")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _bad(f"The form has more than {MOST_PARTS} parts.")
        self._disposition, self._is_file = b"", False

    def _on_header(self, place: int, piece: bytes) -> None:
        self._header[place].extend(piece)
        # Not every version of the parser bounds this itself, and a body may be as large as a file.
        if len(self._header[place]) > MOST_HEADER_BYTES:
            raise _bad(f"A header of the form has more than {MOST_HEADER_BYTES} bytes.")

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _bad("A part of the form has no name.")
        self._name = options[b"name"].decode(errors="replace")
        if self._name != "file":
            return
        if self.filename is not None:
            raise _bad("file: the form has more than one.", "file")
        self.filename = options.get(b"filename", b"").decode(errors="replace")
        self._is_file = True

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._content.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MOST_FIELD_BYTES:
            raise _bad(f"A field of the form has more than {MOST_FIELD_BYTES} bytes.")

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode(errors="replace")
            self._value.clear()

    def _on_end(self) -> None:
        self._ended = True


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, code="invalid_form", param=param)
