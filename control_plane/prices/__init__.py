"""Where prices come from: the price package and our overlay, compiled to one integer table that both planes read."""
