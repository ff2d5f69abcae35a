"""The pages of the console, one module each. A page that stays open renews its parts by htmx when an event tells."""

from iap_node.web.pages import (
    admin,
    corrections,
    destinations,
    finding_rules,
    findings,
    images,
    models,
    overview,
    queue,
    reports,
    routes,
    rules,
    scanners,
    series,
    series_actions,
    upload,
)

PAGE_ROUTERS = (
    overview.router,
    images.router,
    series.router,
    series_actions.router,
    corrections.router,
    finding_rules.router,  # before findings: its paths look like theirs
    findings.router,
    reports.router,
    scanners.router,
    routes.router,
    rules.router,
    destinations.router,
    queue.router,
    models.router,
    upload.router,
    admin.router,
)
