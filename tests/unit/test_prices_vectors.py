"""The golden vectors, through the compiled table and through the price package itself."""

import json
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.prices.bound import bound
from shared.prices.cost import Cost, cost
from shared.prices.usage import PriceContext, Usage, UsagePart
from tests.support.package_prices import milliseconds, moment, package_microdollars, table

VECTORS = Path(__file__).parents[2] / "clients" / "contract" / "vectors"


def vectors(name: str) -> list[Any]:
    return [
        pytest.param(vector, id=vector["id"]) for vector in map(json.loads, (VECTORS / name).read_text().splitlines())
    ]


def parts_of(vector: dict[str, Any]) -> list[UsagePart]:
    return [UsagePart(Usage(**part["usage"]), part.get("model")) for part in vector["parts"]]


def cost_of(vector: dict[str, Any]) -> Cost | None:
    at_ms = milliseconds(moment(vector["at"]))
    price = table().find(vector["provider"], vector["model"], at_ms)
    if price is None:
        return None
    return cost(
        parts_of(vector),
        price,
        PriceContext(**vector["context"]),
        table=table(),
        provider=vector["provider"],
        at_ms=at_ms,
    )


@pytest.mark.parametrize("vector", vectors("cost.jsonl"))
def test_a_golden_call_costs_what_the_table_says(vector: dict[str, Any]) -> None:
    actual = cost_of(vector)

    if vector["expected"] is None:
        assert actual is None
        return
    assert actual is not None
    assert {name: getattr(actual, name) for name in vector["expected"]} == vector["expected"]
    assert actual.input + actual.output + actual.cached + actual.tools == actual.total


@pytest.mark.parametrize("vector", [each for each in vectors("cost.jsonl") if each.values[0]["package"]])
def test_a_golden_call_costs_the_same_in_the_package(vector: dict[str, Any]) -> None:
    def exact_cost() -> Decimal:
        return package_microdollars(
            vector["provider"],
            vector["model"],
            at=moment(vector["at"]),
            parts=parts_of(vector),
            context=PriceContext(**vector["context"]),
        )

    if vector["expected"] is None:
        with pytest.raises(LookupError):
            exact_cost()
        return
    exact = exact_cost()
    assert int(exact.to_integral_value(ROUND_HALF_UP)) == vector["expected"]["total"]


@pytest.mark.parametrize("vector", vectors("bound.jsonl"))
def test_a_golden_request_is_bounded_as_the_table_says(vector: dict[str, Any]) -> None:
    price = table().find(vector["provider"], vector["model"], milliseconds(moment(vector["at"])))
    assert price is not None
    request = vector["request"]
    if request["bytes"] is not None:
        assert vector["input_tokens"] == -(-request["bytes"] // 2)
    cap = price.output_tokens_max if request["output_cap"] is None else request["output_cap"]
    assert cap is not None
    assert vector["output_tokens"] == cap * request["n"]

    assert (
        bound(
            price,
            input_tokens=vector["input_tokens"],
            output_tokens=vector["output_tokens"],
            cache=vector["cache"],
            context=PriceContext(**vector["context"]),
            fees=vector["fees"],
            audio=vector["audio"],
            image=vector["image"],
        )
        == vector["expected"]
    )
