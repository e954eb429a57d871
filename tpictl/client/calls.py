"""The daemon's API, call by call."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing

from tpictl.client.answers import Chunk, Imported, Models, Note, Plan, Progress, Status
from tpictl.client.connection import Client
from tpictl.client.decode import decode

STATUS = "/tpid/status"
MODELS = "/tpid/models"
DEVICES = "/tpid/devices"

OnProgress = Callable[[Progress], None]
OnNote = Callable[[str], None]


def get_status(client: Client) -> Status:
    return decode(Status, client.get(STATUS))


def get_models(client: Client) -> Models:
    return decode(Models, client.get(MODELS))


def load_model(client: Client, model: str, on_progress: OnProgress) -> object:
    """The plan, as JSON, once all its devices are ready."""
    return _work(client, "/tpid/load", {"model": model}, "plan", on_progress)


def import_model(client: Client, body: Mapping[str, object], on_progress: OnProgress, on_note: OnNote) -> object:
    """The new pack's name, id and size, as JSON; notes say what had to be guessed."""
    return _work(client, "/tpid/import", body, "pack", on_progress, on_note=on_note)


def pull_model(client: Client, body: Mapping[str, object], on_progress: OnProgress, on_note: OnNote) -> object:
    return _work(client, "/tpid/pull", body, "pack", on_progress, on_note=on_note)


def chat(client: Client, body: Mapping[str, object], *, with_progress: bool) -> Generator[Chunk, None, None]:
    """Close the iterator to end the answer."""
    options = {"include_usage": True, **({"include_progress": True} if with_progress else {})}
    streamed = {**body, "stream": True, "stream_options": options}
    with closing(client.events("/v1/chat/completions", streamed)) as events:
        for event in events:
            yield decode(Chunk, event)


def create_key(client: Client, name: str) -> object:
    """The key's name and the key, as JSON."""
    return client.post("/tpid/keys/create", {"name": name})


def revoke_key(client: Client, name: str) -> object:
    return client.post("/tpid/keys/revoke", {"name": name})


def remove_device(client: Client, name: str) -> object:
    """Put it out of the home."""
    return client.post("/tpid/devices/remove", {"name": name})


def plan_of(data: object) -> Plan:
    return decode(Plan, data)


def imported_of(data: object) -> Imported:
    return decode(Imported, data)


def _work(
    client: Client,
    target: str,
    body: Mapping[str, object],
    result_key: str,
    on_progress: OnProgress,
    *,
    on_note: OnNote = lambda _: None,
) -> object:
    """To the end of the answer: to hang up after the result would still interrupt the daemon."""
    results: list[object] = []
    with closing(client.lines(target, body)) as lines:
        for line in lines:
            if result_key in line:
                results.append(line[result_key])
            elif "note" in line:
                on_note(decode(Note, line).note)
            else:
                on_progress(decode(Progress, line))
    if not results:
        raise client.ended_early()
    return results[-1]
