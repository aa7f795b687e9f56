"""Recorded spend: the event stream read into rows, rollups and windows, and the reads of them."""
