from typing import Any

import uvloop

from tests.unit.api.scripted import Serve


def ask(serve: Serve, target: str, body: Any = None) -> tuple[int, Any]:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request(target, body)

    return uvloop.run(main())


def test_a_device_alone_is_its_home(serve: Serve) -> None:
    status, listed = ask(serve, "/tpid/devices")
    assert status == 200
    (me,) = listed["devices"]
    assert (me["name"], me["role"], me["is_me"], me["connected"]) == ("desk", "user", True, True)
    assert me["fingerprint"].startswith(me["short_fingerprint"])
    assert listed["strangers"] == []


def test_what_cannot_be_done_alone_is_one_sentence(serve: Serve) -> None:
    for target, body, told in (
        ("/tpid/leave", {}, "alone in its home"),
        ("/tpid/devices/remove", {"name": "desk"}, "the device itself"),
        ("/tpid/devices/remove", {"name": "pi"}, "No device of this home is called 'pi'"),
        ("/tpid/invite", {"role": "boss"}, "role"),
    ):
        status, answer = ask(serve, target, body)
        assert status in (400, 503), answer
        assert told in answer["error"]["message"]
