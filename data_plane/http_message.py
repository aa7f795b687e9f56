"""The request and the reply of one HTTP exchange, as the steps of the flow use them."""

from data_plane.http_headers import Headers, names
from data_plane.http_reply import Responder
from data_plane.http_request import (
    BadBody,
    BodiesOverloaded,
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Request,
)

__all__ = [
    "BadBody",
    "BodiesOverloaded",
    "BodyTimeout",
    "BodyTooLarge",
    "ClientGone",
    "Headers",
    "Request",
    "Responder",
    "names",
]
