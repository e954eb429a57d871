"""This device's profile: what it tells the others."""

import psutil

from tpid import __version__
from tpid.compute.select import Compute
from tpid.daemon.config import Config
from tpid.daemon.disk_speed import disk_bytes_s
from tpid.device import DeviceId, DeviceProfile
from tpid.engine.inventory import free_disk_bytes
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore


def make_profile(config: Config, id: DeviceId, store: PackStore, compute: Compute) -> DeviceProfile:
    """Measures for a second at most and looks at the disk: not for the event loop."""
    return DeviceProfile(
        id=id,
        name=config.name,
        role=config.role,
        version=__version__,
        ram_bytes=psutil.virtual_memory().total,
        budget_bytes=config.memory_budget,
        disk_free_bytes=free_disk_bytes(store.directory),
        threads=config.threads,
        read_bytes_s=compute.measure_read_bytes_s(),
        backend=compute.name,
        disk_bytes_s=disk_bytes_s(store.directory, config.state_dir),
        matmul_flops_s=compute.measure_matmul_flops_s(),
        fetches_units=config.fetch_units,
        packs=tuple(item.id for item in store.scan() if isinstance(item, Pack)),
    )
