"""The `nullspend` command: run the product on one machine and look after it."""
