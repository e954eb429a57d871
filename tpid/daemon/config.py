"""The configuration: one TOML file, one frozen object. docs/configuration.md lists the same fields."""

import difflib
import os
import platform
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

import psutil
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tpid.api.listen_address import ListenAddress, parse_listen
from tpid.daemon.free_memory import free_memory_bytes
from tpid.device import MAX_NAME_CHARS, Role, device_name, is_device_name
from tpid.errors import ConfigError
from tpid.size_field import Size

# Of what is free when the daemon starts. The rest is for what the owner starts later, and for the system's file cache.
DEFAULT_BUDGET_FRACTION = 0.7
# Of earlier versions; without effect. `cluster`: which devices belong together the pairing says.
_NO_MORE = frozenset({"cluster"})


def parse_path(value: object) -> object:
    """`~` is the owner's home, as in a shell."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{str(value)[:40]!r} is not a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{value!r} is in the home of a user that is not known") from error


HomePath = Annotated[Path, BeforeValidator(parse_path)]


def default_state_dir() -> Path:
    """systemd's directory, else the XDG one."""
    if os.environ.get("STATE_DIRECTORY"):
        return Path(os.environ["STATE_DIRECTORY"].split(":")[0])
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "tpid"


def default_socket(state_dir: Path) -> Path:
    if os.environ.get("RUNTIME_DIRECTORY"):
        return Path(os.environ["RUNTIME_DIRECTORY"].split(":")[0]) / "tpid.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "tpid" / "tpid.sock" if runtime else state_dir / "tpid.sock"


def default_config() -> Path | None:
    """The owner's own file, where there is one; a system service names its file."""
    home = os.environ.get("XDG_CONFIG_HOME")
    try:
        path = (Path(home) if home else Path.home() / ".config") / "tpid" / "tpid.toml"
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # no home, or one that may not be entered
        return None


def default_name() -> str:
    return device_name(platform.node()) or "device"


def _name(value: object) -> object:
    """As people typed it, but for kinds of space that others cannot tell from a space."""
    if not isinstance(value, str):
        return value
    name = device_name(value)
    if not is_device_name(name) or len(name) != len(unicodedata.normalize("NFC", value).strip()):
        raise ValueError(f"{value!r} cannot be shown everywhere: use 1 to {MAX_NAME_CHARS} printable characters")
    return name


def _refuse_unknown(model: type[BaseModel], data: object) -> object:
    for key in data if isinstance(data, dict) else ():
        if key not in model.model_fields:
            near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
            raise ValueError(f"unknown key {key}" + (f" (did you mean {near[0]}?)" if near else ""))
    return data


def _listen(value: object) -> object:
    if isinstance(value, str):
        parse_listen(value)
    return value


class ApiConfig(BaseModel):
    """The table `[api]`: the API on a TCP port. The Unix socket is there in any case."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    listen: Annotated[str, BeforeValidator(_listen)] = Field(
        default="127.0.0.1:7475",
        description="An IP address and a port, 0 for any free one, or `off`. Beyond loopback clients need a key.",
    )
    hosts: tuple[str, ...] = Field(
        default=(), strict=False, description="Names of this machine that clients may ask for, beside localhost."
    )
    origins: tuple[str, ...] = Field(
        default=(), strict=False, description="Web pages that may use the API, such as `http://localhost:3000`."
    )
    tls_certificate: HomePath | None = Field(default=None, description="A PEM file with the certificate, for https.")
    tls_key: HomePath | None = Field(default=None, description="A PEM file with the certificate's key.")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        return _refuse_unknown(cls, data)

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    @property
    def address(self) -> ListenAddress | None:
        """None where it is off."""
        return parse_listen(self.listen)


class Config(BaseModel):
    """Every field has a default that fits a device at home; an empty file is a good one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    name: Annotated[str, BeforeValidator(_name)] = Field(
        default_factory=default_name,
        description="What people call this device. Default: its host name.",
    )
    role: Role = Field(
        default=Role.USER,
        strict=False,
        description="`user`: somebody types here, may coordinate. `helper`: lends memory and cores, never coordinates. "
        "A device that was paired as a helper is one, whatever stands here.",
    )
    state_dir: HomePath = Field(
        default_factory=default_state_dir,
        description="Identity, home and packs. Default: systemd's or the XDG directory.",
    )
    models_dir: HomePath | None = Field(
        default=None,
        description="Packs, one directory each; may be shared by several daemons. Default: state_dir/models.",
    )
    fetch_units: bool = Field(
        default=True,
        description="Get the units of a share from other devices of the home, where this one does not have the model. "
        "They lie in models_dir/.units, and go when others need their place.",
    )
    socket: HomePath | None = Field(
        default=None, description="Unix socket of the API. Default: systemd's or the XDG runtime directory."
    )
    api: ApiConfig = Field(default_factory=ApiConfig, description="The API on TCP: a table of its own.")
    port: int = Field(default=7474, ge=0, le=65535, description="TCP port for the other devices; 0 takes any free one.")
    peers: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Devices of the home to dial, as host:port, where mDNS does not get through. Who answers has to be "
        "paired.",
    )
    listen: Annotated[str, Field(pattern="^(home|loopback)$")] = Field(
        default="home",
        description="`home`: the private network as well, as soon as the home has a second device or an invitation is "
        "open. `loopback`: this machine alone, always.",
    )
    interfaces: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Names of network interfaces, with `*`: only these are used, whatever kind they are. Default: all "
        "of the private network; `tpictl doctor` shows each with the reason.",
    )
    advertise: Annotated[str, Field(pattern="^(full|minimal)$")] = Field(
        default="full",
        description="`full`: mDNS tells this device's memory, disk and compute. `minimal`: paired devices alone learn "
        "them, over TLS.",
    )
    discovery: bool = Field(default=True, description="Find and be found by mDNS.")
    threads: int = Field(
        default_factory=lambda: psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        ge=1,
        le=1024,
        description="Cores that compute. Default: the physical ones.",
    )
    backend: Annotated[str, Field(pattern="^(auto|native|torch)$")] = Field(
        default="auto",
        description="`native` computes with the pack's bytes, in C. `torch` is the reference: slower by several times, "
        "4 bytes a weight. `auto` takes native where it was built.",
    )
    activation_bits: int = Field(
        default=16,
        multiple_of=8,
        ge=8,
        le=16,
        description="16 or 8, of the native backend where activations meet 4- and 8-bit weights. 8 is faster where "
        "arithmetic is the limit, above all in prefill, and less exact.",
    )
    kv_dtype: Annotated[str, Field(pattern="^(f16|int8)$")] = Field(
        default="f16",
        description="`f16` or `int8`: what the native backend keeps of past tokens. int8 takes 0.53 of the memory, "
        "which a long context needs, and is less exact.",
    )
    memory_budget: Size = Field(
        default_factory=lambda: max(int(free_memory_bytes() * DEFAULT_BUDGET_FRACTION), 1),
        description="Bytes, or a size such as 2G, that tpid may take in all. Default: 70 % of what is free at start, "
        "in this machine or in the cgroup that tpid runs in.",
    )
    context_tokens: int = Field(
        default=4096,
        ge=16,
        le=1 << 30,
        description="Longest sequence, prompt and answer together, unless the model ends earlier; memory is planned.",
    )
    prefill_tokens: int = Field(
        default=2048,
        ge=1,
        le=4096,
        description="Most new tokens in one pass. A plan has fewer where memory is scarce, or where more win nothing.",
    )
    use_all_devices: bool = Field(
        default=False,
        description="Every device that can takes part, also where that makes a token slower. For demonstrations.",
    )
    wire_dtype: Annotated[str, Field(pattern="^(fp32|bf16|int8)$")] = Field(
        default="fp32", description="`fp32`, `bf16` or `int8`: what activations travel in; fp32 loses nothing."
    )
    max_waiting_requests: int = Field(
        default=64, ge=0, le=1024, description="Requests that may wait for their turn; more are refused as busy."
    )
    cluster_wait_s: float = Field(
        default=10.0, gt=0, le=600, description="Seconds that a request waits for the cluster to answer."
    )
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        default="info",
        description="`debug`, `info`, `warning` or `error`. All but `debug` leave out lines that come again and again, "
        "and count them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, dict):
            data = {key: value for key, value in data.items() if key not in _NO_MORE}
        return _refuse_unknown(cls, data)

    @property
    def models_path(self) -> Path:
        return self.models_dir or self.state_dir / "models"

    @property
    def socket_path(self) -> Path:
        return self.socket or default_socket(self.state_dir)


def load_config(path: Path | None, overrides: Mapping[str, object] = MappingProxyType({})) -> Config:
    """The configuration in `path`; the defaults where there is none. `overrides` come from the command line.

    Raises ConfigError.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint="Check --config.") from error
        except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, numbers of thousands of digits
            raise ConfigError(f"{path} is not TOML: {error}.", hint="See docs/configuration.md.") from error
    try:
        return Config.model_validate(data | dict(overrides))
    except RuntimeError as error:  # Path.home() of a user without one
        raise ConfigError("There is no home directory to keep state in.", hint="Set state_dir.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        fault = f"{where}: {reason}" if where else reason
        raise ConfigError(f"{path or 'The configuration'}: {fault}.", hint="See docs/configuration.md.") from error
