"""Bodies over a real socket: what is too large, too many, too slow or broken ends in one error, and soon."""

import asyncio
import json
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.unit.api.scripted import Api, ScriptedEngine, Serve
from tpid.api.chat_body import ChatBody
from tpid.api.json_bounds import MAX_MARKS
from tpid.api.request_body import MAX_CONTROL_BYTES, MIN_CHAT_BYTES, BodyReader

CHAT = "/v1/chat/completions"


def chat_of(content: str, **options: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **options}).encode()


async def refused(api: Api, body: Any, target: str = CHAT, **options: Any) -> dict[str, Any]:
    status, answer = await api.request(target, body, **options)
    assert 400 <= status < 500
    return dict(answer["error"])


def test_the_largest_text_that_is_taken_follows_the_context() -> None:
    assert BodyReader(16).max_chat_bytes == MIN_CHAT_BYTES
    assert BodyReader(100_000).max_chat_bytes == 6_400_000
    assert BodyReader(1 << 30).max_chat_bytes == 16_000_000


def test_a_body_of_the_largest_size_is_read(serve: Serve, engine: ScriptedEngine) -> None:
    async def main() -> None:
        async with serve() as api:
            content = "é" * ((MIN_CHAT_BYTES - 100) // 6)
            assert (await api.request(CHAT, chat_of(content)))[0] == 200
            assert engine.requests[0].prompt.messages[0]["content"] == content

    uvloop.run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_larger_one_is_refused_with_what_to_do(serve: Serve, engine: ScriptedEngine, chunked: bool) -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * (1 << 16)

    async def main() -> None:
        async with serve() as api:
            error = await refused(api, pieces() if chunked else b" " * (MIN_CHAT_BYTES + 1), method="POST")
            assert error["code"] == "context_length_exceeded"
            assert error["message"].startswith("The request has more than 1000000 bytes; the context holds 4096 tokens")
            assert (await api.request(CHAT, chat_of("still here")))[0] == 200

    uvloop.run(main())
    assert len(engine.requests) == 1


def test_control_bodies_are_small(serve: Serve) -> None:
    async def main() -> None:
        async with serve() as api:
            error = await refused(api, b" " * (MAX_CONTROL_BYTES + 1), "/tpid/load")
            assert (error["code"], error["hint"]) == ("request", "Send names and paths only.")

    uvloop.run(main())


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[' + b"1," * MAX_MARKS + b"1]}",
        b'{"messages":[' + b"{}," * MAX_MARKS + b"{}]}",
        b"[" * 500_000,
        b'"' * 500_000,
    ],
    ids=["ints", "objects", "nested", "quotes"],
)
def test_too_many_items_are_refused_before_they_are_parsed(
    serve: Serve, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_parse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(BaseModel, "model_validate_json", no_parse)

    async def main() -> None:
        async with serve() as api:
            assert (await refused(api, body))["message"].startswith("The request has too many items.")

    uvloop.run(main())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request is not sound: Invalid JSON"),
        (b"{", "The request is not sound: Invalid JSON"),
        (b"\xff", "The request is not sound: Invalid JSON"),
        (b"[" * 1000, "The request is not sound: Invalid JSON: recursion limit exceeded"),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', "The request is not sound: Invalid JSON"),
        (b'{"model":"m","messages":[],"seed":' + b"9" * 20_000 + b"}", "The request is not sound: "),
        (chat_of("x", temperature=-1), "temperature is -1.0"),
        (chat_of("x", stop=[""]), "A stop string is empty."),
        (chat_of("x", stop="x" * 5000), "A stop string has 5000 characters"),
        (chat_of("x", top_k=10**30), "top_k is 1000000000000000000000000000000"),
    ],
)
def test_what_is_no_sound_chat_is_one_error(serve: Serve, engine: ScriptedEngine, body: bytes, message: str) -> None:
    async def main() -> None:
        async with serve() as api:
            error = await refused(api, body)
            assert error["message"].startswith(message)
            assert len(error["message"]) < 300

    uvloop.run(main())
    assert not engine.requests


def test_a_compressed_body_is_refused_and_never_unpacked(serve: Serve) -> None:
    async def main() -> None:
        async with serve() as api:
            error = await refused(api, b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
            assert error["message"].startswith("The request is compressed.")

    uvloop.run(main())


async def answer_to(api: Api, data: bytes) -> bytes:
    """Until the daemon closes the connection; the client's side stays open."""
    reader, writer = await api.raw()
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


def test_a_body_that_does_not_come_is_not_waited_for(serve: Serve) -> None:
    head = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{"

    async def main() -> None:
        async with serve(bodies=BodyReader(16, timeout_s=0.05)) as api:
            reader, writer = await api.raw()
            writer.write(head)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b" 400 " in answer
            assert b"was not complete within 0.05 s" in await reader.readuntil(b"}}")
            writer.close()

    uvloop.run(main())


def test_broken_chunks_are_an_error(serve: Serve) -> None:
    head = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def main() -> None:
        async with serve() as api:
            assert b" 400 " in await answer_to(api, head + b"1\r\na\r\nzz\r\n")

    uvloop.run(main())


def test_what_is_held_of_all_bodies_is_bounded_and_let_go(serve: Serve) -> None:
    reader = BodyReader(16)

    async def main() -> None:
        async with serve(bodies=reader) as api:
            head = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            held = []
            for _ in range(6):
                one = await api.raw()
                one[1].write(head + b" " * 900_000)
                held.append(one)
            answers = {asyncio.create_task(one.readuntil(b"}}")) for one, _ in held}
            done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            assert b'"code": "busy"' in done.pop().result()
            for answer in answers:
                answer.cancel()
            for _, writer in held:
                writer.close()
            while reader._held_bytes:  # noqa: ASYNC110 (there is no event for it)
                await asyncio.sleep(0)
            assert (await api.request(CHAT, chat_of("hello")))[0] == 200

    uvloop.run(main())


def test_the_loop_is_free_while_bodies_are_read(serve: Serve) -> None:
    """Steps of the loop, not times: between two steps lies one piece of a body, or one parse of bounded structure."""
    steps = 0

    async def count() -> None:
        nonlocal steps
        while True:
            await asyncio.sleep(0)
            steps += 1

    async def main() -> None:
        async with serve() as api:
            counting = asyncio.create_task(count())
            await refused(api, b'"' + b"x" * (MIN_CHAT_BYTES - 1))
            counting.cancel()

    uvloop.run(main())
    assert steps > MIN_CHAT_BYTES / (1 << 16)


FIELDS = sorted(ChatBody.model_fields)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


CHANGES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), VALUES, max_size=4)


@given(st.lists(st.tuples(CHANGES, st.integers(0)), min_size=8, max_size=12))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_gives_an_answer_or_an_error_of_the_client(
    serve: Serve, bodies: list[tuple[dict[str, Any], int]]
) -> None:
    async def main() -> None:
        async with serve() as api:
            for changes, cut in bodies:
                body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False} | changes
                data = json.dumps(body).encode(errors="surrogatepass")
                status, text = await api.text(CHAT, data if cut % 4 else data[: cut % (len(data) + 1)])
                assert status == 200 or 400 <= status < 500
                if status != 200:
                    assert json.loads(text)["error"]["code"] == "request"

    uvloop.run(main())
