"""Decisions about a call, as functions of values: may it, what does it hold, what does it cost. Pure."""
