"""Files of homes: what they give, and what is refused with the field's name."""

from pathlib import Path

import pytest

from homelab.layout import MAX_HOSTS, load_layout, parse_layout
from homelab.programs import LabError

HOMES = sorted((Path(__file__).parents[3] / "benchmarks" / "homes").glob("*.toml"))


def test_a_count_gives_hosts_with_numbers() -> None:
    layout = parse_layout('hosts = [{ name = "user", role = "user" }, { name = "pi", count = 2, memory = "1G" }]')
    assert [host.name for host in layout.each_host] == ["user", "pi1", "pi2"]
    assert [host.memory for host in layout.each_host] == [None, 10**9, 10**9]
    assert all(len(host.links) == 1 for host in layout.each_host)


@pytest.mark.parametrize("path", HOMES, ids=lambda path: path.stem)
def test_the_homes_that_are_given_can_be_read(path: Path) -> None:
    layout = load_layout(path)
    assert layout.description
    assert [host.role for host in layout.each_host].count("user") == 1
    assert layout.each_host[0].role == "user"


def test_there_are_homes() -> None:
    assert {"tpi-llm-emulated", "wifi-laptops"} <= {path.stem for path in HOMES}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "hosts"),
        ("hosts = []", "hosts"),
        ("hosts = [", "not TOML"),
        ("hosts = [{ coers = 1 }]", "coers"),
        ("hosts = [{ links = [] }]", "links"),
        ("hosts = [{ links = [{ delay_ms = -1 }] }]", "delay_ms"),
        ("hosts = [{ ipv4 = false }]", "IPv4, IPv6"),
        ('hosts = [{ name = "a/b" }]', "name"),
        ('hosts = [{ name = "a1" }, { name = "a", count = 2 }]', "two hosts are named a1"),
        (f"hosts = [{{ count = {MAX_HOSTS} }}, {{}}]", str(MAX_HOSTS)),
    ],
)
def test_what_is_no_home_is_refused(text: str, words: str) -> None:
    with pytest.raises(LabError, match=words):
        parse_layout(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"none\.toml cannot be read"):
        load_layout(tmp_path / "none.toml")
