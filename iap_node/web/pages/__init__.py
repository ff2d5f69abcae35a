"""The pages of the console, one module each. A page that stays open renews its parts by htmx when an event tells."""

from iap_node.web.pages import admin, overview, queue

PAGE_ROUTERS = (overview.router, queue.router, admin.router)
