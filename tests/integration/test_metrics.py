"""What a real daemon tells Prometheus of the requests it has had."""

from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families


def scraped(daemon: Any) -> dict[str, float]:
    """Values by name and labels' values; buckets are left out."""
    with urlopen(f"http://{daemon.status()['api']['address']}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        ".".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_requests_are_counted(tcp_daemon: Any) -> None:
    before = scraped(tcp_daemon)
    usage = tcp_daemon.chat("What is the capital of France?", max_tokens=5, n=2)["usage"]
    stream = tcp_daemon.stream("Count to a hundred.")
    next(stream.texts())
    stream.close()
    tcp_daemon.wait("the client is gone", lambda status: not status["busy"])
    status, _ = tcp_daemon.request("/v1/completions", {"model": "none", "prompt": "Hi"})
    assert status == 404
    after = scraped(tcp_daemon)
    more = {name: value - before[name] for name, value in after.items() if name in before and value != before[name]}
    assert {name: n for name, n in more.items() if name.startswith("tpid_requests_total")} == {
        "tpid_requests_total.answered": 1,
        "tpid_requests_total.cancelled": 1,
        "tpid_requests_total.refused": 1,
    }
    assert more["tpid_completion_tokens_total"] == usage["completion_tokens"]
    assert more["tpid_prompt_tokens_total"] == usage["prompt_tokens"]
    assert more["tpid_queue_seconds_count"] == more["tpid_time_to_first_token_seconds_count"] == 1
    assert more["tpid_time_per_output_token_seconds_count"] == 2
    assert after["tpid_devices.connected"] == after["tpid_devices.planned"] == 1
    assert after["tpid_weights_resident_bytes.tcp"] > 50e6
    assert after["tpid_streamed_bytes_total"] == 0
