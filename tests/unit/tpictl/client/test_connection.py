import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tpictl.client.answering import stream_answer, stream_what_comes
from tpictl.client.answers import Progress
from tpictl.client.calls import get_models, get_status, import_model, load_model, plan_of
from tpictl.client.connection import MAX_ANSWER_BYTES, Client
from tpictl.errors import RemoteError, remote_error
from tpid.errors import DaemonUnreachableError, RemoteProtocolError

BODY = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hi"}]}
GONE_TIMEOUT_S = 30.0

Answering = Callable[[bytes], Path]


@pytest.fixture
def answering(short_directory: Path) -> Iterator[Answering]:
    """`answering(data)`: a socket that answers the first call with these bytes, whatever they are, and hangs up."""
    path = short_directory / "raw.sock"
    threads = []

    def start(data: bytes) -> Path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(data)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join()


def test_status_and_models(daemon: Any) -> None:
    client = Client(daemon.path)
    assert get_status(client).cluster.cluster == "home"
    assert get_models(client).models[0].name == "smollm2-135m"


@pytest.mark.parametrize("write_bytes", [None, 1, 7])
def test_an_answer_however_it_is_cut(daemon: Any, write_bytes: int | None) -> None:
    daemon.write_bytes = write_bytes
    pieces: list[str] = []
    answer = stream_answer(Client(daemon.path), BODY, pieces.append)
    assert pieces == ["Hel", "lö, ", "world."]
    assert (answer.text, answer.finish_reason) == ("Hellö, world.", "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 20
    assert answer.timings is not None
    assert answer.timings.tokens_s == 23.8


@pytest.mark.parametrize("write_bytes", [None, 1])
def test_loading_tells_progress_and_then_the_plan(daemon: Any, write_bytes: int | None) -> None:
    daemon.write_bytes = write_bytes
    daemon.load_lines = [{"stage": "load", "done_bytes": done, "total_bytes": 9} for done in (3, 9)]
    seen: list[Progress] = []
    plan = plan_of(load_model(Client(daemon.path), "smollm2-135m", seen.append))
    assert [progress.done_bytes for progress in seen] == [3, 9]
    assert [rank.name for rank in plan.ranks] == ["laptop", "desktop"]


def test_error_in_place_of_an_answer(daemon: Any) -> None:
    daemon.refusal = (404, b'{"error": {"code": "model_not_found", "message": "No model x.", "hint": "It has y."}}')
    with pytest.raises(RemoteError) as caught:
        stream_answer(Client(daemon.path), BODY, lambda text: None)
    assert (caught.value.remote_code, str(caught.value)) == ("model_not_found", "No model x. It has y.")


def test_error_in_the_middle_of_an_answer_keeps_what_came(daemon: Any) -> None:
    daemon.fail_after = 2
    answer = stream_what_comes(Client(daemon.path), BODY, lambda text: None)
    assert answer.text == "Hellö, "
    assert isinstance(answer.error, RemoteError)
    assert answer.error.remote_code == "device_lost"


def test_daemon_that_dies_in_the_middle_of_an_answer(daemon: Any) -> None:
    daemon.die_after = 2
    answer = stream_what_comes(Client(daemon.path), BODY, lambda text: None)
    assert answer.text == "Hellö, "
    assert isinstance(answer.error, DaemonUnreachableError)
    assert str(daemon.path) in answer.error.message


def test_error_in_the_middle_of_an_import(daemon: Any) -> None:
    daemon.import_lines = [
        {"stage": "convert", "done_bytes": 1, "total_bytes": 2},
        {"note": "guessed"},
        {"error": {"code": "disk_full", "message": "The disk is full.", "hint": None}},
    ]
    seen: list[Progress] = []
    notes: list[str] = []
    with pytest.raises(RemoteError, match="The disk is full"):
        import_model(Client(daemon.path), {"path": "/x"}, seen.append, notes.append)
    assert (len(seen), notes) == (1, ["guessed"])


def test_import_that_ends_without_a_result(daemon: Any) -> None:
    daemon.import_lines = [{"stage": "convert", "done_bytes": 1, "total_bytes": 2}]
    with pytest.raises(DaemonUnreachableError, match="before its answer was complete"):
        import_model(Client(daemon.path), {"path": "/x"}, lambda progress: None, lambda note: None)


def test_ctrl_c_keeps_what_came_and_ends_the_work_in_the_daemon(daemon: Any) -> None:
    daemon.hang_after = 2

    def on_text(text: str) -> None:
        if text == "lö, ":
            assert daemon.hanging.wait(GONE_TIMEOUT_S)
            raise KeyboardInterrupt

    answer = stream_what_comes(Client(daemon.path), BODY, on_text)
    assert (answer.text, answer.interrupted) == ("Hellö, ", True)
    assert daemon.client_gone.wait(GONE_TIMEOUT_S)


def test_a_stream_that_is_closed_early_hangs_up(daemon: Any) -> None:
    daemon.hang_after = 1
    with closing(Client(daemon.path).events("/v1/chat/completions", {**BODY, "stream": True})) as events:
        next(events)
    assert daemon.client_gone.wait(GONE_TIMEOUT_S)


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachableError, match=r"there is no socket /nowhere/tpid\.sock") as caught:
        Client(Path("/nowhere/tpid.sock")).get("/tpid/status")
    assert caught.value.hint == "Start it with: tpid"


def test_socket_of_a_daemon_that_is_gone(short_directory: Path) -> None:
    path = short_directory / "old.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(DaemonUnreachableError, match="No daemon listens on"):
        Client(path).get("/tpid/status")


def test_path_that_no_socket_can_have() -> None:
    with pytest.raises(DaemonUnreachableError, match="cannot be used"):
        Client(Path("/" + "x" * 200)).get("/tpid/status")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xfe\x00garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:",
    ],
)
def test_whoever_does_not_speak_http_to_its_end_is_no_daemon(answering: Answering, answer: bytes) -> None:
    client = Client(answering(answer))
    with pytest.raises(DaemonUnreachableError):
        list(client.events("/v1/chat/completions", BODY))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff"])
def test_answer_that_is_not_json(daemon: Any, body: bytes) -> None:
    daemon.refusal = (200, body)
    with pytest.raises(RemoteProtocolError, match="not JSON"):
        Client(daemon.path).get("/tpid/status")


def test_answer_that_is_too_long(daemon: Any) -> None:
    daemon.refusal = (200, b" " * (MAX_ANSWER_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match="more than"):
        Client(daemon.path).get("/tpid/status")


def test_items_of_a_stream_must_be_objects(daemon: Any) -> None:
    daemon.refusal = (200, b"[1]\n")
    with pytest.raises(RemoteProtocolError, match="not an object"):
        load_model(Client(daemon.path), "m", lambda progress: None)


def test_body_that_is_refused_before_it_is_read(daemon: Any) -> None:
    daemon.refusal = (413, b'{"error": {"code": "http", "message": "Too large.", "hint": null}}')
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * (20 << 20)}]}
    with pytest.raises(RemoteError, match="Too large"):
        stream_answer(Client(daemon.path), body, lambda text: None)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"code": 1, "message": None, "hint": []}, {"message": ""}])
def test_an_error_of_any_form_is_one_sentence(body: object) -> None:
    error = remote_error(body)
    assert (error.remote_code, error.hint) == ("internal", None)
    assert error.message == "The daemon has met a fault and gave no reason."
