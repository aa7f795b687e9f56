"""API keys: minted, narrowed and revoked here, and published as grants."""
