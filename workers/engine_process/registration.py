"""A worker's registration: its model in the list of models, and the queues' copies of tenants' policies.

Both live outside the queues' own keys, in other Redis Cluster slots, so no script keeps them up to date. A
Redis that came back empty has lost them.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from redis import Redis

from ...schemas import keys
from ...schemas.errors import BrokerUnavailable
from ...schemas.keys import Tag
from ...schemas.redis.connection import broker_errors
from ...schemas.tenants import copy_policies

EVERY_S = 5.0
"""How soon a changed policy holds when `headrace tenants` could not tell the queue at once."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Registration:
    """Registers one worker, and keeps it registered.

    Attributes:
        model: the served name.
        facts: what `client.models()` says of it.
    """

    redis: Redis
    tags: list[Tag]
    model: str
    facts: Mapping[str, str | int]
    _next: float = field(default=0.0)
    _refused: str = field(default="")

    def keep(self) -> None:
        """Register again every `EVERY_S`; a refusal is logged once and stops nothing."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        try:
            self.register()
        except BrokerUnavailable as error:
            self.note_refusal(error)
        else:
            self._refused = ""

    def note_refusal(self, error: BrokerUnavailable) -> None:
        """Log once why Redis refused; `keep` tries again."""
        if str(error) != self._refused:
            log.warning("registration_refused", reason=str(error))
        self._refused = str(error)

    def register(self) -> None:
        """Write what is missing.

        Raises:
            BrokerUnavailable: Redis can't be reached or refuses.
        """
        namespace = self.tags[0].namespace
        with broker_errors():
            # Always, not only when it is missing: a Redis that came back empty accepts jobs for the model
            # again.
            self.redis.hset(keys.models(namespace), self.model, json.dumps(self.facts))
        copied = copy_policies(self.redis, self.tags, namespace, partitions=len(self.tags))
        if copied:
            log.info("policies_copied", queues=copied)
