"""Redis URLs, and texts that quote them, without the passwords."""

import re

_HIDDEN_OPTION = r"(?i)((?:password|passwd|pwd|secret|(?:\b|_)token)=)"
_OPTION_OF_URL = re.compile(_HIDDEN_OPTION + r".*", re.DOTALL)
_OPTION_IN_TEXT = re.compile(_HIDDEN_OPTION + r"[^&\s'\",;)>]*")
_USER = re.compile(r"[\w.-]*:")
_LOGIN_IN_TEXT = re.compile(r"(://(?:[\w.-]*:)?)\S*@")
_HOST = r"(?:[\w.-]+|\[[\w:.%]+\])(?::\d+)?"
_PLACES = re.compile(rf"(?:{_HOST}(?:,{_HOST})*)?(?:[/?#]|$)")
"""Hosts with their ports. Anything that looks different may be a password with its `@` missing."""


def shown_url(url: str) -> str:
    """A URL that is safe to log, even if it is malformed.

    Before the last `@` only the scheme and the user's name are shown, and nothing from the first option that
    may be a secret onwards: a password that was pasted unescaped may contain any character.
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    rest = _OPTION_OF_URL.sub(r"\1***", rest)
    login, at, place = rest.rpartition("@")
    if at:
        user = _USER.match(login)
        place = f"{user[0] if user else ''}***@{place}"
    elif separator and not _PLACES.match(place):
        place = "***"
    return f"{scheme}{separator}{place}"


def without_password(text: str) -> str:
    """A text that is safe to log: its URLs keep only the user's name between `://` and the last `@`."""
    return _LOGIN_IN_TEXT.sub(r"\1***@", _OPTION_IN_TEXT.sub(r"\1***", text))


def is_unescaped(url: str) -> bool:
    """Whether a login seems to contain characters that would end it unless escaped: / # or ?."""
    _, _, rest = url.partition("://")
    login, at, _ = rest.rpartition("@")
    authority = re.split(r"[/?#]", login, maxsplit=1)[0]
    if not at or authority == login or not authority:
        return False
    if not _PLACES.fullmatch(authority):
        return "@" not in authority
    return re.match(r"[^?#]*\?[^=@]+=", login) is None  # an @ in an option's value doesn't end the login
