"""Hold a queue's waiting jobs back, and let them start again."""

from ..errors import BadSetting
from ..keys import Tag
from ..redis.call import Call, script, text

ALL = "*"
"""Stands for every class, or every tenant."""


def pause(tag: Tag, job_class: str = ALL, tenant: str = ALL) -> Call[None]:
    """Start no more jobs of this class and tenant; those that have left their lane continue.

    Raises:
        BadSetting: 1,000 parts of the queue are paused already.
    """

    def parse(reply: bytes | str) -> None:
        if text(reply) == "full":
            raise BadSetting(f"1,000 parts of model {tag.model!r} are paused already; pause it as a whole")

    return script("pause").call(tag.base, parse, **{"class": job_class}, tenant=tenant)


def resume(tag: Tag, job_class: str = ALL, tenant: str = ALL) -> Call[bool]:
    """End a pause of exactly this class and tenant; return whether there was one."""
    return script("resume").call(tag.base, bool, **{"class": job_class}, tenant=tenant)
