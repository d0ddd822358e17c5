"""What Prometheus reads of a service at /metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pricer.files import read_json

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DOLLARS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Monitored(Collector):
    """What `pricer monitor` found last, as its report says; nothing where there is none."""

    def __init__(self, report: Path) -> None:
        """Take where its JSON is; it is read at every question, and may come and go."""
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        try:
            told = read_json(self._report)
            written = self._report.stat().st_mtime
            alarmed = {name: float(one["alarmed"]) for name, one in told["checks"].items()}
            known = {name: one["value"] for name, one in told["figures"].items()}
            figures = {name: float(value) for name, value in known.items() if value is not None}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return
        for name, what, label, values in (
            ("alert", "1 where a check of the newest `pricer monitor` alarms", "check", alarmed),
            ("figure", "Of the newest `pricer monitor`: dollars, or a share", "figure", figures),
        ):
            family = GaugeMetricFamily(f"pricer_monitor_{name}", what, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
        yield GaugeMetricFamily(
            "pricer_monitor_timestamp_seconds", "When `pricer monitor` wrote last", value=written
        )


class Meters:
    """The figures of one service."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Make them, all at zero.

        Args:
            waiting: returns how many products are in the queue.
        """
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pricer_requests", "Requests", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "pricer_request_seconds",
            "Until answered",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        Gauge("pricer_queue_length", "Products that wait", registry=registry).set_function(waiting)
        self.batches = Histogram(
            "pricer_batch_size",
            "Products a forward pass",
            ["variant"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.estimates = Counter(
            "pricer_estimates",
            "Estimates in the log",
            ["variant", "assignment"],
            registry=registry,
        )
        self.price_mass = Histogram(
            "pricer_price_mass",
            "Probability that the model says a price at all",
            ["variant"],
            buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1),
            registry=registry,
        )
        self.fallbacks = Counter(
            "pricer_fallbacks",
            "Answers that the model did not give",
            ["variant", "reason"],
            registry=registry,
        )
        self.outcome_errors = Histogram(
            "pricer_outcome_error_dollars",
            "Absolute error by outcomes",
            ["variant"],
            buckets=DOLLARS,
            registry=registry,
        )
        self.dropped_shadows = Counter(
            "pricer_dropped_shadows",
            "Shadow estimates for which there was no time or no log",
            registry=registry,
        )
        self.log_failures = Counter(
            "pricer_log_failures", "Batches that could not be written", registry=registry
        )

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)
