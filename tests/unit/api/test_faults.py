import logging
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import ScriptedEngine, Serve
from tpid import errors
from tpid.api.faults import describe, describe_openai, status_of
from tpid.errors import TpidError


def leaves(kind: type[TpidError] = TpidError) -> list[type[TpidError]]:
    below = [leaf for child in kind.__subclasses__() if child.__module__ == errors.__name__ for leaf in leaves(child)]
    return below or [kind]


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_each_error_of_the_tree_has_a_status_that_fits(kind: type[TpidError]) -> None:
    options: dict[str, Any] = {"reason_code": "self"} if kind is errors.RefusedError else {}
    error = kind("It failed.", hint="Mend it.", **options)
    assert describe(error) == {"code": kind.code, "message": "It failed.", "hint": "Mend it.", "type": "tpid_error"}
    of_client = issubclass(kind, errors.RequestError | errors.ModelError | errors.PackError | errors.AccessError)
    assert (400 <= status_of(error) < 500) == of_client


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (
            errors.ModelNotFoundError("There is none.", hint="Pull one."),
            {"message": "There is none. Pull one.", "type": "invalid_request_error", "param": "model"}
            | {"code": "model_not_found"},
        ),
        (
            errors.RequestError("top_p is 2.", field="top_p"),
            {"message": "top_p is 2.", "type": "invalid_request_error", "param": "top_p", "code": "request"},
        ),
        (
            errors.ContextOverflowError("Too long."),
            {"message": "Too long.", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"},
        ),
        (
            errors.BusyError("Busy."),
            {"message": "Busy.", "type": "rate_limit_error", "param": None, "code": "busy"},
        ),
        (
            errors.DeviceLostError("Gone."),
            {"message": "Gone.", "type": "server_error", "param": None, "code": "device_lost"},
        ),
    ],
)
def test_openais_clients_get_openais_shape(error: TpidError, fault: dict[str, Any]) -> None:
    assert describe_openai(error) == fault


def test_what_is_not_there(serve: Serve) -> None:
    async def main() -> None:
        async with serve() as api:
            status, answer = await api.request("/v1/none")
            assert (status, answer["error"]["type"]) == (404, "invalid_request_error")
            assert await api.request("/none") == (404, _http("GET /none: Not Found."))
            assert await api.request("/tpid/load") == (405, _http("GET /tpid/load: Method Not Allowed."))

    uvloop.run(main())


def _http(message: str) -> dict[str, Any]:
    return {"error": {"code": "http", "message": message, "hint": None}}


def test_what_a_client_writes_into_a_path_makes_no_line_of_the_log(
    serve: Serve, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serve() as api:
            await api.request("/none%0Aforged%1B[2J")
            await api.request("/tpid/load", {"model": 3})

    with caplog.at_level(logging.DEBUG, "tpid"):
        uvloop.run(main())
    assert "forged" not in caplog.text
    assert "request_refused route=/tpid/load code=request" in caplog.messages
