"""The vocabulary both planes speak: money, ids, grants, budgets, prices, events and the ledger. It imports neither."""
