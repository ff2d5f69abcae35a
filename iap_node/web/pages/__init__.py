"""The pages of the console, one module each. A page that stays open renews its parts by htmx when an event tells."""

from iap_node.web.pages import (
    admin,
    destinations,
    findings,
    images,
    models,
    overview,
    queue,
    routes,
    scanners,
    series,
    upload,
)

PAGE_ROUTERS = (
    overview.router,
    images.router,
    series.router,
    findings.router,
    scanners.router,
    routes.router,
    destinations.router,
    queue.router,
    models.router,
    upload.router,
    admin.router,
)
