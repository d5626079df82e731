"""Which queue an operator's call is about: a model, and perhaps one class, one tenant or both."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from ...schemas.errors import BadSetting, UnknownModel
from ...schemas.job import JobClass, TenantName
from ...schemas.keys import Tag
from ..operations import Operations
from ..steps import Steps, check_name
from .overview import model_tags


@dataclass(frozen=True, slots=True)
class Chosen:
    """A class and a tenant, or every one where it is None."""

    job_class: JobClass | None = None
    tenant: str | None = None

    @classmethod
    def of(cls, job_class: JobClass | str | None, tenant: str | None) -> "Chosen":
        """The class and tenant of these names.

        Raises:
            BadSetting: no class or tenant can have this name.
        """
        return cls(_class_of(job_class), _tenant_of(tenant))


def _class_of(job_class: JobClass | str | None) -> JobClass | None:
    try:
        return None if job_class is None else JobClass(job_class)
    except ValueError:
        raise BadSetting(f"job_class = {job_class!r}: must be one of {', '.join(JobClass)}") from None


def _tenant_of(tenant: str | None) -> str | None:
    if tenant is None:
        return None
    try:
        return TypeAdapter(TenantName).validate_python(tenant)
    except ValidationError:
        raise BadSetting(
            f"tenant = {tenant!r}: must be 1 to 64 letters, digits or _ . @ -; leave it out for every tenant"
        ) from None


def tags_of(operations: Operations, model: str) -> Steps[list[Tag]]:
    """The queues of a model that has been served here.

    Raises:
        BadSetting: an empty name.
        UnknownModel: no worker has ever served it here.
    """
    check_name("model", model)
    tags = yield from model_tags(operations)
    if found := [tag for tag in tags if tag.model == model]:
        return found
    raise UnknownModel(model, sorted({tag.model for tag in tags}))
