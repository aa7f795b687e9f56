"""Budgets: a limit on the spend of one entity in a window. Defined here, enforced by the ledger."""
