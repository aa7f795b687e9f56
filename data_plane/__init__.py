"""The proxy: it holds money before a call leaves, streams the reply through and charges what was used."""
