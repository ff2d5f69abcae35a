"""The API under /api/v1, one module per noun: what the pages do, for programs.

Answers are records as JSON; lists come in pages with a cursor; errors are `application/problem+json`.
"""

from iap_node.web.api import (
    corrections,
    files,
    findings,
    images,
    models,
    people,
    queue,
    reports,
    results,
    rules,
    series,
    status,
)

API_ROUTERS = (
    status.router,
    series.router,
    results.router,
    images.router,
    corrections.router,
    findings.router,
    queue.router,
    models.router,
    rules.router,
    reports.router,
    files.router,
    people.router,
)
