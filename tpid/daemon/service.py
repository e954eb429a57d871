"""The daemon from start to end: all parts, joined."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from tpid.api.access import Access
from tpid.api.chat import ChatEndpoint
from tpid.api.completions import CompletionEndpoint
from tpid.api.devices import DeviceEndpoints
from tpid.api.doctor import DoctorEndpoint
from tpid.api.imports import Imports
from tpid.api.key_endpoints import KeyEndpoints
from tpid.api.keys import FILE_NAME as API_KEYS
from tpid.api.keys import ApiKeys
from tpid.api.listen_address import TcpState
from tpid.api.metrics import MetricsEndpoint
from tpid.api.models import ModelEndpoints
from tpid.api.ollama.endpoints import OllamaEndpoints
from tpid.api.request_body import BodyReader
from tpid.api.responses.endpoint import ResponsesEndpoint
from tpid.api.server import Endpoints, Limits, make_app, make_public_app, serving
from tpid.api.status import StatusEndpoint
from tpid.api.tcp import serving_tcp, tls_context
from tpid.cluster.cluster import Cluster, ClusterSettings
from tpid.cluster.home import Home
from tpid.cluster.network import NetworkSettings
from tpid.compute.select import Compute, choose_compute
from tpid.daemon.allowed_cores import allowed_cores
from tpid.daemon.config import ApiConfig, Config
from tpid.daemon.free_memory import free_memory_bytes
from tpid.daemon.profile import make_profile
from tpid.daemon.service_manager import keep_told, notify, notify_reloading
from tpid.device import DeviceProfile, Role, device_name
from tpid.engine.engine import Engine
from tpid.engine.settings import EngineSettings
from tpid.errors import ConfigError, TpidError
from tpid.pack.store import PackStore
from tpid.transfer.units import Units

log = logging.getLogger(__name__)


async def run(config: Config, read_config: Callable[[], Config]) -> None:
    """Serve until SIGTERM or SIGINT; a second one forces the end. SIGHUP: anew, as `read_config` says then.

    Raises TpidError where it cannot start.
    """
    stop, reload = _stop_on_signals(), asyncio.Event()
    if not os.isatty(0):  # there it means that the terminal is gone
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    home, parts = await asyncio.to_thread(_prepare, config)
    while True:
        await _serve(config, home, replace(parts, profile=_as_member(parts.profile, home)), stop, reload)
        if stop.is_set():
            return
        if reload.is_set():
            reload.clear()
            config, home, parts = await asyncio.to_thread(_reloaded, config, parts, read_config)
            continue
        # It has joined a home, or left one: it is another device now, with another role.
        home = await asyncio.to_thread(Home.load, config.state_dir, config.name)


def _reloaded(config: Config, parts: "Parts", read_config: Callable[[], Config]) -> tuple[Config, Home, "Parts"]:
    """By the configuration that stands there now; one with a fault is logged, and all stays as it was."""
    try:
        config = read_config()
        log.info("reloaded")
        return config, *_prepare(config)
    except TpidError as error:
        log.error("reload_failed reason=%r", str(error))
        return config, Home.load(config.state_dir, config.name), parts


@dataclass(frozen=True, slots=True)
class Parts:
    """What stays the same in whatever home this device is."""

    profile: DeviceProfile
    store: PackStore
    compute: Compute
    keys: ApiKeys
    allowed_bytes: int  # of memory, when it started


async def _serve(config: Config, home: Home, parts: Parts, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """As a member of `home`, until `stop` or `reload`, or until it belongs to another one."""
    profile, store = parts.profile, parts.store
    cluster = Cluster(_cluster_settings(config), profile, home)
    units = Units(store, cluster, home)
    engine = Engine(cluster, store, parts.compute, _engine_settings(config), units=units)
    cluster.set_handler(engine)
    moved = asyncio.Event()
    cluster.on_left = moved.set
    status = StatusEndpoint(engine, cluster)
    endpoints = Endpoints(
        ChatEndpoint(engine),
        CompletionEndpoint(engine),
        ModelEndpoints(engine, store, Imports(), profile.role, lambda: cluster.status().budget_bytes),
        status,
        KeyEndpoints(parts.keys),
        DeviceEndpoints(cluster, home, moved.set),
        DoctorEndpoint(
            engine, cluster, parts.compute.kernels, allowed_bytes=parts.allowed_bytes, allowed_cores=allowed_cores()
        ),
        OllamaEndpoints(engine, store),
        MetricsEndpoint(engine, cluster),
        ResponsesEndpoint(engine),
    )
    bodies = BodyReader(config.context_tokens)
    # The API first: it is what finds out that another daemon runs here.
    async with (
        serving(make_app(endpoints, bodies), config.socket_path),
        _tcp(config.api, endpoints, bodies, parts.keys) as status.tcp,
        cluster,
        asyncio.TaskGroup() as tasks,
    ):
        worker = tasks.create_task(engine.run(), name="engine")
        log.info(
            "ready socket=%s port=%d models=%s home=%s devices=%d role=%s",
            config.socket_path,
            cluster.port,
            store.directory,
            home.fingerprint,
            len(home.members),
            profile.role,
        )
        notify("READY=1")
        told = tasks.create_task(keep_told(lambda: _status_text(cluster, engine)), name="systemd")
        waits = [tasks.create_task(event.wait(), name="end") for event in (stop, moved, reload)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            notify("STOPPING=1")
        elif reload.is_set():
            notify_reloading()
        for task in (worker, told, *waits):
            task.cancel()


def _status_text(cluster: Cluster, engine: Engine) -> str:
    """One line for `systemctl status`."""
    status = engine.status()
    n_devices = len(cluster.status().devices)
    who = "alone" if n_devices == 1 else f"{n_devices} devices"
    if status.plan is not None:
        what = f"{status.plan.model} on {len(status.plan.ranks)} of them" if n_devices > 1 else status.plan.model
    elif status.holding is not None:
        what = f"computes {status.holding.model} for {status.holding.coordinator}"
    else:
        what = "no model loaded"
    return f"{who}; {what}; {'answers' if status.busy else 'idle'}, {status.waiting_requests} waiting"


def _as_member(profile: DeviceProfile, home: Home) -> DeviceProfile:
    """The roster says what this device is called and may do; its owner may have it do less."""
    me = home.me
    if me is None:
        return profile
    role = Role.HELPER if Role.HELPER in (me.role, profile.role) else Role.USER
    return replace(profile, id=me.id, name=device_name(me.name) or profile.name, role=role)


def _keys(config: Config) -> ApiKeys:
    """Raises ConfigError, also where the API would be open to a network without a key."""
    keys = ApiKeys(config.state_dir / API_KEYS)
    address = config.api.address
    if address is not None and not address.is_loopback and not keys.keys:
        raise ConfigError(
            f"The API cannot listen on {address}: beyond this machine clients need a key, and there is none yet.",
            hint="Start tpid without api.listen, make a key with `tpictl key create NAME`, then set it again.",
        )
    return keys


@asynccontextmanager
async def _tcp(config: ApiConfig, endpoints: Endpoints, bodies: BodyReader, keys: ApiKeys) -> AsyncIterator[TcpState]:
    """The API on TCP, where it is wanted. Raises ConfigError."""
    address = config.address
    if address is None:
        yield TcpState()
        return
    access = Access(None if address.is_loopback else keys, config.origins, config.hosts)
    context = None
    if config.tls_certificate is not None and config.tls_key is not None:
        context = tls_context(config.tls_certificate, config.tls_key)
    async with serving_tcp(make_public_app(endpoints, bodies, access), address, Limits(), context) as state:
        yield state


def _prepare(config: Config) -> tuple[Home, Parts]:
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        config.models_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be made: {error.strerror}.",
            hint="Set state_dir or models_dir in the configuration.",
        ) from error
    allowed_bytes = free_memory_bytes()
    compute = choose_compute(config.backend, config.threads, config.activation_bits, config.kv_dtype)
    store = PackStore(config.models_path)
    home = Home.load(config.state_dir, config.name)
    return home, Parts(make_profile(config, home.id, store, compute), store, compute, _keys(config), allowed_bytes)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("forced signal=%s", signal.Signals(number).name)
            os._exit(128 + number)
        log.info("stopping signal=%s", signal.Signals(number).name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _cluster_settings(config: Config) -> ClusterSettings:
    return ClusterSettings(
        name=config.name,
        port=config.port,
        static_peers=config.peers,
        mdns=config.discovery,
        advertise_minimal=config.advertise == "minimal",
        network=NetworkSettings(config.listen == "loopback", config.interfaces),
    )


def _engine_settings(config: Config) -> EngineSettings:
    return EngineSettings(
        context_tokens=config.context_tokens,
        max_pass_tokens=config.prefill_tokens,
        max_waiting_requests=config.max_waiting_requests,
        wire_dtype=config.wire_dtype,
        use_all_devices=config.use_all_devices,
        cluster_wait_s=config.cluster_wait_s,
    )
