"""The daemon from start to end: all parts, joined."""

import asyncio
import logging
import os
import signal

from tpid.api.chat import ChatEndpoint
from tpid.api.imports import Imports
from tpid.api.models import ModelEndpoints
from tpid.api.request_body import BodyReader
from tpid.api.server import make_app, serving
from tpid.api.status import StatusEndpoint
from tpid.cluster.cluster import Cluster, ClusterSettings
from tpid.cluster.identity.device_id import load_or_create_device_id
from tpid.compute.select import Compute, choose_compute
from tpid.daemon.config import Config
from tpid.daemon.profile import make_profile
from tpid.daemon.service_manager import notify
from tpid.device import DeviceProfile
from tpid.engine.engine import Engine
from tpid.engine.settings import EngineSettings
from tpid.errors import ConfigError
from tpid.pack.store import PackStore

log = logging.getLogger(__name__)


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; a second one forces the end. Raises TpidError where it cannot start."""
    profile, store, compute = await asyncio.to_thread(_prepare, config)
    cluster = Cluster(_cluster_settings(config), profile)
    engine = Engine(cluster, store, compute, _engine_settings(config))
    cluster.set_handler(engine)
    models = ModelEndpoints(engine, store, Imports(store.directory), config.role)
    app = make_app(ChatEndpoint(engine), models, StatusEndpoint(engine, cluster), BodyReader(config.context_tokens))
    stop = _stop_on_signals()
    # The API first: it is what finds out that another daemon runs here.
    async with serving(app, config.socket_path), cluster, asyncio.TaskGroup() as tasks:
        worker = tasks.create_task(engine.run(), name="engine")
        log.warning("loopback_only reason=%r", "devices cannot be paired yet, so nothing leaves this machine")
        log.info("ready socket=%s port=%d models=%s", config.socket_path, cluster.port, store.directory)
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        worker.cancel()


def _prepare(config: Config) -> tuple[DeviceProfile, PackStore, Compute]:
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        config.models_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be made: {error.strerror}.",
            hint="Set state_dir or models_dir in the configuration.",
        ) from error
    compute = choose_compute(config.backend, config.threads, config.activation_bits, config.kv_dtype)
    store = PackStore(config.models_path)
    profile = make_profile(config, load_or_create_device_id(config.state_dir), store, compute)
    return profile, store, compute


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
    return ClusterSettings(name=config.cluster, port=config.port, static_peers=config.peers, mdns=config.discovery)


def _engine_settings(config: Config) -> EngineSettings:
    return EngineSettings(
        context_tokens=config.context_tokens,
        max_pass_tokens=config.prefill_tokens,
        max_waiting_requests=config.max_waiting_requests,
        wire_dtype=config.wire_dtype,
        use_all_devices=config.use_all_devices,
        cluster_wait_s=config.cluster_wait_s,
    )
