"""The API under /api/v1, one module per noun: what the pages do, for programs.

Answers are records as JSON; lists come in pages with a cursor; errors are `application/problem+json`.
"""

from iap_node.web.api import corrections, findings, models, queue, results, series, status

API_ROUTERS = (
    status.router,
    series.router,
    results.router,
    corrections.router,
    findings.router,
    queue.router,
    models.router,
)
