"""Every setting of every headrace process, and what is set that isn't one of them."""

from ..schemas.settings.gateway import GatewaySettings
from ..schemas.settings.names import unknown_settings
from .settings import CallbacksSettings, WorkerSettings

_CLASSES = (WorkerSettings, CallbacksSettings, GatewaySettings)

KNOWN = frozenset(name for kind in _CLASSES for name in kind.model_fields)


def unknown() -> list[str]:
    """A sentence for each variable and each key of the settings file that does nothing.

    Raises:
        BadSetting: the file can't be read.
    """
    return unknown_settings(KNOWN)
