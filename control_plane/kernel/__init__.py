"""What every slice stands on: the database, Redis, HTTP conventions, callers, the outbox and idempotency."""
