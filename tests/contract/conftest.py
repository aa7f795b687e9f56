"""The installation of the control plane's own tests."""

from tests.integration.control_plane.conftest import context, org, pytest_collection_modifyitems, ready

__all__ = ["context", "org", "pytest_collection_modifyitems", "ready"]
