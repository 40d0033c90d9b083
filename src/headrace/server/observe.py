"""What operators see: one structured log line at each stream's end, and Prometheus metrics. No key and no text of a user in either.

Metric names follow the OpenTelemetry GenAI semantic conventions, in Prometheus spelling, with their buckets. A relay is a
server towards its callers (`gen_ai_server_*`) and a client towards providers (`gen_ai_client_*`); what the conventions do not
know is `headrace_*`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, cast

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from headrace.engine.stream import Stream
from headrace.engine.streams import Streams
from headrace.protocol import events as ev

DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
CANCEL = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

MODEL_LABELS_MAX = 200
_LABELS = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]


class Observatory:
    """The engine's observer: a log line and metrics for each stream."""

    def __init__(self, log_format: str = "auto") -> None:
        self.registry = CollectorRegistry()
        self.log = _logger(log_format)
        self._models: set[str] = set()
        self._series: dict[tuple[Any, ...], Any] = {}
        histogram, counter = self._histogram, self._counter
        self.ttft = histogram("gen_ai_server_time_to_first_token_seconds", "Request received to first generated token.", TTFT)
        self.tpot = histogram("gen_ai_server_time_per_output_token_seconds", "(last - first token) / (tokens - 1).", TPOT)
        self.duration = histogram("gen_ai_server_request_duration_seconds", "Request received to the stream's end.", DURATION, "error_type")
        self.upstream_duration = histogram(
            "gen_ai_client_operation_duration_seconds", "Request sent to the provider to its end.", DURATION, "error_type"
        )
        self.first_chunk = histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds", "Request sent to the provider to its first token.", DURATION
        )
        self.token_usage = histogram("gen_ai_client_token_usage", "Tokens of one stream.", TOKENS, "gen_ai_token_type")
        self.cancel = histogram("headrace_cancel_duration_seconds", "Stop asked to upstream socket closed.", CANCEL, "cause")
        self.queue = histogram("headrace_queue_duration_seconds", "Request received to a place at the provider.", DURATION)
        self.ended = counter("headrace_streams_ended_total", "Streams by how they ended.", "reason")
        self.retries = counter("headrace_upstream_retries_total", "Attempts after the first.")
        self.readers = Counter("headrace_readers_closed_total", "Readers by why they left.", ["reason"], registry=self.registry)
        self.in_flight = Gauge("headrace_streams_in_flight", "Streams that have not ended.", registry=self.registry)

    def watch(self, streams: Streams) -> None:
        """Show a registry's and its pool's state at each scrape."""
        self.registry.register(_StreamsCollector(streams))

    def render(self) -> bytes:
        return generate_latest(self.registry)

    # --- the engine's port -------------------------------------------------------------------------------------------

    def stream_started(self, stream: Stream) -> None:
        self.in_flight.inc()

    def stream_ended(self, stream: Stream) -> None:
        self.in_flight.dec()
        end = stream.end
        assert end is not None
        metrics = end.metrics
        assert metrics is not None
        labels = self._labels(stream)
        reason = end.code if isinstance(end, ev.Error) else end.finish_reason
        error = reason if isinstance(end, ev.Error) else ""
        self._of(self.ended, *labels, reason).inc()
        self._observe_times(stream, metrics, labels, error)
        if stream.meter.attempts > 1:
            self._of(self.retries, *labels).inc(stream.meter.attempts - 1)
        if end.usage is not None:
            for kind, count in (("input", end.usage.input_tokens), ("output", end.usage.output_tokens)):
                if count is not None:
                    self._of(self.token_usage, *labels, kind).observe(count)
        self._log_end(stream, end, reason, metrics)

    def reader_closed(self, stream: Stream, reason: str) -> None:
        self._of(self.readers, reason).inc()
        if reason == "slow_consumer":
            self._write("warning", "slow_consumer", stream_id=stream.id, request_id=stream.request_id)

    def internal_error(self, stream: Stream, error: Exception) -> None:
        self._write("error", "internal_error", stream_id=stream.id, request_id=stream.request_id, exc_info=error)

    def request_failed(self, method: str, path: str, error: Exception) -> None:
        """An endpoint has a bug."""
        self._write("error", "internal_error", method=method, path=path, exc_info=error)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _observe_times(self, stream: Stream, metrics: ev.Metrics, labels: list[str], error: str) -> None:
        duration = (metrics.duration_ms or 0.0) / 1000
        self._of(self.duration, *labels, error).observe(duration)
        if metrics.ttft_ms is not None:
            self._of(self.ttft, *labels).observe(metrics.ttft_ms / 1000)
        if metrics.tpot_ms is not None:
            self._of(self.tpot, *labels).observe(metrics.tpot_ms / 1000)
        if metrics.cancel_ms is not None:
            self._of(self.cancel, *labels, stream.cancel_cause or "user").observe(metrics.cancel_ms / 1000)
        if metrics.queue_ms is not None:
            self._of(self.queue, *labels).observe(metrics.queue_ms / 1000)
        sent_at = stream.meter.sent_at
        if sent_at is not None:
            self._of(self.upstream_duration, *labels, error).observe(max(0.0, stream.meter.start + duration - sent_at))
            if stream.meter.ingress.tokens:
                self._of(self.first_chunk, *labels).observe(stream.meter.ingress.first - sent_at)

    def _log_end(self, stream: Stream, end: ev.StreamEnd | ev.Error, reason: str, metrics: ev.Metrics) -> None:
        usage = end.usage
        line: dict[str, Any] = {
            "stream_id": stream.id,
            "request_id": stream.request_id,
            "surface": stream.request.dialect or "native",
            "provider": stream.target.provider.name,
            "model": stream.target.model,
            "reason": reason,
            "cause": stream.cancel_cause,
            "tokens": metrics.tokens,
            "input_tokens": usage.input_tokens if usage else None,
            "output_tokens": usage.output_tokens if usage else None,
            "cached_tokens": usage.cached_tokens if usage else None,
            "usage_source": usage.source if usage else None,
            "ttft_ms": metrics.ttft_ms,
            "tpot_ms": metrics.tpot_ms,
            "queue_ms": metrics.queue_ms,
            "duration_ms": metrics.duration_ms,
            "cancel_ms": metrics.cancel_ms,
            "attempts": metrics.attempts,
            "bytes_in": stream.bytes_in,
            "bytes_out": stream.bytes_out + sum(reader.bytes_out for reader in stream.readers),
            "readers": stream.readers_total,
            "tool_calls": [{"name": name, "fragments": fragments, "parses": parses} for name, fragments, parses in stream.tool_calls]
            or None,
            "detail": stream.detail if isinstance(end, ev.Error) else None,
        }
        level = "warning" if isinstance(end, ev.Error) else "info"
        self._write(level, "stream_end", **{key: value for key, value in line.items() if value is not None})

    def _write(self, level: str, event: str, **fields: Any) -> None:
        """Log, and go on if nobody takes the line: a full disk or a closed pipe is no reason to break a stream."""
        with suppress(OSError, ValueError):
            getattr(self.log, level)(event, **fields)

    def _of(self, metric: Any, *labels: str) -> Any:
        """Return the metric's series of these labels. They are few and kept, because looking one up costs more than counting."""
        series = self._series.get((metric, *labels))
        if series is None:
            series = self._series[metric, *labels] = metric.labels(*labels)
        return series

    def _labels(self, stream: Stream) -> list[str]:
        """Model names come from callers: past a bound they are all `_OTHER`, or a label would be memory for the asking."""
        model = stream.target.model
        if model not in self._models:
            if len(self._models) >= MODEL_LABELS_MAX:
                model = "_OTHER"
            else:
                self._models.add(model)
        return ["chat", stream.target.provider.name, model]

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, [*_LABELS, *labels], buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, [*_LABELS, *labels], registry=self.registry)


class _StreamsCollector:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def collect(self) -> list[GaugeMetricFamily]:
        pool = self._streams.pool.statistics()
        values = {
            "headrace_retained_bytes": ("Bytes of ended streams that are kept for readers to come.", self._streams.retained_bytes),
            "headrace_readers": ("Readers attached to streams that have not ended.", sum(len(s.readers) for s in self._streams.live())),
            "headrace_upstream_connections_open": ("Connections to providers.", pool["open"]),
            "headrace_upstream_connections_idle": ("Connections to providers that lie ready.", pool["idle"]),
        }
        return [GaugeMetricFamily(name, text, value=float(value)) for name, (text, value) in values.items()]


def _logger(log_format: str) -> structlog.typing.FilteringBoundLogger:
    """Return the log: JSON lines for machines, or readable on a terminal. Both go to standard error."""
    readable = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=not readable)
    factory: Any
    if readable:
        processors: list[Any] = [
            structlog.processors.add_log_level,
            stamp,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False),
        ]
        factory = structlog.PrintLogger(sys.stderr)
    else:
        render = structlog.processors.JSONRenderer(serializer=lambda line, **_: msgspec.json.encode(line))
        processors = [structlog.processors.add_log_level, stamp, structlog.processors.format_exc_info, render]
        factory = structlog.BytesLogger(sys.stderr.buffer)
    bound = structlog.wrap_logger(factory, processors=processors, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)).bind()
    return cast("structlog.typing.FilteringBoundLogger", bound)


def quiet_libraries() -> None:
    """uvicorn's own log goes to the same place as ours, warnings and worse only."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
