"""Every Redis key name. No other file holds a key literal.

All keys of one model partition share the hash tag `{model:partition}`, so that they live in one Redis
Cluster slot and every script is single-slot. Scripts get the tag's prefix as their one key and join the
same names to it (`key('lane', class, tenant)` in Lua is `tag.lane(class, tenant)` here).
"""

import re
from dataclasses import dataclass

from .errors import JobNotFound

NAMESPACE = "hr"
GROUP = "workers"
RELAY_GROUP = "relay"

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}")
# A ULID, the partition, and the model's name with `~` for each /; see `ids`.
_JOB_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}\.(\d{1,4})\.([A-Za-z0-9][A-Za-z0-9_.~-]{0,127})")

# The chaos tests fail on a key that stays without a TTL and isn't named here.
_PERMANENT_IN_TAG = re.compile(
    r"(leases|delayed|delayed_bytes|deadlines|dead|outbox|bell|workers|readers|queued_bytes|tenants|parked|pulse"
    r"|deliveries|due|paused|jobs|expiry|active|alias"
    r"|(of|due|delayed_jobs|lane|retry|suspects|backlog|served|ahead|capacity|pace|running|waiting|endpoints|left|usage|open):.+)"
)

_PERMANENT = (
    *("models", "routes", "adapters", "tenants", "celery_key", "callbacks"),
    *("api_keys", "api_keys_used", "api_key_hash_key"),
)


def is_model_name(name: str) -> bool:
    """Whether `name` can be a model's name: letters, digits and `_ . / -`, at most 128."""
    return _MODEL.fullmatch(name) is not None


class DeliveryKeys:
    """The keys of webhook deliveries, which every queue has, and batches have too."""

    __slots__ = ()
    namespace: str

    @property
    def base(self) -> str:
        """The prefix that all keys share."""
        raise NotImplementedError

    @property
    def deliveries(self) -> str:
        """Sorted set: webhook deliveries, also ended ones, by when they were accepted or replayed, in ms."""
        return f"{self.base}:deliveries"

    def delivery(self, delivery_id: str) -> str:
        """Hash with TTL: one webhook delivery, its payload and its attempts."""
        return f"{self.base}:delivery:{delivery_id}"

    def due(self, tenant: str = "*") -> str:
        """Sorted set: a tenant's origins (for `*`, all tenants), by when something is next sent, in ms."""
        return f"{self.base}:due:{tenant}"

    def endpoints(self, tenant: str, origin: str) -> str:
        """Sorted set: a tenant's endpoints at an origin, by when something is next sent there, in ms."""
        return f"{self.base}:endpoints:{tenant}:{origin}"

    def waiting(self, endpoint: str) -> str:
        """Sorted set: an endpoint's unfinished deliveries, by when to send them, in ms."""
        return f"{self.base}:waiting:{endpoint}"

    def sending(self, endpoint: str) -> str:
        """Sorted set with TTL: an endpoint's attempts in flight, by when they count as lost."""
        return f"{self.base}:sending:{endpoint}"

    def endpoint(self, endpoint: str) -> str:
        """Hash with TTL: how an endpoint responds: failures in a row, and until when it is left alone."""
        return f"{self.base}:endpoint:{endpoint}"


@dataclass(frozen=True, slots=True)
class Tag(DeliveryKeys):
    """One partition of one model's queue: the prefix that all its keys share."""

    model: str
    partition: int = 0
    namespace: str = NAMESPACE

    @property
    def base(self) -> str:
        """The prefix, and the KEYS[1] of every script."""
        # The braces are Redis Cluster's hash tag: only what is inside them decides the slot.
        return f"{self.namespace}:{{{self.model}:{self.partition}}}"

    def lane(self, job_class: str, tenant: str) -> str:
        """Stream, group `workers`: queued and running jobs of one class and tenant."""
        return f"{self.base}:lane:{job_class}:{tenant}"

    def retry(self, readers: str) -> str:
        """Stream, group `workers`: handed-over, preempted and recovered jobs; before the class's lanes.

        `readers` is a class, then, where only some workers may take them, `:v<version>` and `:<fingerprint>`.
        """
        return f"{self.base}:retry:{readers}"

    def suspects(self, readers: str) -> str:
        """Stream, group `workers`: jobs that may have killed their worker; they are tried alone."""
        return f"{self.base}:suspects:{readers}"

    @property
    def readers(self) -> str:
        """Sorted set: the `readers` that are not just a class, by when such a worker was last heard from."""
        return f"{self.base}:readers"

    def backlog(self, job_class: str) -> str:
        """Sorted set: tenants with queued jobs, by virtual tokens served."""
        return f"{self.base}:backlog:{job_class}"

    def served(self, job_class: str) -> str:
        """Hash: field `*` is the class's virtual time."""
        return f"{self.base}:served:{job_class}"

    def ahead(self, job_class: str) -> str:
        """Sorted set: tenants without queued jobs that are ahead of the others, by virtual tokens served."""
        return f"{self.base}:ahead:{job_class}"

    def pace(self, job_class: str) -> str:
        """Hash: when the class's last job ended, and the average time between ends (for retry-after)."""
        return f"{self.base}:pace:{job_class}"

    @property
    def queued_bytes(self) -> str:
        """Hash: bytes of queued job specs, by `class:tenant`."""
        return f"{self.base}:queued_bytes"

    def running(self, tenant: str) -> str:
        """Set: the running jobs of a tenant with a limit on them."""
        return f"{self.base}:running:{tenant}"

    @property
    def tenants(self) -> str:
        """Hash: the tenants' policies, a copy of `keys.tenants()` that this tag's scripts can read."""
        return f"{self.base}:tenants"

    def held(self, worker_id: str) -> str:
        """Sorted set with TTL: a worker's jobs, by when it took them; `*` if it has, or had, others."""
        return f"{self.base}:held:{worker_id}"

    @property
    def trial(self) -> str:
        """String with TTL: the worker that tries suspects, or has been asked to."""
        return f"{self.base}:trial"

    @property
    def parked(self) -> str:
        """Set: `class:tenant` of tenants whose jobs wait because as many as they may have are running."""
        return f"{self.base}:parked"

    def rate(self, tenant: str) -> str:
        """Hash with TTL: when a tenant with a rate will have paid off its `requests` and `tokens`, in ms."""
        return f"{self.base}:rate:{tenant}"

    @property
    def paused(self) -> str:
        """Hash: `<class or *>:<tenant or *>` of what an operator has paused, by when in ms."""
        return f"{self.base}:paused"

    @property
    def jobs(self) -> str:
        """Sorted set: the jobs, and some whose record is gone, by when they were enqueued in ms."""
        return f"{self.base}:jobs"

    def job(self, job_id: str) -> str:
        """Hash: the job's record."""
        return f"{self.base}:job:{job_id}"

    def out(self, job_id: str) -> str:
        """Stream: the durable token log; entry id `<tokens so far>-0`, end marker `<tokens>-1`."""
        return f"{self.base}:out:{job_id}"

    def chan(self, job_id: str) -> str:
        """Pub/Sub channel: the token log's entries, live."""
        return f"{self.base}:chan:{job_id}"

    @property
    def leases(self) -> str:
        """Sorted set: running job ids by lease expiry in ms."""
        return f"{self.base}:leases"

    @property
    def delayed(self) -> str:
        """Sorted set: delayed job ids by due time in ms."""
        return f"{self.base}:delayed"

    def delayed_jobs(self, job_class: str, tenant: str) -> str:
        """Sorted set: the same, for one class and tenant."""
        return f"{self.base}:delayed_jobs:{job_class}:{tenant}"

    @property
    def delayed_bytes(self) -> str:
        """Hash: bytes of delayed job specs, by `class:tenant`."""
        return f"{self.base}:delayed_bytes"

    @property
    def deadlines(self) -> str:
        """Sorted set: job ids by deadline in ms."""
        return f"{self.base}:deadlines"

    @property
    def dead(self) -> str:
        """Stream: dead letters."""
        return f"{self.base}:dead"

    @property
    def outbox(self) -> str:
        """Stream, group `relay`: what is still to follow from jobs, for webhooks and Celery."""
        return f"{self.base}:outbox"

    def left(self, app: str) -> str:
        """Stream, group `relay`: outbox entries that other Celery apps' callbacks left to those of `app`."""
        return f"{self.base}:left:{app}"

    def idem(self, tenant: str, idempotency_key: str) -> str:
        """String with TTL: job id and body hash of an idempotent request."""
        return f"{self.base}:idem:{tenant}:{idempotency_key}"

    @property
    def alias(self) -> str:
        """String: there while the model's name is an alias; the alias itself is in `routes`."""
        return f"{self.base}:alias"

    def request(self, request: str) -> str:
        """String with TTL: the answer to an operator's request, in case it is sent again."""
        return f"{self.base}:request:{request}"

    def response(self, job_id: str) -> str:
        """String with TTL: what is kept of a response that may be read and continued later."""
        return f"{self.base}:response:{job_id}"

    @property
    def bell(self) -> str:
        """List: wake-up tokens for idle workers, bounded."""
        return f"{self.base}:bell"

    @property
    def pulse(self) -> str:
        """Hash: when upkeep was last done, and until when lapsed leases are left alone."""
        return f"{self.base}:pulse"

    @property
    def workers(self) -> str:
        """Sorted set: worker ids by last heartbeat in ms."""
        return f"{self.base}:workers"

    def capacity(self, job_class: str) -> str:
        """Sorted set: ids of a class's workers, by the most tokens that one job can reach there."""
        return f"{self.base}:capacity:{job_class}"

    def worker(self, worker_id: str) -> str:
        """Hash with TTL: what the worker last reported about itself."""
        return f"{self.base}:worker:{worker_id}"


@dataclass(frozen=True, slots=True)
class FileKeys:
    """The records of files. A tenant is part of every name, so nobody finds another's."""

    namespace: str = NAMESPACE

    @property
    def base(self) -> str:
        """The prefix that all of them share."""
        return f"{self.namespace}:{{files}}"

    def record(self, tenant: str, file_id: str) -> str:
        """String with TTL: one file's record as JSON."""
        return f"{self.base}:file:{tenant}:{file_id}"

    def of(self, tenant: str) -> str:
        """Sorted set: a tenant's file ids, which sort by time."""
        return f"{self.base}:of:{tenant}"

    def usage(self, tenant: str) -> str:
        """Hash: the sizes of a tenant's stored contents in bytes, by file id."""
        return f"{self.base}:usage:{tenant}"

    @property
    def expiry(self) -> str:
        """Sorted set: `<tenant>:<file id>` of all contents by when they are to be deleted, in ms."""
        return f"{self.base}:expiry"


@dataclass(frozen=True, slots=True)
class BatchKeys(DeliveryKeys):
    """The records of batches, and webhooks about them; their scripts get their prefix as KEYS[1]."""

    namespace: str = NAMESPACE

    @property
    def base(self) -> str:
        """The prefix that all of them share."""
        return f"{self.namespace}:{{batches}}"

    def batch(self, tenant: str, batch_id: str) -> str:
        """Hash with TTL: what was asked for, and how far it is."""
        return f"{self.base}:batch:{tenant}:{batch_id}"

    def parts(self, tenant: str, batch_id: str) -> str:
        """Hash with TTL: the parts written to the file store, each with the lines that it answers."""
        return f"{self.base}:parts:{tenant}:{batch_id}"

    def cancelled(self, tenant: str, batch_id: str) -> str:
        """String with TTL: when the batch was asked to be cancelled, in seconds since the epoch."""
        return f"{self.base}:cancelled:{tenant}:{batch_id}"

    def of(self, tenant: str) -> str:
        """Sorted set: a tenant's batch ids, which sort by time."""
        return f"{self.base}:of:{tenant}"

    def open(self, tenant: str) -> str:
        """Sorted set: the ids of a tenant's batches that have not ended."""
        return f"{self.base}:open:{tenant}"

    @property
    def active(self) -> str:
        """Sorted set: `<tenant>:<batch id>` of unfinished batches by when their lease lapses, in ms."""
        return f"{self.base}:active"


def models(namespace: str = NAMESPACE) -> str:
    """Hash: every model ever served here, with its JSON description."""
    return f"{namespace}:models"


def tenants(namespace: str = NAMESPACE) -> str:
    """Hash: each tenant's policy as JSON; `*` is the default, `*version` counts the changes."""
    return f"{namespace}:tenants"


def routes(namespace: str = NAMESPACE) -> str:
    """Hash: the model aliases, as JSON by their names."""
    return f"{namespace}:routes"


def adapters(namespace: str = NAMESPACE) -> str:
    """Hash: the LoRA adapters that requests can ask for, as JSON by their names."""
    return f"{namespace}:adapters"


def routed(request: str, namespace: str = NAMESPACE) -> str:
    """String with TTL: the model chosen for a request to an alias that may be sent again."""
    return f"{namespace}:routed:{request}"


def webhook_secrets(tenant: str, namespace: str = NAMESPACE) -> str:
    """Hash: the secrets that sign a tenant's webhooks, as JSON, by their ids."""
    return f"{namespace}:webhook_secrets:{tenant}"


def api_keys(namespace: str = NAMESPACE) -> str:
    """Hash: the gateway's API keys, as JSON by their ids; of their secrets only hashes."""
    return f"{namespace}:api_keys"


def api_keys_used(namespace: str = NAMESPACE) -> str:
    """Hash: when each API key was last used, in ms, to a minute."""
    return f"{namespace}:api_keys_used"


def api_key_hash_key(namespace: str = NAMESPACE) -> str:
    """String: the key, in hex, of the hashes of API keys' secrets."""
    return f"{namespace}:api_key_hash_key"


def celery_key(namespace: str = NAMESPACE) -> str:
    """String: the key, in hex, that signs what follows the jobs of Celery tasks."""
    return f"{namespace}:celery_key"


def callbacks(namespace: str = NAMESPACE) -> str:
    """Hash: the Celery apps that have `headrace callbacks`, by when these were last heard from, in ms."""
    return f"{namespace}:callbacks"


def celery_prefix(namespace: str = NAMESPACE) -> str:
    """The prefix of Celery's keys."""
    return f"{namespace}:celery:"


def tag_of(job_id: str, namespace: str = NAMESPACE) -> Tag:
    """The tag of the job's keys.

    Raises:
        JobNotFound: `job_id` is not the id of any job.
    """
    match = _JOB_ID.fullmatch(job_id) if isinstance(job_id, str) else None
    if match is None:
        raise JobNotFound(job_id)
    return Tag(match[2].replace("~", "/"), int(match[1]), namespace)


def is_permanent(key: str, namespace: str = NAMESPACE) -> bool:
    """Whether `key` may stay without a TTL once every job has ended; all other keys must have one.

    Celery's own tables, of hosts that listen for control messages, are a fixed few and are swept by Celery.
    """
    if key in {f"{namespace}:{name}" for name in _PERMANENT}:
        return True
    if key.startswith(webhook_secrets("", namespace)):
        return True
    if key.startswith(f"{celery_prefix(namespace)}_kombu.binding"):
        return True
    match = re.fullmatch(re.escape(namespace) + r":\{[^}]+\}:(.+)", key)
    return match is not None and _PERMANENT_IN_TAG.fullmatch(match[1]) is not None
