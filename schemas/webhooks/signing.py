"""Signatures of webhooks by the Standard Webhooks specification, version `v1`: HMAC-SHA256.

The signature covers `<id>.<timestamp>.<body>`. While a secret is being replaced, both the old and the new one
sign, and a receiver needs to know only one of them.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from secrets import token_bytes

PREFIX = "whsec_"
"""Introduces a key in base64; without this prefix, a secret's own bytes are the key."""

MIN_KEY_BYTES = 16
_NEW_KEY_BYTES = 32
_ID = re.compile(r"[!-\-/-~]{1,256}")
"""Visible ASCII without the full stop, which separates the parts that are signed."""


def sign(webhook_id: str, timestamp_s: int, body: bytes, secrets: Sequence[str]) -> str:
    """The value of the header `webhook-signature`: one `v1,<base64>` per secret, in their order.

    Args:
        webhook_id: the value of `webhook-id`.
        timestamp_s: the value of `webhook-timestamp`, in seconds since the epoch.
        body: the request's body as sent.
        secrets: see `check_secret`.

    Raises:
        ValueError: a secret or the id can't be used.
    """
    if not _ID.fullmatch(webhook_id):
        raise ValueError(f"webhook id {webhook_id!r} is not 1 to 256 visible ASCII characters without '.'")
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp_s, body)
    digests = (hmac.digest(_key(secret), signed, hashlib.sha256) for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def check_secret(text: str) -> None:
    """Check that `text` can sign: `whsec_` and a key in base64, or any other text, of at least 16 bytes.

    Raises:
        ValueError: it can't; the message doesn't contain it.
    """
    _key(text)


def new_secret() -> str:
    """Make a random secret that every Standard Webhooks library accepts."""
    return PREFIX + base64.b64encode(token_bytes(_NEW_KEY_BYTES)).decode()


def _key(secret: str) -> bytes:
    key = secret.encode()
    if secret.startswith(PREFIX):
        try:  # strict, because not every receiver's library accepts base64 without padding
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                f"a secret that starts with {PREFIX} must continue in base64, padded with ="
            ) from None
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a secret's key must have {MIN_KEY_BYTES} bytes or more; this one has {len(key)}")
    return key
