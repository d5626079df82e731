"""Signatures that the `standardwebhooks` package takes, and secrets that can't make them."""

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from headrace.schemas.webhooks.signing import check_secret, new_secret, sign

BODY = '{"type":"job.succeeded","data":{"text":"Übung"}}'.encode()
PLAIN = "correct horse battery staple"


def headers(signature: str, timestamp_s: int, webhook_id: str = "msg_1") -> dict[str, str]:
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature,
    }


def test_the_specifications_own_example_is_reproduced():
    secret = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    signature = sign(
        "msg_loFOjxBNrRLzqYUf", 1731705121, b'{"event_type":"ping","data":{"success":true}}', [secret]
    )
    assert signature == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


def test_the_package_verifies_with_the_same_text():
    secret, now_s = new_secret(), int(time.time())
    told = Webhook(secret).verify(BODY, headers(sign("msg_1", now_s, BODY, [secret]), now_s))
    assert told["data"]["text"] == "Übung"


def test_the_package_verifies_a_plain_secret_given_as_bytes():
    now_s = int(time.time())
    Webhook(PLAIN.encode()).verify(BODY, headers(sign("msg_1", now_s, BODY, [PLAIN]), now_s))


def test_while_a_secret_is_replaced_receivers_with_either_are_content():
    now_s, old, new = int(time.time()), new_secret(), new_secret()
    signature = sign("msg_1", now_s, BODY, [new, old])
    assert len(signature.split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(BODY, headers(signature, now_s))
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers(signature, now_s))


@pytest.mark.parametrize("changed", ["body", "id", "time"])
def test_a_changed_message_is_not_verified(changed):
    now_s, secret = int(time.time()), new_secret()
    sent = headers(
        sign("msg_1", now_s, BODY, [secret]),
        now_s + (changed == "time"),
        "msg_2" if changed == "id" else "msg_1",
    )
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" " if changed == "body" else BODY, sent)


def test_without_secrets_there_is_no_signature():
    assert sign("msg_1", 1, BODY, []) == ""


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("", "16 bytes or more; this one has 0"),
        ("tooshort", "16 bytes or more; this one has 8"),
        ("whsec_", "16 bytes or more; this one has 0"),
        ("whsec_c2hvcnQ=", "16 bytes or more; this one has 5"),
        ("whsec_not*base64*at*all*really", "base64"),
        ("whsec_ümlautümlautümlaut", "base64"),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAAAAA", "base64"),
        ("whsec_" + base64.b64encode(b"k" * 17).decode().rstrip("="), "padded"),
    ],
)
def test_a_secret_that_cannot_sign_is_told_without_being_shown(secret, reason):
    for use in (check_secret, lambda text: sign("msg_1", 1, BODY, [text])):
        with pytest.raises(ValueError, match=reason) as told:
            use(secret)
        assert told.value.__suppress_context__ or told.value.__context__ is None
        assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in str(told.value)


@pytest.mark.parametrize("secret", [PLAIN, "ümlaute zählen mit", new_secret()], ids=["plain", "utf-8", "new"])
def test_other_secrets_pass(secret):
    check_secret(secret)


@pytest.mark.parametrize("webhook_id", ["", "a.b", "a b", "a\r\nx: y", "ü"])
def test_an_id_that_could_be_mistaken_is_not_signed(webhook_id):
    with pytest.raises(ValueError, match="webhook id"):
        sign(webhook_id, 1, BODY, [PLAIN])


def test_new_secrets_differ():
    assert len({new_secret() for _ in range(100)}) == 100
