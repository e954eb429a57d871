"""Plans over devices that say anything which a hello may: each hello crosses the border first."""

import struct

import msgpack

from tests.unit.specs import SMOLLM2
from tpid.comm.frames import decode_header
from tpid.comm.messages import Device, Kind
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import MemoryPlanError, RemoteProtocolError
from tpid.pack.manifest import PackId
from tpid.plan.footprint import BACKENDS, Workload
from tpid.plan.partition import PlanRequest, make_plan

_PACK = PackId("ab" * 32)
_MAX_DEVICES = 8
_DEVICE = struct.Struct("<BQQddd")  # backend, budget, installed memory, and three rates
_WORK = struct.Struct("<HHHBH")
_HOME = DeviceProfile(
    id=DeviceId("0" * 64),
    name="home",
    role=Role.USER,
    version="0",
    ram_bytes=8 << 30,
    budget_bytes=4 << 30,
    disk_free_bytes=1 << 30,
    threads=4,
    read_bytes_s=1e10,
    backend="native",
    packs=(_PACK,),
    disk_bytes_s=1e9,
    matmul_flops_s=1e11,
)


def fuzz(data: bytes) -> None:
    """The size of the work, then one device after the other; the first of them coordinates."""
    if len(data) < _WORK.size:
        return
    rest = data[_WORK.size :]
    records = _DEVICE.iter_unpack(rest[: min(len(rest) // _DEVICE.size, _MAX_DEVICES) * _DEVICE.size])
    told = [_told(number, fields) for number, fields in enumerate(records, 1)]
    devices = [profile for profile in told if profile is not None]
    first, others = (devices[0], devices[1:]) if devices and devices[0].backend in BACKENDS else (_HOME, devices)
    try:
        plan = make_plan(PlanRequest(1, _PACK, "model", _work(data), "fp32"), first, others)
    except MemoryPlanError as error:
        assert len(str(error)) < 10_000
        return
    budgets = {device.id: device.budget_bytes for device in (first, *others)}
    assert all(0 <= rank.memory_bytes <= budgets[rank.device] for rank in plan.ranks)


def _told(number: int, told: tuple[int, int, int, float, float, float]) -> DeviceProfile | None:
    """The profile as another device takes it, None where it is refused."""
    backend, budget, ram, read, disk, flops = told
    fields = {
        "id": f"{number:064x}",
        "name": f"device-{number}",
        "role": "user",
        "version": "0",
        "ram_bytes": ram,
        "budget_bytes": budget,
        "disk_free_bytes": 1 << 30,
        "threads": 4,
        "read_bytes_s": read,
        "backend": [*BACKENDS, "unknown"][backend % (len(BACKENDS) + 1)],
        "packs": [_PACK] if backend < 224 else [],
        "disk_bytes_s": disk,
        "matmul_flops_s": flops,
    }
    try:
        message = decode_header(Kind.DEVICE, msgpack.packb({"profile": fields}))
    except RemoteProtocolError:
        return None
    assert isinstance(message, Device)
    return message.profile


def _work(data: bytes) -> Workload:
    attn, ffn, context, slots, tokens = _WORK.unpack_from(data)
    return Workload(
        spec=SMOLLM2,
        n_attn_units=1 + attn % 16,
        n_ffn_units=1 + ffn % 256,
        attn_unit_weights=294_912,
        ffn_unit_weights=55_296,
        attn_unit_packed_bytes=30 * 188_416,
        ffn_unit_packed_bytes=30 * 36_864,
        attn_unit_largest_bytes=188_416,
        ffn_unit_largest_bytes=36_864,
        head_packed_bytes=96 * 184_320,
        head_unit_packed_bytes=184_320,
        activation_tile_bytes=96,
        context_tokens=1 + context,
        n_slots=1 + slots % 4,
        max_pass_tokens=1 + tokens % 5000,
    )
