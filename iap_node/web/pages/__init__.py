"""The pages of the console, one module each. A page that stays open renews its parts by htmx when an event tells."""

from iap_node.web.pages import admin, findings, images, overview, queue, series

PAGE_ROUTERS = (overview.router, images.router, series.router, findings.router, queue.router, admin.router)
