"""How NullSpend is run: the embedded stack for one machine."""
