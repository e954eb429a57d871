import io
from typing import Any

import pytest
from rich.console import Console

from tpictl.client.answers import Preview
from tpictl.client.decode import decode
from tpictl.commands.plan import plan_view


def shown(preview_json: dict[str, Any], width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(plan_view(decode(Preview, preview_json)))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_what_each_device_holds_and_what_a_token_waits_for(preview_json: dict[str, Any]) -> None:
    assert shown(preview_json) == (
        "smollm2-135m on 2 devices, context 4096 tokens, passes of 128\n"
        "\n"
        "rank  device   streams  resident   window  KV cache  buffers  daemon             memory\n"
        "   0  laptop   60.0 MB    100 MB  30.0 MB   40.0 MB  9.00 MB  120 MB   299 MB of 300 MB\n"
        "   1  desktop        -    100 MB        -   40.0 MB  9.00 MB  120 MB  269 MB of 16.0 GB\n"
        "\n"
        "TPOT  40 ms (25 tok/s), limited by the disk of laptop\n"
        "TTFT  1.90 s for a prompt of 2048 tokens in 16 walks over the disk, limited by the cores of desktop\n"
        "\n"
        "phone is left out: it does not have this model\n"
        "Predicted from what the devices have measured; nothing is loaded."
    )


def test_one_walk_none_and_the_network(preview_json: dict[str, Any]) -> None:
    preview_json["forecast"] |= {"walks": 1, "tpot_limit": {"limit": "link", "device": None}}
    assert "2048 tokens in one walk over the disk," in shown(preview_json)
    assert "limited by the network" in shown(preview_json)
    preview_json["forecast"]["ranks"][0]["streamed_bytes"] = 0
    assert "walk" not in shown(preview_json)


@pytest.mark.parametrize("width", [20, 80, 300])
def test_it_fits_any_terminal(preview_json: dict[str, Any], width: int) -> None:
    assert max(len(line) for line in shown(preview_json, width).splitlines()) <= width
