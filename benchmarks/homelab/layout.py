"""What a home is made of: a TOML file, and the values that it gives. docs/testbed.md lists the same fields."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from homelab.programs import LabError
from tpid.device import Role
from tpid.size_field import Size

_STRICT = ConfigDict(frozen=True, extra="forbid")

MAX_HOSTS = 32
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,11}$")]


class LinkLayout(BaseModel):
    """The cable, or the air, between one interface of a host and the switch of a subnet."""

    model_config = _STRICT

    subnet: int = Field(default=0, ge=0, le=9)  # hosts reach each other within a subnet only
    delay_ms: float = Field(default=0, ge=0, le=10_000)  # one way; two hosts have two links between them
    jitter_ms: float = Field(default=0, ge=0, le=10_000)  # up to so much more, each way
    rate_mbit: float = Field(default=0, ge=0, le=100_000)  # each way; 0: as fast as the machine goes
    queue_kb: float = Field(default=1000, gt=0, le=100_000)  # what waits for the rate; more is lost
    loss_percent: float = Field(default=0, ge=0, le=100)  # of frames, each way
    air: int = Field(default=0, ge=0, le=7)  # links of the same number above 0 share one rate, both ways


class HostLayout(BaseModel):
    """One host, or `count` that are alike."""

    model_config = _STRICT

    name: Name = "h"
    count: int = Field(default=1, ge=1, le=MAX_HOSTS)
    role: Role = Role.HELPER
    links: tuple[LinkLayout, ...] = Field(default=(LinkLayout(),), min_length=1, max_length=4)
    ipv4: bool = True
    ipv6: bool = False
    cores: float | None = Field(default=None, gt=0, le=1024)  # CPU time of so many; None: no limit
    slow: float = Field(default=1, ge=1, le=1000)  # so many times its kernels take their time of the core
    memory: Size | None = None  # of all processes of the host; None: no limit
    disk: Size = 64 * 2**20  # of its state directory, a file system of its own
    read_mb_s: float | None = Field(default=None, gt=0)  # what its processes may read from the machine's disk
    clock_offset_s: int = 0  # how wrong the daemon's clock is
    protocol: int | None = None  # the version of the protocol that its daemon speaks; None: this one
    daemon: dict[str, str | int | bool | list[str]] = Field(default_factory=dict)  # more of its tpid.toml

    @model_validator(mode="after")
    def _has_addresses(self) -> Self:
        if not (self.ipv4 or self.ipv6):
            raise ValueError("a host has IPv4, IPv6, or both")
        return self


class HomeLayout(BaseModel):
    """The hosts, as the file has them; `each_host` has them one by one, each with a name of its own."""

    model_config = _STRICT

    description: str = ""
    hosts: tuple[HostLayout, ...] = Field(min_length=1)

    @property
    def each_host(self) -> tuple[HostLayout, ...]:
        return tuple(
            host if host.count == 1 else host.model_copy(update={"name": f"{host.name}{number}", "count": 1})
            for host in self.hosts
            for number in range(1, host.count + 1)
        )

    @model_validator(mode="after")
    def _are_few_and_distinct(self) -> Self:
        names = [host.name for host in self.each_host]
        if len(names) > MAX_HOSTS:
            raise ValueError(f"{len(names)} hosts; {MAX_HOSTS} at most")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two hosts are named {', '.join(twice)}")
        return self


def load_layout(path: Path) -> HomeLayout:
    """Raises LabError."""
    try:
        return parse_layout(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}.") from error
    except LabError as error:
        raise LabError(f"{path}: {error}") from error


def parse_layout(text: str) -> HomeLayout:
    """Raises LabError."""
    try:
        return HomeLayout.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LabError(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}.") from error
    except (ValueError, RecursionError) as error:
        raise LabError(f"not TOML: {error}.") from error
