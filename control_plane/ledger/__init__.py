"""The control plane's side of the ledger: publish limits and grants, rebuild, sweep, reconcile and audit."""
