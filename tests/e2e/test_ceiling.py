"""Budgets under parallel callers with the official clients: what fits passes, nothing else leaves, one attempt each."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors

from tests.support.control import Control
from tests.support.official import PROVIDER_KEY, TIMEOUT_S, genai_options
from tests.support.product import Counts, Product, risen
from tests.support.scripted import say
from tests.support.upstreams import Scripted, at_root

LIMIT: Final = 50_000
"""Five cents."""
CALLERS: Final = 64
_CAP: Final = 150
_PADDING: Final = "x" * 400
"""Makes the bound of the input a number of three digits, like the one that stands in for it while it is unknown."""


@pytest.fixture
async def chat(product: Product) -> AsyncIterator[openai.AsyncOpenAI]:
    """As it comes, default retries included."""
    async with openai.AsyncOpenAI(base_url=f"{product.url}/v1", api_key=PROVIDER_KEY, timeout=TIMEOUT_S) as client:
        yield client


@pytest.fixture
async def claude(product: Product) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=product.url, api_key=PROVIDER_KEY, timeout=TIMEOUT_S) as client:
        yield client


class Customer:
    """A customer nobody else calls for, and the tag by which the provider knows its requests."""

    def __init__(self, key: str) -> None:
        self.id = f"c-{uuid.uuid4().hex[:12]}"
        self.key = key

    def headers(self) -> dict[str, str]:
        return {"X-NullSpend-Key": self.key, "X-NullSpend-Customer": self.id, "x-request-tag": self.id}


def arguments(tokens_in: int, tokens_out: int, model: str = "gpt-4o") -> dict[str, Any]:
    """A request whose scripted reply has that usage."""
    text = _PADDING + say(**{"in": tokens_in, "out": tokens_out}, text="ok", chunks=1)
    return {"model": model, "max_tokens": _CAP, "messages": [{"role": "user", "content": text}]}


def estimate(headers: Any) -> int:
    return int(headers["x-nullspend-estimate"])


def assert_denied(error: openai.APIStatusError | anthropic.APIStatusError, customer: Customer) -> dict[str, Any]:
    """The whole denial, told once: the client made one attempt. Returns the details."""
    headers, document = error.response.headers, error.response.json()
    assert (error.status_code, headers["x-should-retry"], headers["x-nullspend-denied"]) == (429, "false", "1")
    assert error.request.headers["x-stainless-retry-count"] == "0"
    body = document["error"]
    assert (document["type"], body["type"], body["code"]) == ("error", body["code"], "customer_budget_exceeded")
    assert headers["x-nullspend-error"] == body["code"]
    assert body["decision_id"] == f"ns_dec_{headers['x-nullspend-request-id']}"
    details: dict[str, Any] = body["details"]
    assert (details["entity_type"], details["customer_id"]) == ("customer", customer.id)
    limit, spend, needed = (
        details[name]
        for name in ("budget_limit_microdollars", "budget_spend_microdollars", "estimated_cost_microdollars")
    )
    assert limit == LIMIT
    assert spend <= limit < spend + needed
    assert details["remaining_microdollars"] == limit - spend
    return details


def one_attempt_each(before: Counts, after: Counts, *, admitted: int, refused: int) -> None:
    """By the proxy's own count, over both workers."""
    assert sum(risen(before, after, "completed")) == admitted
    assert sum(risen(before, after, "customer_budget_exceeded")) == refused


async def test_of_64_callers_exactly_as_many_pass_as_holds_fit(
    product: Product, scripted: Scripted, control: Control, chat: openai.AsyncOpenAI
) -> None:
    customer = Customer(control.key)
    create = chat.chat.completions.with_raw_response.create
    probe = await create(**arguments(100, _CAP), extra_headers={**customer.headers(), "x-request-tag": "probe"})
    hold = estimate(probe.headers)
    # The usage that costs the hold: 10 microdollars for each token of output, 2.5 for each of input.
    request = arguments((hold - 10 * _CAP) * 2 // 5, _CAP)
    budget = await control.limit("customer", customer.id, LIMIT)
    before = product.counts()
    results = await asyncio.gather(
        *(create(**request, extra_headers=customer.headers()) for _ in range(CALLERS)), return_exceptions=True
    )
    admitted = [result for result in results if not isinstance(result, BaseException)]
    denied = [result for result in results if isinstance(result, openai.RateLimitError)]
    assert [estimate(reply.headers) for reply in admitted] == [hold] * (LIMIT // hold)
    assert len(denied) == CALLERS - LIMIT // hold
    for error in denied:
        assert_denied(error, customer)
    assert await control.at_rest(budget) == hold * (LIMIT // hold)
    after = product.counts()
    one_attempt_each(before, after, admitted=LIMIT // hold, refused=len(denied))
    for worker in after:
        assert sum(after[worker].values()) > sum(before[worker].values()), f"worker {worker} was asked nothing"
    assert len(scripted.served(customer.id)) == len(admitted)
    events = await control.recorded(1 + len(admitted), customerId=customer.id)
    probed = 1750  # 100 at 2.5 and 150 at 10, before there was a budget
    assert sum(event["costMicrodollars"] for event in events) == probed + hold * len(admitted)


async def test_cheap_calls_fill_a_budget_to_less_than_a_hold_and_never_beyond(
    scripted: Scripted, control: Control, chat: openai.AsyncOpenAI
) -> None:
    customer = Customer(control.key)
    budget = await control.limit("customer", customer.id, LIMIT)
    passed: list[int] = []
    seen: list[int] = []
    over = asyncio.Event()

    async def caller() -> None:
        """Calls until the budget is spent, not merely held by others."""
        while True:
            try:
                reply = await chat.chat.completions.with_raw_response.create(
                    **arguments(100, 20), extra_headers=customer.headers()
                )
            except openai.RateLimitError as error:
                if not assert_denied(error, customer)["in_flight"]:
                    return
                await asyncio.sleep(0.05)
                continue
            passed.append(estimate(reply.headers))

    async def watcher() -> None:
        while not over.is_set():
            row = await control.budget(budget)
            seen.append(row["spendMicrodollars"] + row["reservedMicrodollars"])
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watcher())
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    over.set()
    await watching
    spent = await control.at_rest(budget)
    assert spent == 450 * len(passed)  # 100 at 2.5 and 20 at 10
    assert LIMIT - max(passed) < spent <= LIMIT
    assert seen
    assert max(seen) <= LIMIT
    assert len(scripted.served(customer.id)) == len(passed)


async def test_anthropic_callers_meet_the_same_ceiling(
    product: Product, scripted: Scripted, control: Control, claude: anthropic.AsyncAnthropic
) -> None:
    customer = Customer(control.key)
    create = claude.messages.with_raw_response.create
    model = "claude-sonnet-4-6"
    probe = await create(**arguments(100, _CAP, model), extra_headers={**customer.headers(), "x-request-tag": "probe"})
    hold = estimate(probe.headers)
    request = arguments((hold - 15 * _CAP) // 3, _CAP, model)
    budget = await control.limit("customer", customer.id, LIMIT)
    before = product.counts()
    results = await asyncio.gather(
        *(create(**request, extra_headers=customer.headers()) for _ in range(CALLERS)), return_exceptions=True
    )
    denied = [result for result in results if isinstance(result, anthropic.RateLimitError)]
    admitted = [result for result in results if not isinstance(result, BaseException)]
    assert (len(admitted), len(denied)) == (LIMIT // hold, CALLERS - LIMIT // hold)
    for error in denied:
        assert_denied(error, customer)
    assert await control.at_rest(budget) == hold * (LIMIT // hold)
    one_attempt_each(before, product.counts(), admitted=len(admitted), refused=len(denied))
    assert len(scripted.served(customer.id)) == len(admitted)


async def test_google_s_client_raises_its_own_error_after_one_attempt(
    product: Product, scripted: Scripted, control: Control
) -> None:
    customer = Customer(control.key)
    await control.limit("customer", customer.id, 1)
    before = product.counts()
    options = genai_options(at_root(product.url), customer.headers())
    with (
        genai.Client(api_key=PROVIDER_KEY, http_options=options) as gemini,
        pytest.raises(genai_errors.ClientError) as raised,
    ):
        gemini.models.generate_content(model="gemini-2.5-pro", contents=say(**{"in": 1, "out": 1}))
    assert (raised.value.code, raised.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert "customer_budget_exceeded" in str(raised.value)
    one_attempt_each(before, product.counts(), admitted=0, refused=1)
    assert scripted.served(customer.id) == []


async def call_often(product: Product, customer: Customer, times: int = 16) -> set[tuple[int, str | None]]:
    """The distinct answers (status, our code) over as many connections: every worker is among those asked."""
    text = say(**{"in": 10, "out": 10}, text="ok", chunks=1)
    body = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": text}]}
    headers = customer.headers()
    before = product.counts()
    answers = set()
    none_kept = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, limits=none_kept) as client:
        for _ in range(times):
            reply = await client.post(f"{product.url}/v1/chat/completions", json=body, headers=headers)
            answers.add((reply.status_code, reply.headers.get("x-nullspend-error")))
    after = product.counts()
    assert all(sum(after[worker].values()) > sum(before[worker].values()) for worker in after)
    return answers


async def test_a_changed_limit_holds_for_the_next_call_on_every_worker(product: Product, control: Control) -> None:
    customer = Customer(control.key)
    refused, passed = {(429, "customer_budget_exceeded")}, {(200, None)}
    budget = await control.limit("customer", customer.id, 1)
    assert await call_often(product, customer) == refused
    await control.call("PATCH", f"/api/budgets/{budget}", {"maxBudgetMicrodollars": LIMIT})
    assert await call_often(product, customer) == passed
    assert await control.limit("customer", customer.id, 2) == budget
    assert await call_often(product, customer) == refused
    await control.limit("customer", customer.id, LIMIT)
    assert await call_often(product, customer) == passed
    await control.limit("customer", customer.id, 1)
    await control.call("DELETE", f"/api/budgets/{budget}")
    assert await call_often(product, customer) == passed


async def test_a_revoked_key_is_refused_by_every_worker(product: Product, scripted: Scripted, control: Control) -> None:
    minted = await control.call("POST", "/api/keys", {"name": "short-lived", "scopes": ["proxy"]})
    customer = Customer(minted["rawKey"])
    assert await call_often(product, customer) == {(200, None)}
    await control.call("DELETE", f"/api/keys/{minted['id']}")
    assert await call_often(product, customer) == {(401, "unauthorized")}
    assert len(scripted.served(customer.id)) == 16
