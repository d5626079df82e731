"""Sends the webhooks that are due, many at once in one thread, each within its deadline.

A hanging receiver must not delay the others, and neither must a tenant with many of them. Attempts are
divided by tenant, then by origin (scheme, host and port), some are always left for the next one, and queues
take turns.

Redis decides what is due and whose turn it is (`claim_deliveries`), so any number of processes may send. An
attempt that isn't settled, because its process died or Redis was unreachable, is made again after a lease,
with the same `webhook-id`.
"""

import asyncio
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import structlog
from redis.asyncio import Redis

from ...schemas import keys
from ...schemas.errors import BrokerUnavailable
from ...schemas.keys import DeliveryKeys
from ...schemas.redis.connection import broker_errors, connect_async
from ...schemas.scripts import DeliveriesReply, DueDelivery, claim_deliveries, run_async, settle_delivery
from ...schemas.webhooks.delivery import DeliveryAttempt, DeliveryState, read_secrets
from ...telemetry.seldom import Seldom
from ..settings import CallbacksSettings
from .metrics import CallbackMetrics
from .webhooks.schedule import Schedule
from .webhooks.sender import Attempt, AttemptVerdict, Sender

POLL_S = 0.25
"""How late an unannounced delivery may be: a retry, or another process's."""

SECRETS_S = 5.0
"""How soon a tenant's new secret starts to sign."""

MOST_SECRETS = 1024
"""Tenants whose secrets are kept in memory."""

FORGOTTEN_AT_ONCE = 4
"""How many are dropped at once, oldest first, so that they don't grow."""

SETTLE_S = 1.0
"""Minimum time to report an attempt's end to Redis, after which it is made again."""

LAST_WORDS_S = 5.0
"""How long attempts in flight may take when the process stops; unfinished ones are made again elsewhere."""

CONNECTIONS = 16
"""Attempts reported to Redis at once; those that end together wait a millisecond for each other."""

log = structlog.get_logger(__name__)


class Deliveries:
    """Sends what is due in all queues.

    Args:
        queues: returns the existing queues, and that of batches.
        sender: makes the sender; called in the thread that calls `run`.
    """

    def __init__(
        self,
        settings: CallbacksSettings,
        metrics: CallbackMetrics,
        queues: Callable[[], Sequence[DeliveryKeys]],
        sender: Callable[[], Sender],
        schedule: Schedule | None = None,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._queues, self._sender = queues, sender
        self._schedule = schedule or Schedule()
        self._nonce = secrets.token_hex(4)
        self._next_queue = 0
        self._seldom = Seldom()
        # Reading the tenant's secrets may take a timeout of its own; then the attempt, then its report.
        self._lease_s = 2 * settings.webhook_timeout_s + SETTLE_S
        self._secrets: dict[str, tuple[float, list[str]]] = {}
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None

    def run(self, stopping: threading.Event) -> None:
        """Send until told to stop and woken by `wake`."""
        asyncio.run(self._run(stopping))

    def wake(self) -> None:
        """Signal that something may be due. Call from any thread."""
        loop, news = self._loop, self._news
        if loop is not None and news is not None and not loop.is_closed():
            loop.call_soon_threadsafe(news.set)

    async def _run(self, stopping: threading.Event) -> None:
        self._news, self._loop = asyncio.Event(), asyncio.get_running_loop()
        sender = self._sender()
        attempts: dict[asyncio.Task[None], DueDelivery] = {}
        async with connect_async(self._settings.redis_url) as redis:
            while not stopping.is_set():
                attempts = {attempt: due for attempt, due in attempts.items() if not attempt.done()}
                for due in await self._claim(redis, list(attempts.values())):
                    attempts[asyncio.create_task(self._attempt(redis, sender, due))] = due
                self._metrics.sending(len(attempts))
                await self._wait_for_news()
            if attempts:
                _, late = await asyncio.wait(attempts, timeout=LAST_WORDS_S)
                for attempt in late:
                    attempt.cancel()
                await asyncio.gather(*late, return_exceptions=True)
        await sender.aclose()

    async def _wait_for_news(self) -> None:
        assert self._news is not None
        try:
            await asyncio.wait_for(self._news.wait(), POLL_S)
        except TimeoutError:
            return
        self._news.clear()

    async def _claim(self, redis: "Redis", under_way: Sequence[DueDelivery]) -> list[DueDelivery]:
        """Claim what to send now, besides what is in flight; a queue that had no turn gets the next one."""
        claimed: list[DueDelivery] = []
        tenants = Counter((due.tenant, due.origin) for due in under_way)
        origins = Counter(due.origin for due in under_way)
        queues = self._queues()
        # Once around, from where the last look stopped: the queue that took the last free places is not asked
        # first again.
        for _ in queues:
            free = self._settings.webhook_concurrency - origins.total()
            if free <= 0:
                break
            tag = queues[self._next_queue % len(queues)]
            self._next_queue += 1
            try:
                call = claim_deliveries(tag, free, self._lease_s, self._nonce, origins, tenants)
                found: DeliveriesReply = await run_async(redis, call)
            except BrokerUnavailable as error:
                if self._seldom.due(str(error)):
                    log.warning("deliveries_wait", queue=tag.base, reason=str(error))
                continue
            self._seldom.over()
            if found.expired:
                log.warning("webhooks_expired", queue=tag.base, ids=found.expired)
                self._metrics.expired(len(found.expired))
            claimed += found.due
            # The next queue is told: a tenant or receiver has its share of this process, not of each queue.
            tenants.update((due.tenant, due.origin) for due in found.due)
            origins.update(due.origin for due in found.due)
        return claimed

    async def _attempt(self, redis: "Redis", sender: Sender, due: DueDelivery) -> None:
        give_up_at = time.monotonic() + self._lease_s
        signing = [due.secret] if due.secret else await self._secrets_of(redis, due)
        if signing is None or time.monotonic() + self._settings.webhook_timeout_s > give_up_at:
            return  # made again when the lease ends, which would be before this attempt ends
        attempt = await sender.send(due.url, due.id, due.body, signing, int(time.time()))
        state, delay_s = self._what_follows(due, attempt)
        self._metrics.attempted(state.value, attempt.took_s)
        log.info("webhook", id=due.id, state=state.value, status=attempt.status, error=attempt.error)
        noted = DeliveryAttempt(status=attempt.status, took_s=round(attempt.took_s, 3), error=attempt.error)
        call = settle_delivery(due, state, noted, self._settings.webhook_retention_s, delay_s=delay_s)
        # Sent, but not known to be: until its lease ends nobody else makes this attempt again.
        while time.monotonic() < give_up_at:
            try:
                async with self._slots:
                    settled = await run_async(redis, call)
                if not settled:
                    log.warning("webhook_settled_late", id=due.id)
            except BrokerUnavailable as error:
                log.warning("webhook_unsettled", id=due.id, reason=str(error))
                await asyncio.sleep(POLL_S)
            else:
                self._next(state)
                return

    def _next(self, state: DeliveryState) -> None:
        """Look again soon: an endpoint that answers may have more deliveries waiting."""
        if state is DeliveryState.DELIVERED and self._news is not None:
            self._news.set()

    def _what_follows(self, due: DueDelivery, attempt: Attempt) -> tuple[DeliveryState, float]:
        match attempt.verdict:
            case AttemptVerdict.DELIVERED:
                return DeliveryState.DELIVERED, 0.0
            case AttemptVerdict.GONE:
                return DeliveryState.DISABLED, 0.0
            case AttemptVerdict.REFUSED:
                return DeliveryState.REFUSED, 0.0
            case AttemptVerdict.RETRY:
                # `due.attempts` were made before this one.
                delay_s = self._schedule.after(due.attempts + 1, attempt.retry_after_s, random.random)
                return (DeliveryState.FAILED, 0.0) if delay_s is None else (DeliveryState.PENDING, delay_s)

    async def _secrets_of(self, redis: "Redis", due: DueDelivery) -> list[str] | None:
        """The tenant's secrets; None while they can't be read, in which case the attempt is made later."""
        known = self._known_secrets(due.tenant)
        if known is not None:
            return known
        async with self._slots:
            known = self._known_secrets(due.tenant)  # another attempt has read them meanwhile
            return known if known is not None else await self._read_secrets(redis, due)

    def _known_secrets(self, tenant: str) -> list[str] | None:
        until, found = self._secrets.get(tenant, (0.0, None))
        return found if time.monotonic() < until else None

    async def _read_secrets(self, redis: "Redis", due: DueDelivery) -> list[str] | None:
        until = time.monotonic() + SECRETS_S
        try:
            with broker_errors():
                kept = await redis.hgetall(keys.webhook_secrets(due.tenant, due.tag.namespace))
            found = [secret.secret.get_secret_value() for secret in read_secrets(kept)]
        except (BrokerUnavailable, ValueError) as error:  # a ValueError's text may contain the secret
            reason = str(error) if isinstance(error, BrokerUnavailable) else type(error).__name__
            log.warning("secrets_unread", tenant=due.tenant, reason=reason)
            return None
        self._remember(due.tenant, until, found)
        return found

    def _remember(self, tenant: str, until: float, found: list[str]) -> None:
        """Cache a tenant's secrets, dropping those read earliest beyond a maximum number of tenants."""
        # Taken out first, so that it goes to the end: a dict keeps the order of insertion, here of reading.
        self._secrets.pop(tenant, None)
        self._secrets[tenant] = until, found
        now = time.monotonic()
        for known in list(islice(self._secrets, FORGOTTEN_AT_ONCE)):
            if len(self._secrets) > MOST_SECRETS or self._secrets[known][0] < now:
                del self._secrets[known]
