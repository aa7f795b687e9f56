"""Prices as integers: what a call may cost at most, and what it did cost. Pure; the table comes in as bytes."""
