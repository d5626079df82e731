"""Settings of every headrace process: flags, then HEADRACE_* variables, then `headrace.toml`."""

import codecs
import os
import re
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

from ..errors import BadSetting
from ..keys import NAMESPACE
from ..redis.connection.address import Address
from ..redis.connection.connect import not_a_url
from ..redis.connection.masking import shown_url
from ..wording import in_words
from .queue import Limits, QueueSettings

ENV_PREFIX = "HEADRACE_"

MAX_FILE_BYTES = 2**20
"""What is larger is no settings file."""

_PLACE = re.compile(r"(.+) \(at (?:line (\d+), column \d+|end of document)\)")
"""How tomllib words an error."""

_FORM = 'settings are lines like name = "text", name = 5 or name = true'


def config_file() -> Path:
    """The settings file: `$HEADRACE_CONFIG`, else `headrace.toml` in the current folder."""
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG") or "headrace.toml")


def read_config_file() -> dict[str, Any]:
    """What the settings file sets; nothing where there is no `headrace.toml`.

    Raises:
        BadSetting: it can't be read, or `$HEADRACE_CONFIG` names none; with the line where that is known.
    """
    path = config_file()
    try:
        if path.is_dir() or path.is_fifo() or path.is_socket():  # a pipe would be waited for
            raise BadSetting(f"{path} is no file that settings can be read from")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if os.environ.get(f"{ENV_PREFIX}CONFIG"):
            raise BadSetting(f"{ENV_PREFIX}CONFIG names {path}, and there is no such file") from None
        return {}
    except OSError as error:
        raise BadSetting(f"{path} can't be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise BadSetting(f"{path} is no settings file: it has more than {MAX_FILE_BYTES} bytes")
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
        raise BadSetting(f"{path}: a value is nested too deep, or is too long a number; {_FORM}") from None
    raise BadSetting(f"{path}, line {line}: {reason}")


def _origin(name: str, given: Collection[str]) -> str:
    """Where a setting was read that was not given by an option."""
    variable = f"{ENV_PREFIX}{name.upper()}"
    if name in given:
        return ""
    return f" ({variable})" if variable in map(str.upper, os.environ) else f" ({config_file()})"


def split(value: object) -> object:
    """The parts of a text with commas, for a setting that is a list; all else as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


class CommonSettings(BaseSettings):
    """What every process needs to know: where Redis is and how jobs are kept.

    Attributes:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path`,
            `redis+sentinel://host:port,host:port/service`, `redis+cluster://host:port,host:port`.
        namespace: the first part of every key.
        partitions: queues that each model's jobs are spread over; the same for producers and workers.
        retention_s: how long an ended job stays readable.
        dead_retention_s: how long a dead letter and its job stay.
        idempotency_s: how long an idempotency key is remembered.
        max_attempts: a job is dead-lettered after so many deaths of workers over it, whatever it asks for.
        wait_replicas: replicas that must have a job before a producer's `enqueue` returns.
        wait_s: how long one try waits for them.
        default_model: the model of `headrace enqueue` and of `generate` where none is named; the only one
            served when not given.
        max_job_bytes: largest job as JSON.
        max_queued_jobs: most queued jobs a lane (class and tenant).
        max_queued_bytes: most queued bytes a lane.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    redis_url: str = Field(default="redis://localhost:6379/0", repr=False)
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = NAMESPACE
    partitions: Annotated[int, Field(ge=1, le=1024)] = 1
    retention_s: Annotated[float, Field(gt=0)] = 86_400.0
    dead_retention_s: Annotated[float, Field(gt=0)] = 30 * 86_400.0
    idempotency_s: Annotated[float, Field(gt=0)] = 86_400.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 10
    wait_replicas: Annotated[int, Field(ge=0, le=16)] = 0
    wait_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    default_model: str | None = None
    max_job_bytes: Annotated[int, Field(gt=0)] = 4 * 2**20
    max_queued_jobs: Annotated[int, Field(gt=0)] = 1_000_000
    max_queued_bytes: Annotated[int, Field(gt=0)] = 2**30

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
        """The effective settings; flags that are None were not given.

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
        """A wrong setting's value without what may be secret."""
        if isinstance(value, str) and name.endswith(("_url", "_backend")):
            return repr(shown_url(value))
        known = cls.model_fields.get(name)
        return repr(value) if known is not None and known.repr else "..."

    @property
    def queue(self) -> QueueSettings:
        """The part that the enqueue and upkeep scripts take."""
        limits = Limits(self.max_job_bytes, self.max_queued_jobs, self.max_queued_bytes)
        return QueueSettings(
            namespace=self.namespace,
            partitions=self.partitions,
            retention_s=self.retention_s,
            dead_retention_s=self.dead_retention_s,
            idempotency_s=self.idempotency_s,
            max_attempts=self.max_attempts,
            limits=limits,
        )
