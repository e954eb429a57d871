import os
import socket
import stat
from pathlib import Path

import pytest
import uvloop

from tests.unit.api.scripted import Serve
from tpid.errors import ListenError


def start(serve: Serve) -> int:
    """The status of one request to a server that then ends."""

    async def main() -> int:
        async with serve() as api:
            return (await api.request("/tpid/status"))[0]

    return uvloop.run(main())


def refusal(serve: Serve) -> ListenError:
    with pytest.raises(ListenError) as caught:
        start(serve)
    assert caught.value.hint
    return caught.value


def test_the_socket_is_there_while_it_serves(serve: Serve, tmp_path: Path) -> None:
    async def main() -> None:
        async with serve() as api:
            assert stat.S_ISSOCK(api.path.stat().st_mode)

    uvloop.run(main())
    assert list(tmp_path.iterdir()) == []
    assert start(serve) == 200


def test_the_socket_of_a_daemon_that_is_gone_is_replaced(serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "tpid.sock"))
    assert start(serve) == 200


def test_the_socket_of_a_daemon_that_lives_is_not(serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "tpid.sock"))
        alive.listen()
        assert "Another tpid already answers" in refusal(serve).message
        assert (tmp_path / "tpid.sock").exists()


def test_a_file_in_its_place_stays(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "tpid.sock").write_text("mine")
    assert "cannot be made" in refusal(serve).message
    assert (tmp_path / "tpid.sock").read_text() == "mine"


def test_requests_under_way_are_ended_with_the_server(serve: Serve) -> None:
    async def main() -> None:
        async with serve() as api:
            _, writer = await api.raw()
            writer.write(b"GET /tpid/st")
            await api.request("/tpid/status")
        with pytest.raises(OSError):  # noqa: PT011 (reset or gone)
            await api.raw()
        writer.close()

    uvloop.run(main())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written(serve: Serve, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "cannot be made" in refusal(serve).message
    finally:
        tmp_path.chmod(0o700)
