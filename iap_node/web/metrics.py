"""`/metrics` for Prometheus (text format 0.0.4), made from the archive when it is asked for; with a viewer's token.

Figures of the whole node, not of this process: one scrape of one console suffices, however many roles run where.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from iap_node.database import models, shadow
from iap_node.database.destinations import destination_counts
from iap_node.database.finding_lists import count_findings
from iap_node.database.models import ModelAtWork
from iap_node.database.routes import count_held
from iap_node.database.shadow import Agreement
from iap_node.database.status import recent_judgements, status_counts
from iap_node.database.tables import ModelState
from iap_node.upkeep.capacity import capacity
from iap_node.web.identity import Viewer
from iap_node.web.node import Node, WebNode

JUDGEMENTS = 200  # the newest, of which latency and novelty are told

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(node: Node, _: Viewer) -> Response:
    """All figures."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Archive(node))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Archive(Collector):
    def __init__(self, node: WebNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        node, now = self._node, datetime.now(UTC)
        with node.database.reading() as session:
            counts = status_counts(session)
            findings = count_findings(session)
            destinations = destination_counts(session)
            judged = recent_judgements(session, JUDGEMENTS)
            held = count_held(session)
            at_work = models.at_work(session)
            tried = at_work.get(ModelState.SHADOW)
            agreed = None if tried is None else shadow.agreement(session, tried.model_id)
            unloaded = models.load_problems(session)
        reserve_bytes = node.config.spool.disk_reserve_mb * 1024**2
        room = capacity(node.database, node.config.spool_dir, reserve_bytes, node.config.retention, now)
        waits_s = 0.0 if counts.oldest_waiting_job_at is None else (now - counts.oldest_waiting_job_at).total_seconds()

        series = GaugeMetricFamily("iap_series", "Series by state", labels=["state"])
        for state, n in counts.series.items():
            series.add_metric([state.value], n)
        yield series
        jobs = GaugeMetricFamily("iap_jobs", "Jobs by kind and state", labels=["kind", "state"])
        for (kind, job_state), n in counts.jobs.items():
            jobs.add_metric([kind.value, job_state.value], n)
        yield jobs
        opened = GaugeMetricFamily("iap_findings_open", "Open findings by severity", labels=["severity"])
        for severity, n in findings.items():
            opened.add_metric([severity.value], n)
        yield opened
        deliveries = GaugeMetricFamily("iap_deliveries", "Deliveries by state", labels=["destination", "state"])
        for one in destinations:
            for name, n in (("pending", one.pending), ("delivered", one.delivered), ("failed", one.failed)):
                deliveries.add_metric([one.destination, name], n)
        yield deliveries
        yield from _of_models(at_work.values(), agreed)
        latency = [one.latency_s for one in judged if one.latency_s is not None]
        novel = [one.novel for one in judged if one.novel is not None]
        for name, text, value in (
            ("iap_queue_oldest_seconds", "How long the oldest waiting job has waited", waits_s),
            ("iap_models_not_loading", "Workers that cannot load a model that is to work", len(unloaded)),
            ("iap_shadow_series", "Series that the model in shadow has seen", agreed.n_series if agreed else 0),
            ("iap_series_held", "Series that wait for a person", held),
            ("iap_quarantine", "Instances that could not be filed", counts.n_quarantined),
            ("iap_conflicts", "Instances kept aside because others stand under their UID", counts.n_conflicts),
            ("iap_instances_lost", "Instances whose bytes are lost", counts.n_lost),
            ("iap_received_bytes_day", "Bytes received in the last day", room.last_day_bytes),
            ("iap_disk_free_bytes", "Free room on the spool's disk", room.free_bytes),
            ("iap_disk_size_bytes", "Size of the spool's disk", room.total_bytes),
            ("iap_judgement_seconds", f"Mean from complete to judged, newest {JUDGEMENTS} series", _mean(latency)),
            ("iap_novel_share", f"Share of novel series, newest {JUDGEMENTS} judged", _mean(novel)),
        ):
            yield GaugeMetricFamily(name, text, value=value)


def _of_models(at_work: Iterable[ModelAtWork], agreed: Agreement | None) -> Iterator[Metric]:
    known = GaugeMetricFamily("iap_model", "1 for the champion and the model in shadow", labels=["model", "state"])
    for one in at_work:
        known.add_metric([one.model_id, one.state.value], 1)
    yield known
    labels = ["model", "parameter"]
    same = GaugeMetricFamily("iap_shadow_agreement", "Share of series with the champion's answer", labels=labels)
    for about in () if agreed is None else agreed.parameters:
        if agreed is not None and about.share_same is not None:
            same.add_metric([agreed.model_id, about.keyword], about.share_same)
    yield same


def _mean(values: list[float] | list[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
