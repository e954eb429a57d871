"""What comes in over HTTP to control the daemon, checked; and how a fault in a body is told."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from tpid.api.fields import shown
from tpid.download.reference import MAX_REFERENCE_CHARS
from tpid.size_field import Size

MAX_NAME_CHARS = 255  # of a model; longer ones do not exist, but would be told again in an error
MAX_PATH_CHARS = 4096
MAX_TOKEN_CHARS = 512  # of an account at a hub

ModelName = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class JsonBody(BaseModel):
    """Of a request. Lists end at their first fault: a million faults would take a gigabyte."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PromptBody(JsonBody):
    """With a text for a model in it, so it may be large."""

    model: ModelName
    _size_bytes: int = PrivateAttr(default=0)

    @property
    def size_bytes(self) -> int:
        """Of what was sent."""
        return self._size_bytes

    def sized(self, size_bytes: int) -> Self:
        self._size_bytes = size_bytes
        return self


class InviteBody(JsonBody):
    """POST /tpid/invite"""

    role: Literal["user", "helper"] = "helper"


class JoinBody(JsonBody):
    """POST /tpid/join"""

    code: Annotated[str, Field(max_length=MAX_NAME_CHARS)]
    address: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None


class RemoveBody(JsonBody):
    """POST /tpid/devices/remove"""

    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class LeaveBody(JsonBody):
    """POST /tpid/leave"""


RoundedFormat = Literal["w4", "w4s", "w8", "f16", "bf16"]  # ROUNDED_TO of tpid.model.weights


class ImportBody(JsonBody):
    """POST /tpid/import"""

    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS, pattern=r"^[^\x00]*$")]
    name: ModelName | None = None
    format: RoundedFormat | None = None
    replace: bool = False


class PullBody(JsonBody):
    """POST /tpid/pull: a name of the catalogue, or a model elsewhere. `name` is for the pack."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE_CHARS, pattern=r"^[^\x00-\x1f]*$")]
    name: ModelName | None = None
    endpoint: Annotated[str, Field(max_length=MAX_NAME_CHARS, pattern=r"^https?://[^\s/]+")] | None = None  # of a hub
    token: Annotated[str, Field(max_length=MAX_TOKEN_CHARS, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        default=None, repr=False
    )
    format: RoundedFormat | None = None
    replace: bool = False


class ShowBody(JsonBody):
    """POST /tpid/models/show"""

    model: ModelName


class CopyBody(JsonBody):
    """POST /tpid/models/copy"""

    model: ModelName
    name: ModelName


class RemoveModelBody(JsonBody):
    """POST /tpid/models/remove"""

    model: Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE_CHARS, pattern=r"^[^\x00-\x1f]*$")]


class UnloadBody(JsonBody):
    """POST /tpid/unload"""


class LoadBody(JsonBody):
    """POST /tpid/load"""

    model: ModelName


class VerifyBody(JsonBody):
    """POST /tpid/verify"""

    model: ModelName


class KeyBody(JsonBody):
    """POST /tpid/keys/create and /tpid/keys/revoke"""

    name: ModelName


class PlanBody(JsonBody):
    """POST /tpid/plan"""

    model: ModelName
    memory: Size | None = None  # of this device, instead of its budget
    context_tokens: Annotated[int, Field(ge=16, le=1 << 30)] | None = None  # instead of the configured one


def first_fault(errors: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """The first of pydantic's errors: the field, if it is of one, and what is wrong, in a few words."""
    first = errors[0]
    reason = str(first["msg"]).removeprefix("Value error, ")
    where = ".".join(shown(str(part)) for part in first["loc"])
    return where or None, f"{where}: {reason}" if where else reason
