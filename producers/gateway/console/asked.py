"""What an operator's page can ask for, as JSON bodies."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from ....schemas.keys import is_model_name
from ...operate.dead import DeadLetter
from ..bodies import read_json
from ..errors import Refusal

Name = Annotated[str, Field(min_length=1, max_length=200)]


class ConsoleRequest(BaseModel):
    """The body of a request to the console."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LetterAsked(ConsoleRequest):
    """A dead letter, which may no longer exist."""

    entry: Annotated[str, Field(pattern=r"^[0-9]{1,20}-[0-9]{1,20}$")]
    model: Name
    partition: Annotated[int, Field(ge=0, le=9999)] = 0

    def letter(self) -> DeadLetter:
        """The letter.

        Raises:
            Refusal: 400, no model can have that name.
        """
        if not is_model_name(self.model):
            raise Refusal(400, "model: must be a model's name.", code="invalid_parameter", param="model")
        return DeadLetter(entry=self.entry, model=self.model, partition=self.partition)


class RequeueAsked(LetterAsked):
    """A dead letter to requeue."""

    from_scratch: bool = False


class ReplayAsked(ConsoleRequest):
    """A webhook delivery to send again."""

    id: Name


class CancelAsked(ConsoleRequest):
    """A job to cancel."""

    id: Name


class DrainAsked(ConsoleRequest):
    """A worker to drain, and how long its jobs have to finish there."""

    id: Name
    finish_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0


A = TypeVar("A", bound=ConsoleRequest)


async def read(request: Request, kind: type[A]) -> A:
    """The request's body.

    Raises:
        Refusal: 400, naming the field that is wrong.
    """
    try:
        return kind.model_validate(await read_json(request))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))[:200]
        raise Refusal(400, f"{name}: {first['msg']}.", code="invalid_parameter", param=name) from None
