"""Inputs that a server may trip over: values of JSON, names, ids, queries, headers, forms and lies."""

_ODD_NAMES = "self cls fields body request tenant job_id __class__ __init__ model_config Model"

ODD_NAMES = (
    *_ODD_NAMES.split(),
    *("", "_", "a.b", "é\u0000", "\u202e", "x" * 300, "model\n"),
)
"""Names of fields."""

_VALUES = "null true false 0 -1 1.5 -0.0 1e308 1e999 NaN -Infinity -9223372036854775809 18446744073709551616"

VALUES = (
    *_VALUES.split(),
    *("1" * 300, "9" * 5000, '""', '"\\u0000"', '"\\ud800"', '"é\\n\\r"', '"none"', '"' + "x" * 5000 + '"'),
    *("[]", "{}", "[[]]", "[null]", "[{}]", '[""]', "[1, true]", '{"": null}', '{"type": 1}', '{"type": []}'),
    *('[{"type": "text"}]', '["\\udfff"]', '{"self": 1}', '"http://[::1"', '"data:"'),
    *("[" * 70 + "]" * 70, "[" * 50_000 + "]" * 50_000, '{"a":' * 60 + "1" + "}" * 60),
)
"""Values of fields, as text."""

NO_REQUESTS = (
    *(value.encode() for value in VALUES),
    *(b"", b"{", b"\xff", b"\x00", b"{}{}", b"'a'", b'{"a": "\x01"}', b'{"a": 1, "a": 2}'),
    *(b'\xef\xbb\xbf{"model": 1}', '{"model": "demo"}'.encode("utf-16")),
)
"""Bodies."""

NOBODY = "0" * 26

_IDS = (
    "%00 a%00b ..%2f..%2fetc%2fpasswd %2e%2e ..; %252e%252e a%0d%0ax-injected:%20yes %ff%fe %ed%a0%80 % "
    "%zz * [a-z]* {} '\"<script> %20 job:* stream %F0%9F%92%A9 chatcmpl- chatcmpl-%00 chatcmpl-{0} resp_ "
    "msg_ file- batch_ file-..%2f.."
)

IDS = (
    *_IDS.split(),
    *("x" * 8000, f"chatcmpl-{NOBODY}", f"file-{NOBODY}", f"resp_{NOBODY}", f"batch_{NOBODY}%0a", NOBODY),
)
"""Parts of paths."""

_QUERIES = (
    "stream=maybe stream=true&stream=false include_usage=2 limit=0 limit=-1 limit=1e3 limit=NaN limit= "
    "limit=%00 order=sideways order=asc&order=desc after=%00 after=%ff after=( after=%2b &&=&=% self=1 "
    "purpose=%ed%a0%80 purpose=batch&limit=1&after=file- starting_after=-1 offset=%00&live=sse "
    "offset=-1&live=%ff offset=now&cursor=-1"
)

QUERIES = (
    *_QUERIES.split(),
    *(f"limit={'9' * 5000}", f"starting_after={'9' * 30}", f"after={'x' * 8000}"),
)

_PLACES = ("", "-1", "x", "1-", "1-99999", "9" * 10, "\xb2", "1\t", "\x01", "17-1-1")
_KEYS = ("", " ", "é", "x" * 255, "x" * 256, "a b", "\x01", "*")
_CREDENTIALS = ("Bearer", "Bearer \xff", "Basic Zm9v", "bearer hr_é", ":" * 9000)
_KINDS = ("", ";", "text/plain", "application/json; charset=utf-16", "a/b;c=\xff")
_HOSTS = ("", "a b", "\xff", "[::1")

HEADERS = (
    *(("last-event-id", text) for text in _PLACES),
    *(("idempotency-key", text) for text in _KEYS),
    *(("x-request-id", text) for text in ("\x01", "é" * 20, "a\tb", "../..")),
    *(("authorization", text) for text in _CREDENTIALS),
    *(("content-type", text) for text in _KINDS),
    *(("host", text) for text in _HOSTS),
    *(("origin", text) for text in ("http://[::1", "null", "\xff")),
    *(("content-length", text) for text in ("9" * 12, "1e3", "")),
    *(("expect", text) for text in ("100-continue", "x")),
    *(("content-encoding", "gzip"), ("accept", "\xff"), ("cookie", "=;=;\xff"), ("range", "bytes=5-1")),
    *(
        ("accept-encoding", "gzip;q=x"),
        ("if-none-match", "\xff,,"),
        ("x-api-key", "\xff"),
        ("te", "trailers"),
    ),
)

_PROMPT = b'{"model": "demo", "prompt": "Hi", "max_tokens": 1}'
_WHOLE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
_POST = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_SIZE = b"content-length: %d\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_LINES = (
    b"BREW /",
    b"CONNECT a:1",
    b"OPTIONS *",
    b"GET x:y",
    b"HEAD /v1/jobs",
    b"TRACE /",
    b"GET //",
    b"GET http://a:b/",
)

LIES = (
    _POST + _SIZE % (len(_PROMPT) - 3) + b"\r\n" + _PROMPT,
    _POST + _SIZE % len(_PROMPT) + _SIZE % 3 + b"\r\n" + _PROMPT,
    *(
        _POST + b"content-length: " + lie + b"\r\n\r\n" + _PROMPT
        for lie in (b"-1", b"+5", b"9" * 30, b"\xb2")
    ),
    _POST + _CHUNKED + _SIZE % 5 + b"\r\n" + _PROMPT,
    *(_POST + _CHUNKED + b"\r\n" + lie + b"\r\n" + _PROMPT for lie in (b"zz", b"f" * 18, b"-1")),
    _POST + b"transfer-encoding: gzip\r\n\r\n" + _PROMPT,
    *(_POST + lie + b"\r\n\r\n" for lie in (b" folded: yes", b"a\x00b: c", b"a: b\x00c", b": c", b"a")),
    _WHOLE * 40 + b"rubbish\r\n\r\n",
    _POST + _SIZE % 0 + b"\r\n" + _WHOLE + b"\x00\r\n\r\n",
    *(line + b" HTTP/1.1\r\nhost: x\r\n\r\nrubbish\r\n\r\n" for line in (*_LINES, b"GET /#a", b"GET ?")),
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /healthz HTTP/9.9\r\n\r\n", b"GET /healthz\r\n\r\n"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    *(
        _WHOLE[:-2] + b"connection: upgrade\r\nupgrade: " + to + b"\r\n\r\nrubbish\r\n\r\n"
        for to in (b"websocket", b"h2c")
    ),
)
"""What is sent on a connection."""


def _part(name: bytes, value: bytes = b"", more: bytes = b"") -> bytes:
    return b'--x\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name, more, value)


_PURPOSE, _FILE, _END = _part(b"purpose", b"batch"), _part(b"file", b"{}", b'; filename="a"'), b"--x--\r\n"
_ANCHOR = _part(b"expires_after[anchor]", b"created_at")

FORMS = (
    *(b"", _END, b"--x", b"--y--", _PURPOSE + _END, _FILE + _END, _PURPOSE + _FILE),
    *(_PURPOSE + each + _END for each in (_PURPOSE + _FILE, _FILE + _FILE, _FILE + _END, _ANCHOR + _FILE)),
    *(
        _PURPOSE + _FILE.replace(before, after) + _END
        for before, after in (
            (b"form-data", b"attachment"),
            (b"content-disposition", b"\xff"),
            (b"content-disposition", b"a" * 100_000),
            (b'filename="a"', b'filename="' + b"a" * 100_000),
            (b'filename="a"', b"filename=../../\xff\x00;filename*=UTF-8''%00"),
            (b'name="file"', b'name="\xff"'),
        )
    ),
    *(_part(b"purpose", purpose) + _FILE + _END for purpose in (b"\xff\x00", b"b" * 5000)),
    _PURPOSE + _FILE + _part(b"a") * 40 + _END,
    *(
        _PURPOSE + _ANCHOR + _part(b"expires_after[seconds]", s) + _FILE + _END
        for s in (b"\xc2\xb2", b"9" * 11)
    ),
    _PURPOSE + b"--x\r\n\r\n\r\n" + _FILE + _END,
    _PURPOSE + b"--x\r\n" + b"a: b\r\n" * 1000 + b"\r\n\r\n" + _FILE + _END,
)
"""Bodies of uploads, with `x` between their parts."""

FORM_KINDS = (
    *(
        "multipart/form-data; boundary=x",
        'multipart/form-data; boundary="x',
        "multipart/form-data; boundary=",
    ),
    *(f"multipart/form-data; boundary={'x' * 5000}", "multipart/form-data; boundary=\xff", "multipart/mixed"),
    *("multipart/form-data; boundary=x; boundary=y", "multipart/form-data; boundary*=UTF-8''x", "", ";;"),
)
"""Their content types."""
