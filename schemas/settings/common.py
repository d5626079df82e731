"""Settings of every headrace process: flags, then HEADRACE_* variables, then `headrace.toml`."""

import codecs
import os
import re
import shlex
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ..choices import MAX_CHOICES
from ..errors import BadSetting
from ..job import MAX_LOGPROBS
from ..keys import NAMESPACE
from ..redis.connection.address import Address
from ..redis.connection.connect import not_a_url
from ..redis.connection.masking import shown_url
from ..wording import in_words
from .queue import (
    LONGEST_KEPT_S,
    LONGEST_WAIT_S,
    MOST_PARTITIONS,
    MOST_REPLICAS,
    Limits,
    QueueSettings,
)

ENV_PREFIX = "HEADRACE_"

MAX_FILE_BYTES = 2**20
"""Anything larger isn't a settings file."""

_PLACE = re.compile(r"(.+) \(at (?:line (\d+), column \d+|end of document)\)")
"""The form of tomllib's error messages."""

_FORM = 'settings are lines like name = "text", name = 5 or name = true'


def config_file() -> Path:
    """The settings file: `$HEADRACE_CONFIG`, else `headrace.toml` in the current folder."""
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG") or "headrace.toml")


def read_config_file() -> dict[str, Any]:
    """The settings in the settings file; empty if there is no `headrace.toml`.

    Raises:
        BadSetting: the file can't be read, or `$HEADRACE_CONFIG` names a missing one; with the line, if
            known.
    """
    path = config_file()
    try:
        if path.is_dir() or path.is_fifo() or path.is_socket():  # a pipe would be waited for
            raise BadSetting(f"{path} is not a file that settings can be read from")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if os.environ.get(f"{ENV_PREFIX}CONFIG"):
            raise BadSetting(f"{ENV_PREFIX}CONFIG names {path}, which does not exist") from None
        return {}
    except OSError as error:
        raise BadSetting(f"{path} can't be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise BadSetting(f"{path} is not a settings file: it has more than {MAX_FILE_BYTES} bytes")
    return _parsed(path, content.removeprefix(codecs.BOM_UTF8))


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.fullmatch(str(error))
        line = int(found[2] or content.rstrip().count(b"\n") + 1) if found else 1
        reason = f"{found[1] if found else error}; {_FORM}"
    except (RecursionError, ValueError):  # Python's own limits, of nesting and of digits
        raise BadSetting(f"{path}: a value is nested too deeply, or is too long a number; {_FORM}") from None
    raise BadSetting(f"{path}, line {line}: {reason}")


def _origin(name: str, given: Collection[str]) -> str:
    """Where a setting was read, unless an option gave it."""
    variable = f"{ENV_PREFIX}{name.upper()}"
    if name in given:
        return ""
    return f" ({variable})" if variable in map(str.upper, os.environ) else f" ({config_file()})"


def split(value: object) -> object:
    """Split a comma-separated text, for a setting that is a list; return anything else unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def words(value: object) -> object:
    """Split a text as a shell would, for a setting that is a list; return anything else unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(shlex.split(value))


class CommonSettings(BaseSettings):
    """Settings of every process: where Redis is and how jobs are kept.

    Attributes:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path`,
            `redis+sentinel://host:port,host:port/service`, `redis+cluster://host:port,host:port`.
        namespace: the first part of every key.
        partitions: queues that each model's jobs are spread over; the same for producers and workers.
        retention_s: how long an ended job stays readable.
        dead_retention_s: how long a dead letter and its job are kept.
        idempotency_s: how long an idempotency key is remembered.
        max_attempts: upper bound of every job's own `max_attempts`, the deaths of workers over a job after
            which it becomes a dead letter.
        wait_replicas: number of replicas that must have a job before `enqueue` returns.
        wait_s: how long each try waits for them.
        default_model: model of `headrace enqueue` and of `generate` if none is named; by default the only
            model served.
        max_job_bytes: maximum size of a job as JSON.
        max_queued_jobs: maximum number of queued jobs per lane (class and tenant).
        max_queued_bytes: maximum size of the queued jobs per lane.
        max_logprobs: the most that a job's `logprobs` and `prompt_logprobs` may ask for; the same for
            producers and workers, like the next one.
        max_prompt_logprobs: the most log-probabilities of one prompt, of its tokens and of those beside them:
            its tokens times (1 + `prompt_logprobs`). Each takes about 60 bytes of the result in Redis.
        max_choices: the most answers that a job's `n` may ask for; the same for producers and workers.
    """

    # extra: the file serves all processes, each with settings of its own; typos are found by `names`.
    # hide_input_in_errors: the input may be a URL with a password.
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    redis_url: str = Field(default="redis://localhost:6379/0", repr=False)
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = NAMESPACE
    partitions: Annotated[int, Field(ge=1, le=MOST_PARTITIONS)] = 1
    retention_s: Annotated[float, Field(gt=0, le=LONGEST_KEPT_S)] = 86_400.0
    dead_retention_s: Annotated[float, Field(gt=0, le=LONGEST_KEPT_S)] = 30 * 86_400.0
    idempotency_s: Annotated[float, Field(gt=0, le=LONGEST_KEPT_S)] = 86_400.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 10
    wait_replicas: Annotated[int, Field(ge=0, le=MOST_REPLICAS)] = 0
    wait_s: Annotated[float, Field(gt=0, le=LONGEST_WAIT_S)] = 1.0
    default_model: str | None = None
    max_job_bytes: Annotated[int, Field(gt=0)] = 4 * 2**20
    max_queued_jobs: Annotated[int, Field(gt=0)] = 1_000_000
    max_queued_bytes: Annotated[int, Field(gt=0)] = 2**30
    max_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] = 20
    max_prompt_logprobs: Annotated[int, Field(ge=0, le=2**24)] = 65_536
    max_choices: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 8

    @field_validator("redis_url")
    @classmethod
    def _can_be_read(cls, url: str) -> str:
        try:
            Address.parse(url)
        except ValueError as error:
            raise ValueError(not_a_url(error)) from None
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_config_file())

    @classmethod
    def load(cls, **flags: object) -> Self:
        """Load the effective settings; a flag that is None was not given.

        Raises:
            BadSetting: naming the first setting that is wrong.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            shown = cls._shown(name, first["input"])
            origin = _origin(str(first["loc"][0]), given)
            raise BadSetting(f"setting {name} = {shown}: {in_words(first)}{origin}") from None
        except SettingsError as error:  # pydantic-settings names the field, and not what is wrong with it
            raise BadSetting(f"{error}: it must be JSON") from None

    @classmethod
    def _shown(cls, name: str, value: object) -> str:
        """A wrong setting's value without secrets."""
        if isinstance(value, str) and name.endswith(("_url", "_backend")):
            return repr(shown_url(value))
        known = cls.model_fields.get(name)
        return repr(value) if known is not None and known.repr else "..."

    @property
    def queue(self) -> QueueSettings:
        """The settings that the enqueue and upkeep scripts take."""
        limits = Limits(
            self.max_job_bytes,
            self.max_queued_jobs,
            self.max_queued_bytes,
            self.max_logprobs,
            self.max_prompt_logprobs,
            self.max_choices,
        )
        return QueueSettings(
            namespace=self.namespace,
            partitions=self.partitions,
            retention_s=self.retention_s,
            dead_retention_s=self.dead_retention_s,
            idempotency_s=self.idempotency_s,
            max_attempts=self.max_attempts,
            limits=limits,
        )
