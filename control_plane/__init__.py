"""The durable facts: organisations, keys, budgets, prices and recorded spend. Never on a provider call."""
