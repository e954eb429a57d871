"""The configuration: one TOML file, one frozen object. docs/configuration.md lists the same fields."""

import difflib
import os
import platform
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import psutil
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tpid.daemon.free_memory import free_memory_bytes
from tpid.device import MAX_NAME_CHARS, Role, device_name, is_device_name
from tpid.errors import ConfigError
from tpid.size_field import Size

# Of what is free when the daemon starts. The rest is for what the owner starts later, and for the system's file cache.
DEFAULT_BUDGET_FRACTION = 0.7


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
        description="`user`: somebody types here, may coordinate. `helper`: lends memory and cores, never coordinates.",
    )
    cluster: str = Field(
        default="home",
        pattern=r"^[A-Za-z0-9._-]{1,63}$",
        description="Only devices with the same word here find each other.",
    )
    state_dir: HomePath = Field(
        default_factory=default_state_dir, description="Identity and packs. Default: systemd's or the XDG directory."
    )
    models_dir: HomePath | None = Field(
        default=None,
        description="Packs, one directory each; may be shared by several daemons. Default: state_dir/models.",
    )
    socket: HomePath | None = Field(
        default=None, description="Unix socket of the API. Default: systemd's or the XDG runtime directory."
    )
    port: int = Field(default=7474, ge=0, le=65535, description="TCP port for the other devices; 0 takes any free one.")
    peers: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Devices to dial without mDNS, as host:port; loopback only until pairing exists.",
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
    wire_dtype: Annotated[str, Field(pattern="^(fp32|bf16|int8)$")] = Field(
        default="fp32", description="`fp32`, `bf16` or `int8`: what activations travel in; fp32 loses nothing."
    )
    max_waiting_requests: int = Field(
        default=8, ge=0, le=1024, description="Requests that may wait for their turn; more are refused as busy."
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
    def _refuse_unknown(cls, data: dict[str, Any]) -> dict[str, Any]:
        for key in data:
            if key not in cls.model_fields:
                near = difflib.get_close_matches(key, cls.model_fields, n=1, cutoff=0.5)
                raise ValueError(f"unknown key {key}" + (f" (did you mean {near[0]}?)" if near else ""))
        return data

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
