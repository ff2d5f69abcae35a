"""The console in the browser and the API: FastAPI, pages made on the server with htmx, no script from elsewhere.

`app` puts it together, `server` runs it as a role of the node. One module per page in `pages`, one per noun in `api`;
who may do what is said by `identity` at each route. Queries stand in `iap_node.database`.
"""
