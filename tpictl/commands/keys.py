"""`tpictl key`: who may use the API from other machines."""

import time

from rich.text import Text

from tpictl.client.answers import CreatedKey, Keys
from tpictl.client.calls import create_key, revoke_key
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.outcome import print_json
from tpictl.printable import printable_line
from tpictl.view.plan_table import columns_table
from tpictl.view.terminal import stdout_console

KEYS = "/tpid/keys"


def run_create(client: Client, name: str, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = create_key(client, name)
    created = decode(CreatedKey, answer)
    if as_json:
        print_json(answer)
        return
    console = stdout_console()
    console.print(Text(created.key), soft_wrap=True)
    if console.is_terminal:
        console.print("It is shown this once. Clients send it as their API key.", style="dim")


def run_list(client: Client, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.get(KEYS)
    if as_json:
        print_json(answer)
        return
    console, keys = stdout_console(), decode(Keys, answer).keys
    if not keys:
        console.print("There is no key yet: tpictl key create NAME")
        return
    table = columns_table()
    table.add_column("name", overflow="fold")
    table.add_column("created")
    for key in keys:
        table.add_row(Text(printable_line(key.name)), time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created_s)))
    console.print(table)


def run_revoke(client: Client, name: str, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = revoke_key(client, name)
    if as_json:
        print_json(answer)
    else:
        stdout_console().print(Text(f"{name} opens nothing any more."))
