"""The HTTP application: every slice's routes under one set of conventions, and one OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from control_plane import docs, health
from control_plane.budgets import api as budgets
from control_plane.kernel.context import Context
from control_plane.kernel.http import API_VERSION, App, Conventions, install_error_answers
from control_plane.keys import api as keys
from control_plane.spend import api as spend
from control_plane.worker import Worker

TAGS = (
    {"name": "keys", "description": "API keys: minted, narrowed, revoked."},
    {"name": "budgets", "description": "Limits on the spend of an organisation, a key, a customer or a tag."},
    {"name": "spend", "description": "Recorded calls and their sums."},
    {"name": "platform", "description": "Health and version."},
)
_DESCRIPTION = (
    "Money is an integer of microdollars (1 USD = 1,000,000). Times are RFC 3339 in UTC. Ids are accepted with and "
    "without their prefix. Errors share one envelope."
)


def create_app(context: Context, worker: Worker | None = None) -> App:
    """The ASGI application. `worker` is the background work of the same process, for the health page."""
    app = FastAPI(
        title="NullSpend",
        version=API_VERSION,
        description=_DESCRIPTION,
        openapi_tags=[dict(tag) for tag in TAGS],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    app.state.worker = worker
    install_error_answers(app)
    for router in (health.router, keys.router, budgets.router, spend.router):
        app.include_router(router)
    docs.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # how FastAPI wants it
    return Conventions(app, body_bytes_max=context.settings.body_bytes_max)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document without its 422, which this API never answers, and with the two ways to send a key."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        document["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-NullSpend-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
