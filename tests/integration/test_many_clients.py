"""As many clients at once as the daemon takes, and one that reads nothing before all of them."""

import asyncio
import json
import socket
from typing import Any

import aiohttp

from tests.integration.test_metrics import scraped

N_CLIENTS = 60
MODEL = "smollm2-135m"
MAX_GROWTH_BYTES = 12 << 20  # 100 kB a connection, and as much again
# Its answer is longer than what the systems at both ends and the server's library hold without being read.
LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 80,
    "ignore_eos": True,
    "logprobs": True,
    "top_logprobs": 20,
    "stream": True,
}


def silent_client(host: str, port: int) -> socket.socket:
    """Asks for a long answer and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, port))
    body = json.dumps(LONG).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


async def ask_all(base: str) -> list[int]:
    """Who asked as the how-manieth, in the order of the answers."""
    answered: list[int] = []

    async def ask(number: int, session: aiohttp.ClientSession) -> None:
        body = {"model": MODEL, "prompt": [number + 3], "max_tokens": 1, "ignore_eos": True}
        async with session.post(f"{base}/v1/completions", json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        assert answer["usage"]["completion_tokens"] == 1
        answered.append(number)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as tasks:
        for number in range(N_CLIENTS):
            tasks.create_task(ask(number, session))
            async with session.get(f"{base}/health") as response:  # the daemon has looked at what came before
                assert response.status == 200
    return answered


def test_sixty_clients_and_one_that_reads_nothing(tcp_daemon: Any) -> None:
    host, _, port = tcp_daemon.status()["api"]["address"].rpartition(":")
    tcp_daemon.chat("Hi", max_tokens=8)  # with the model loaded, and all that is made once
    resident_bytes = tcp_daemon.status()["memory_bytes"]
    before = scraped(tcp_daemon)
    with silent_client(host, int(port)):
        tcp_daemon.wait("the turn of the silent one", lambda status: status["busy"])
        assert asyncio.run(ask_all(f"http://{host}:{port}")) == list(range(N_CLIENTS))
        after = scraped(tcp_daemon)
    growth_bytes = tcp_daemon.status()["memory_bytes"] - resident_bytes
    assert growth_bytes < MAX_GROWTH_BYTES
    outcomes = {name: value - before[name] for name, value in after.items() if name.startswith("tpid_requests_total")}
    assert outcomes == {
        "tpid_requests_total.answered": N_CLIENTS + 1,  # the silent one's is computed, too: none had to wait for it
        "tpid_requests_total.refused": 0,
        "tpid_requests_total.failed": 0,
        "tpid_requests_total.cancelled": 0,
    }
