from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tpid.daemon.config import Config, default_config, load_config
from tpid.device import Role
from tpid.errors import ConfigError
from tpid.size import parse_size

Load = Callable[[str], Config]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(text)`: the configuration of a file with this text."""

    def read(text: str) -> Config:
        path = tmp_path / "tpid.toml"
        path.write_text(text)
        return load_config(path)

    return read


def test_an_empty_file_and_none_give_the_defaults(load: Load, tmp_path: Path) -> None:
    config = load("")
    assert config == load_config(None, {"memory_budget": config.memory_budget})
    assert config == Config(memory_budget=config.memory_budget)
    assert config.role is Role.USER
    assert (config.listen, config.interfaces, config.advertise) == ("home", (), "full")
    assert config.state_dir == tmp_path / ".local" / "state" / "tpid"
    assert config.models_path == config.state_dir / "models"
    assert config.socket_path == config.state_dir / "tpid.sock"
    assert config.threads >= 1
    assert (config.backend, config.activation_bits, config.kv_dtype) == ("auto", 16, "f16")
    assert config.api.listen == "127.0.0.1:7475"
    assert (config.port, config.peers, config.discovery) == (7474, (), True)
    assert (config.context_tokens, config.prefill_tokens, config.wire_dtype) == (4096, 2048, "fp32")


def test_what_earlier_versions_had_is_passed_over(load: Load) -> None:
    assert load('cluster = "attic"\nport = 7000').port == 7000


def test_every_field_can_be_set(load: Load) -> None:
    values: dict[str, Any] = {
        "name": "Küche",
        "role": "helper",
        "listen": "loopback",
        "interfaces": ["eth*"],
        "advertise": "minimal",
        "state_dir": "/s",
        "models_dir": "/m",
        "fetch_units": False,
        "socket": "/r/s.sock",
        "api": {
            "listen": "[::]:80",
            "hosts": ["box"],
            "origins": ["http://box"],
            "tls_certificate": "/c.pem",
            "tls_key": "/k.pem",
        },
        "port": 0,
        "peers": ["127.0.0.1:1", "[::1]:2"],
        "discovery": False,
        "backend": "native",
        "activation_bits": 8,
        "kv_dtype": "int8",
        "threads": 3,
        "memory_budget": "1.5G",
        "context_tokens": 16,
        "prefill_tokens": 1,
        "use_all_devices": True,
        "wire_dtype": "int8",
        "max_waiting_requests": 0,
        "cluster_wait_s": 3,
        "log_level": "debug",
    }
    assert values.keys() == Config.model_fields.keys()
    flat = values | {f"api.{key}": value for key, value in values["api"].items()}
    del flat["api"]
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in flat.items()]
    config = load("\n".join(lines))
    expected = values | {
        "state_dir": Path("/s"),
        "models_dir": Path("/m"),
        "fetch_units": False,
        "socket": Path("/r/s.sock"),
        "api": {
            "listen": "[::]:80",
            "hosts": ("box",),
            "origins": ("http://box",),
            "tls_certificate": Path("/c.pem"),
            "tls_key": Path("/k.pem"),
        },
        "peers": ("127.0.0.1:1", "[::1]:2"),
        "interfaces": ("eth*",),
        "memory_budget": 1_500_000_000,
    }
    assert config.model_dump() == expected
    assert (config.models_path, config.socket_path) == (Path("/m"), Path("/r/s.sock"))


def test_the_default_budget_is_a_share_of_what_is_free(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpid.daemon.config.free_memory_bytes", lambda: 10 << 30)
    assert load("").memory_budget == 7 << 30
    monkeypatch.setattr("tpid.daemon.config.free_memory_bytes", lambda: 0)
    assert load("").memory_budget == 1


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tpid.toml"
    path.write_text('memory_budget = "1G"\nthreads = 3')
    config = load_config(path, {"memory_budget": "2 GiB"})
    assert (config.memory_budget, config.threads) == (2 << 30, 3)
    with pytest.raises(ConfigError, match="'much' is not a size such as 2G or 512M"):
        load_config(path, {"memory_budget": "much"})


def test_it_is_frozen(load: Load) -> None:
    with pytest.raises(ValidationError):
        load("").port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("prot", "unknown key prot (did you mean port?)"),
        ("memory_buget", "unknown key memory_buget (did you mean memory_budget?)"),
        ("model_dir", "unknown key model_dir (did you mean models_dir?)"),
        ("Threads", "unknown key Threads (did you mean threads?)"),
        ("zzz", "unknown key zzz"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(load: Load, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"port = 1\n{key} = 1")
    assert caught.value.message.endswith(f"tpid.toml: {message}.")
    assert caught.value.hint == "See docs/configuration.md."


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('port = "7474"', "port: Input should be a valid integer"),
        ("port = true", "port: Input should be a valid integer"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ('api.listen = "box:1"', "api.listen: 'box:1' is not an address such as 127.0.0.1:7475, nor off"),
        ("api.listen = 7475", "api.listen: "),
        ('api.lisen = "off"', "api: unknown key lisen (did you mean listen?)"),
        ('api.tls_key = "/k.pem"', "api: tls_certificate and tls_key belong together"),
        ("api = 3", "api: "),
        ("port = -1", "port: Input should be greater than or equal to 0"),
        ("threads = 0", "threads: "),
        ("threads = 1.0", "threads: "),
        ("threads = 2000", "threads: "),
        ("discovery = 1", "discovery: Input should be a valid boolean"),
        ('discovery = "yes"', "discovery: "),
        ("name = 3", "name: "),
        ('name = ""', "name: "),
        (f'name = "{"x" * 64}"', "name: "),
        ('role = "owner"', "role: Input should be 'user' or 'helper'"),
        ('listen = "0.0.0.0"', "listen: "),
        ('interfaces = "eth0"', "interfaces: "),
        ('advertise = "nothing"', "advertise: "),
        ("state_dir = 3", "state_dir: '3' is not a path"),
        ('state_dir = ""', "state_dir: '' is not a path"),
        ('models_dir = " "', "models_dir: "),
        ('socket = "a\\u0000b"', "socket: "),
        ('models_dir = "~nobody-of-that-name/x"', "models_dir: "),
        ('peers = "127.0.0.1:1"', "peers: "),
        ("peers = [1]", "peers.0: "),
        ("memory_budget = 0", "memory_budget: "),
        ("memory_budget = -5", "memory_budget: "),
        ("memory_budget = true", "memory_budget: "),
        ("memory_budget = 1.5", "memory_budget: "),
        ('memory_budget = "much"', "memory_budget: 'much' is not a size such as 2G or 512M"),
        ('memory_budget = "-2G"', "memory_budget: "),
        ('memory_budget = "999999T"', "memory_budget: "),
        (f'memory_budget = "{"9" * 400}T"', "memory_budget: "),
        (f'memory_budget = "{"9" * 5000}"', "memory_budget: "),
        ("context_tokens = 15", "context_tokens: "),
        ("context_tokens = 99999999999999999999", "context_tokens: "),
        ("prefill_tokens = 5000", "prefill_tokens: "),
        ('wire_dtype = "fp16"', "wire_dtype: "),
        ("cluster_wait_s = 0", "cluster_wait_s: "),
        ("cluster_wait_s = nan", "cluster_wait_s: "),
        ("cluster_wait_s = inf", "cluster_wait_s: "),
        ('log_level = "loud"', "log_level: "),
        ("[port]\na = 1", "port: "),
    ],
)
def test_a_bad_value_is_named(load: Load, line: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(line)
    assert f"tpid.toml: {fault}" in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("2G", 2 * 10**9),
        ("512 MiB", 512 << 20),
        ("512M", 512 * 10**6),
        ("1.5g", 1_500_000_000),
        ("1.5gi", 3 << 29),
        (" 4 GB ", 4 * 10**9),
        ("1T", 10**12),
        ("100k", 100_000),
        ("123456", 123456),
        ("12 B", 12),
    ],
)
def test_sizes(load: Load, text: str, size_bytes: int) -> None:
    assert load(f'memory_budget = "{text}"').memory_budget == size_bytes


@pytest.mark.parametrize("text", ["", "G", "2X", "2 G B", "1e3", "0x10", "1,5G", "2GG", "٣G", "1.G", ".5G"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_not(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert isinstance(size, int)


@given(st.integers(0, 1 << 49))
def test_whole_sizes_are_exact(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    "data",
    [b"port", b"port = ", b"= 1", b"port = 1\nport = 2", b"\xff\xfe", b"a = " + b"[" * 5000, b"port = " + b"9" * 5000],
)
def test_what_is_not_toml_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tpid.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"tpid\.toml is not TOML: "):
        load_config(path)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_configuration_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        load_config(path)
    except ConfigError as error:
        message = error.message
    else:
        message = str(path)
    assert str(path) in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read: No such file"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_systemd_says_where_things_lie(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/tpid:/var/lib/other")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/tpid")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    config = load("")
    assert config.state_dir == Path("/var/lib/tpid")
    assert config.socket_path == Path("/run/tpid/tpid.sock")


def test_without_systemd_xdg_says_it(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    config = load("")
    assert config.state_dir == Path("/x/tpid")
    assert config.socket_path == Path("/run/user/1000/tpid/tpid.sock")


def test_the_home_directory_is_written_as_in_a_shell(load: Load, tmp_path: Path) -> None:
    config = load('state_dir = "~/state"\nmodels_dir = "~/models"\nsocket = "~/s"')
    assert config.state_dir == tmp_path / "state"
    assert config.models_path == tmp_path / "models"
    assert config.socket_path == tmp_path / "s"


def test_no_home_directory_is_said(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match="no home directory") as caught:
        load("")
    assert caught.value.hint == "Set state_dir."
    assert load('state_dir = "/s"').state_dir == Path("/s")


@pytest.mark.parametrize(("host", "name"), [("a" * 64, "a" * 63), ("", "device"), ("desk", "desk")])
def test_the_host_name_becomes_a_name_that_fits(
    load: Load, monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    monkeypatch.setattr("platform.node", lambda: host)
    assert load("").name == name


def test_cores_are_counted_where_physical_ones_are_not_known(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4 if logical else None)
    assert load("").threads == 4


def test_the_owners_own_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_config() is None
    for directory in (tmp_path / ".config", tmp_path / "elsewhere"):
        (directory / "tpid").mkdir(parents=True)
        (directory / "tpid" / "tpid.toml").touch()
    assert default_config() == tmp_path / ".config" / "tpid" / "tpid.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert default_config() == tmp_path / "elsewhere" / "tpid" / "tpid.toml"
