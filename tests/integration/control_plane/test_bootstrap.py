"""The first organisation: founded once, its keys verified at every later start."""

import asyncio

import httpx
import pytest

from control_plane.bootstrap import BootstrapError, bootstrap
from control_plane.kernel.context import Context
from shared.ids import new_api_key
from tests.integration.control_plane.support import Installation, app_of


async def test_a_second_start_with_the_same_keys_finds_what_the_first_one_made(context: Context) -> None:
    first = await bootstrap(context, slug="again", owner_email="again@example.com")
    second = await bootstrap(
        context,
        slug="again",
        owner_email="Again@example.com",
        admin_key=first.admin_key,
        service_key=first.service_key,
    )
    assert second == first


async def test_a_start_without_keys_makes_new_ones_of_the_same_organisation(context: Context) -> None:
    first = await bootstrap(context, slug="lost", owner_email="lost@example.com")
    second = await bootstrap(context, slug="lost", owner_email="lost@example.com")
    assert (second.org_id, second.owner_id) == (first.org_id, first.owner_id)
    assert second.admin_key != first.admin_key


async def test_keys_that_are_brought_along_become_the_keys(context: Context) -> None:
    admin, service = new_api_key(), new_api_key()
    made = await bootstrap(
        context, slug="brought", owner_email="brought@example.com", admin_key=admin, service_key=service
    )
    assert (made.admin_key, made.service_key) == (admin, service)
    transport = httpx.ASGITransport(app=app_of(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for key, status in ((admin, 201), (service, 403)):
            reply = await client.post("/api/keys", json={"name": "a"}, headers={"X-NullSpend-Key": key})
            assert reply.status_code == status


async def test_a_malformed_a_revoked_and_a_strangers_key_are_refused_with_advice(org: Installation) -> None:
    for key in ("nonsense", new_api_key()[:-1]):
        with pytest.raises(BootstrapError, match="malformed"):
            await bootstrap(org.context, slug="other", owner_email="other@example.com", admin_key=key)
    with pytest.raises(BootstrapError, match="revoked"):
        await bootstrap(org.context, slug="other", owner_email="other@example.com", admin_key=org.owner.admin_key)


async def test_two_starts_at_once_found_one_organisation(context: Context) -> None:
    made = await asyncio.gather(
        *(bootstrap(context, slug="race", owner_email="race@example.com") for _ in range(2)),
    )
    assert len({credentials.org_id for credentials in made}) == 1
