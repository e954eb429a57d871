"""GET /metrics: what the daemon does, in the text format of Prometheus. docs/api.md lists the names."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import get_args

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tpid import __version__
from tpid.cluster.cluster import Cluster
from tpid.device import DeviceId
from tpid.engine.engine import Engine, EngineStatus
from tpid.engine.tally import Histogram, Outcome

OUTCOMES = get_args(Outcome)


class MetricsEndpoint:
    def __init__(self, engine: Engine, cluster: Cluster) -> None:
        self._registry = CollectorRegistry()  # of our own: the library's may have what others put there
        self._registry.register(_OfTheDaemon(engine, cluster))
        ProcessCollector(registry=self._registry)

    async def get(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})


class _OfTheDaemon(Collector):
    """Looks at the engine and the cluster when it is asked, and keeps nothing."""

    def __init__(self, engine: Engine, cluster: Cluster) -> None:
        self._engine = engine
        self._cluster = cluster

    def collect(self) -> Iterator[Metric]:
        engine, cluster = self._engine.status(), self._cluster.status()
        yield InfoMetricFamily("tpid", "The daemon.", value={"version": __version__})
        yield from _requests(engine)
        yield from _tokens(engine)
        yield from _weights(engine, {device.profile.id: device.profile.name for device in cluster.devices})
        counts = {
            "connected": len(cluster.devices),
            "planned": len(engine.plan.ranks) if engine.plan is not None else 0,
            "failed": len(cluster.failed),
        }
        yield _gauges("tpid_devices", "Devices of the home as this one sees them, itself included.", "state", counts)


def _requests(engine: EngineStatus) -> Iterator[Metric]:
    tally = engine.tally
    requests = CounterMetricFamily("tpid_requests", "Requests for answers, by how they ended.", labels=["outcome"])
    for outcome in OUTCOMES:
        requests.add_metric([outcome], tally.requests[outcome])
    yield requests
    yield GaugeMetricFamily("tpid_requests_running", "Requests that are computed.", int(engine.busy))
    yield GaugeMetricFamily("tpid_requests_waiting", "Requests in the queue.", engine.waiting_requests)
    yield _histogram("tpid_queue_seconds", "What requests waited for their turn.", tally.queue_s)
    yield _histogram("tpid_time_to_first_token_seconds", "From the prompt's begin to the first token.", tally.ttft_s)
    yield _histogram("tpid_time_per_output_token_seconds", "Mean over an answer's further tokens.", tally.tpot_s)


def _tokens(engine: EngineStatus) -> Iterator[Metric]:
    tally = engine.tally
    yield CounterMetricFamily("tpid_prompt_tokens", "Of prompts.", tally.prompt_tokens)
    yield CounterMetricFamily("tpid_cached_prompt_tokens", "Of prompts, not computed again.", tally.cached_tokens)
    yield CounterMetricFamily("tpid_completion_tokens", "Of answers.", tally.completion_tokens)


def _weights(engine: EngineStatus, names: Mapping[DeviceId, str]) -> Iterator[Metric]:
    resident = {names.get(id, id): use.resident_bytes for id, use in engine.weights.items()}
    streamed = {names.get(id, id): use.streamed_bytes for id, use in engine.weights.items()}
    yield _gauges("tpid_weights_resident_bytes", "Weights that stay in a device's memory.", "device", resident)
    yield _gauges("tpid_weights_streamed_bytes", "Weights that a device reads in each pass.", "device", streamed)
    yield CounterMetricFamily(
        "tpid_streamed_bytes", "Weights that this device has read for passes.", engine.streamed_bytes
    )


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    below = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=below, sum_value=histogram.sum)
