"""The API on a TCP port of loopback: who gets in, from which page, and what becomes of a port that is taken."""

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.api.scripted import ScriptedEngine
from tpid.api.access import Access
from tpid.api.keys import ApiKeys
from tpid.api.listen_address import ListenAddress, TcpState
from tpid.api.request_body import BodyReader
from tpid.api.server import Endpoints, Limits, make_public_app
from tpid.api.tcp import serving_tcp, tls_context
from tpid.errors import ConfigError

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
PAGE = "http://page.example"

Call = Callable[..., Any]
ServeTcp = Callable[..., AbstractAsyncContextManager[Call]]


@pytest.fixture
def serve_tcp(endpoints: Endpoints) -> ServeTcp:
    """`async with serve_tcp(access) as call`; `await call(target, body, headers)` gives status, headers and text."""

    @asynccontextmanager
    async def make(access: Access | None = None, context: ssl.SSLContext | None = None) -> AsyncIterator[Call]:
        app = make_public_app(endpoints, BodyReader(4096), access or Access(None))
        async with (
            serving_tcp(app, ListenAddress("127.0.0.1", 0), Limits(), context) as state,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        ):
            scheme = "https" if state.secure else "http"

            async def call(target: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
                method = method or ("GET" if body is None else "POST")
                sent = {name.replace("_", "-"): value for name, value in headers.items()}
                url = f"{scheme}://{state.address}{target}"
                async with session.request(method, url, json=body, headers=sent, ssl=False) as response:
                    return response.status, response.headers, await response.text()

            yield call

    return make


def get(serve_tcp: ServeTcp, access: Access | None, *arguments: Any, **headers: str) -> tuple[int, Any, Any]:
    async def main() -> Any:
        async with serve_tcp(access) as call:
            return await call(*arguments, **headers)

    status, got, text = uvloop.run(main())
    return status, got, json.loads(text) if text else None


def test_a_chat_needs_no_key_on_loopback(serve_tcp: ServeTcp) -> None:
    status, _, answer = get(serve_tcp, None, CHAT, HELLO)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello")
    assert get(serve_tcp, None, "/health")[::2] == (200, {"status": "ok"})


@pytest.mark.parametrize("target", ["/tpid/status", "/tpid/keys", "/tpid/import", "/tpid/models"])
def test_the_daemon_is_not_controlled_over_tcp(serve_tcp: ServeTcp, target: str) -> None:
    assert get(serve_tcp, None, target)[0] == 404


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7475", "app.localhost:1", "127.0.0.1:7475", "[::1]:7475", "box"]
)
def test_names_of_this_machine_are_taken(serve_tcp: ServeTcp, host: str) -> None:
    assert get(serve_tcp, Access(None, hosts=["Box"]), "/v1/models", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7475", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_strangers_name_for_this_machine_is_refused(serve_tcp: ServeTcp, engine: ScriptedEngine, host: str) -> None:
    status, _, answer = get(serve_tcp, None, CHAT, HELLO, Host=host)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (403, "origin", "permission_error")
    assert "api.hosts" in answer["error"]["message"]
    assert not engine.requests


def test_a_page_of_strangers_may_not_use_the_api(serve_tcp: ServeTcp, engine: ScriptedEngine) -> None:
    status, headers, answer = get(serve_tcp, None, CHAT, HELLO, Origin=PAGE)
    assert (status, answer["error"]["code"]) == (403, "origin")
    assert "Access-Control-Allow-Origin" not in headers
    assert not engine.requests
    assert get(serve_tcp, None, CHAT, None, "OPTIONS", Origin=PAGE, Access_Control_Request_Method="POST")[0] == 403


@pytest.mark.parametrize("origins", [[PAGE], ["*"]])
def test_a_listed_page_may(serve_tcp: ServeTcp, origins: list[str]) -> None:
    access = Access(None, origins)
    status, headers, _ = get(serve_tcp, access, CHAT, HELLO, Origin=PAGE)
    assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, PAGE, "Origin")
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    status, headers, _ = get(serve_tcp, access, CHAT, None, "OPTIONS", Origin=PAGE, **asked)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    assert headers["Access-Control-Allow-Headers"] == "authorization"
    assert get(serve_tcp, access, CHAT, {}, Origin=PAGE)[1]["Access-Control-Allow-Origin"] == PAGE  # an error, too


def test_a_stream_can_be_read_by_a_listed_page(serve_tcp: ServeTcp) -> None:
    async def main() -> Any:
        async with serve_tcp(Access(None, [PAGE])) as call:
            return await call(CHAT, HELLO | {"stream": True}, Origin=PAGE)

    assert uvloop.run(main())[1]["Access-Control-Allow-Origin"] == PAGE


def test_the_apis_own_page_may(serve_tcp: ServeTcp) -> None:
    assert get(serve_tcp, None, CHAT, HELLO, Origin="http://localhost:7475", Host="localhost:7475")[0] == 200
    assert get(serve_tcp, None, CHAT, HELLO, Origin="http://localhost:1", Host="localhost:7475")[0] == 403


@pytest.fixture
def key(keys: ApiKeys) -> str:
    return keys.create("phone")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer tpid-x", "Basic {key}", "{key}"])
def test_without_a_good_key_nobody_gets_in(serve_tcp: ServeTcp, keys: ApiKeys, key: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.format(key=key)}
    status, _, answer = get(serve_tcp, Access(keys), CHAT, HELLO, **headers)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (
        401,
        "invalid_api_key",
        "authentication_error",
    )
    assert "tpictl key create" in answer["error"]["message"]
    assert get(serve_tcp, Access(keys), "/none", **headers)[0] == 401


def test_a_key_opens_by_any_name_of_this_machine(serve_tcp: ServeTcp, keys: ApiKeys, key: str) -> None:
    assert get(serve_tcp, Access(keys), CHAT, HELLO, Authorization=f"bearer {key}", Host="box.lan")[0] == 200
    assert get(serve_tcp, Access(keys), "/health")[0] == 200
    asked = {"Origin": PAGE, "Access_Control_Request_Method": "POST"}  # a browser asks this without the key
    assert get(serve_tcp, Access(keys, [PAGE]), CHAT, None, "OPTIONS", **asked)[0] == 204
    assert get(serve_tcp, Access(keys), CHAT, HELLO, Authorization=f"Bearer {key}", Origin=PAGE)[0] == 403


def test_a_port_that_is_taken_is_told_and_nothing_ends(endpoints: Endpoints) -> None:
    async def main(port: int) -> TcpState:
        app = make_public_app(endpoints, BodyReader(4096), Access(None))
        async with serving_tcp(app, ListenAddress("127.0.0.1", port), Limits()) as state:
            return state

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        state = uvloop.run(main(port))
    assert state.address is None
    assert state.failure == f"Port {port} of 127.0.0.1 is in use by another program, maybe another tpid."
    assert uvloop.run(main(port)) == TcpState(f"127.0.0.1:{port}")


def test_too_many_connections_are_told(endpoints: Endpoints) -> None:
    async def main() -> bytes:
        app = make_public_app(endpoints, BodyReader(4096), Access(None))
        async with serving_tcp(app, ListenAddress("127.0.0.1", 0), Limits(max_connections=1)) as state:
            host, _, port = str(state.address).rpartition(":")
            first = await asyncio.open_connection(host, int(port))
            second = await asyncio.open_connection(host, int(port))
            answer = await second[0].read()
            for _, writer in (first, second):
                writer.close()
            return answer

    assert b"503 Service Unavailable" in uvloop.run(main())


def write_certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "box")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return paths


def test_tls_by_given_files(serve_tcp: ServeTcp, tmp_path: Path) -> None:
    async def main() -> Any:
        async with serve_tcp(None, tls_context(*write_certificate(tmp_path))) as call:
            return await call(CHAT, HELLO | {"stream": True})

    status, _, text = uvloop.run(main())
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("none")
    for key in ("cert.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="cannot use the certificate"):
            tls_context(tmp_path / "cert.pem", tmp_path / key)
