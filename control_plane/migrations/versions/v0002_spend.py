"""Recorded spend: events by month, their keys and revisions, hourly rollups, budget windows and parked entries."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_EVENTS = """
CREATE TABLE cost_events (
    org_id uuid NOT NULL CONSTRAINT fk_cost_events_org_id REFERENCES organizations (id),
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    booked_at timestamptz NOT NULL,
    rank smallint NOT NULL,
    revision integer NOT NULL,
    event_type text NOT NULL,
    surface text NOT NULL,
    source text NOT NULL,
    trust text NOT NULL,
    api_key_id uuid NOT NULL,
    customer_id text,
    session_id text,
    trace_id text,
    action_id text,
    idempotency_key text,
    provider_request_id text,
    provider text NOT NULL,
    upstream_host text NOT NULL,
    model text NOT NULL,
    response_model text,
    tags jsonb NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    usage jsonb NOT NULL,
    cost_microdollars bigint NOT NULL
        CONSTRAINT ck_cost_events_cost CHECK (cost_microdollars BETWEEN 0 AND 1000000000000),
    original_cost_microdollars bigint NOT NULL,
    estimated_cost_microdollars bigint NOT NULL,
    cost_input bigint,
    cost_output bigint,
    cost_cached bigint,
    cost_tools bigint,
    cost_reasoning bigint,
    cost_source text NOT NULL,
    priced text NOT NULL,
    price_ref text,
    price_context text NOT NULL,
    outcome text NOT NULL,
    http_status integer,
    streaming boolean NOT NULL,
    stop_reason text,
    tool_calls jsonb NOT NULL,
    budget_status text NOT NULL,
    duration_ms bigint NOT NULL,
    upstream_duration_ms bigint,
    ttfb_ms bigint,
    overhead_us bigint,
    windows text[] NOT NULL,
    flags text[] NOT NULL,
    CONSTRAINT pk_cost_events PRIMARY KEY (org_id, event_id, occurred_at),
    CONSTRAINT ck_cost_events_tokens CHECK (
        input_tokens >= 0 AND output_tokens >= 0 AND cached_input_tokens >= 0 AND reasoning_tokens >= 0),
    CONSTRAINT fk_cost_events_org_id_api_key_id FOREIGN KEY (org_id, api_key_id) REFERENCES api_keys (org_id, id)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX ix_cost_events_page ON cost_events (org_id, occurred_at DESC, event_id DESC);
CREATE INDEX ix_cost_events_key ON cost_events (org_id, api_key_id, occurred_at DESC, event_id DESC);
CREATE INDEX ix_cost_events_customer ON cost_events (org_id, customer_id, occurred_at DESC, event_id DESC)
    WHERE customer_id IS NOT NULL;
CREATE INDEX ix_cost_events_session ON cost_events (org_id, session_id, occurred_at DESC) WHERE session_id IS NOT NULL;
CREATE INDEX ix_cost_events_trace ON cost_events (org_id, trace_id, occurred_at DESC) WHERE trace_id IS NOT NULL;
CREATE INDEX ix_cost_events_tags ON cost_events USING gin (tags jsonb_path_ops);
CREATE TABLE cost_events_default PARTITION OF cost_events DEFAULT;
"""
_KEYS = """
CREATE TABLE cost_event_keys (
    org_id uuid NOT NULL CONSTRAINT fk_cost_event_keys_org_id REFERENCES organizations (id),
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    rank smallint NOT NULL,
    CONSTRAINT pk_cost_event_keys PRIMARY KEY (org_id, event_id)
);

CREATE TABLE cost_event_revisions (
    org_id uuid NOT NULL,
    event_id uuid NOT NULL,
    revision integer NOT NULL,
    rank smallint NOT NULL,
    cost_microdollars bigint NOT NULL,
    delta_microdollars bigint NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_cost_event_revisions PRIMARY KEY (org_id, event_id, revision),
    CONSTRAINT fk_cost_event_revisions_org_id_event_id FOREIGN KEY (org_id, event_id)
        REFERENCES cost_event_keys (org_id, event_id)
);
"""
_SUMS = """
CREATE TABLE rollup_hourly (
    org_id uuid NOT NULL CONSTRAINT fk_rollup_hourly_org_id REFERENCES organizations (id),
    hour timestamptz NOT NULL,
    dims_key bytea NOT NULL,
    api_key_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    source text NOT NULL,
    trust text NOT NULL,
    event_type text NOT NULL,
    customer_id text,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    unpriced bigint NOT NULL,
    cost_microdollars bigint NOT NULL,
    bound_cost_microdollars bigint NOT NULL,
    cost_input bigint NOT NULL,
    cost_output bigint NOT NULL,
    cost_cached bigint NOT NULL,
    cost_tools bigint NOT NULL,
    cost_reasoning bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    duration_sum_ms bigint NOT NULL,
    CONSTRAINT pk_rollup_hourly PRIMARY KEY (org_id, hour, dims_key)
);
CREATE INDEX ix_rollup_hourly_customer ON rollup_hourly (org_id, customer_id, hour);

CREATE TABLE budget_windows (
    org_id uuid NOT NULL,
    budget_id uuid NOT NULL,
    scope_value text NOT NULL,
    window_start_ms bigint NOT NULL,
    window_end_ms bigint NOT NULL,
    settled_microdollars bigint NOT NULL,
    calls bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_budget_windows PRIMARY KEY (org_id, budget_id, scope_value, window_start_ms),
    CONSTRAINT fk_budget_windows_org_id_budget_id FOREIGN KEY (org_id, budget_id) REFERENCES budgets (org_id, id)
);
CREATE INDEX ix_budget_windows_end ON budget_windows (window_end_ms);

CREATE TABLE ingest_parked (
    stream text NOT NULL,
    entry_id text NOT NULL,
    fields bytea[] NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_ingest_parked PRIMARY KEY (stream, entry_id)
);
"""
_PARTITIONS = """
CREATE FUNCTION ensure_cost_event_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
-- Makes the monthly partitions from this month on. Rows that fell into the default partition meanwhile are moved.
DECLARE
    first timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    low timestamptz;
    high timestamptz;
    part text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_cost_event_partitions'));
    FOR n IN 0..months_ahead LOOP
        low := (first AT TIME ZONE 'UTC' + make_interval(months => n)) AT TIME ZONE 'UTC';
        high := (first AT TIME ZONE 'UTC' + make_interval(months => n + 1)) AT TIME ZONE 'UTC';
        part := 'cost_events_' || to_char(low AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE cost_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
        EXECUTE format('WITH moved AS (DELETE FROM cost_events_default WHERE occurred_at >= %L AND occurred_at < %L '
            'RETURNING *) INSERT INTO %I SELECT * FROM moved', low, high, part);
        EXECUTE format('ALTER TABLE cost_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$
"""
_TABLES = (
    "ingest_parked",
    "budget_windows",
    "rollup_hourly",
    "cost_event_revisions",
    "cost_event_keys",
    "cost_events",
)


def upgrade() -> None:
    for script in (_EVENTS, _KEYS, _SUMS):
        for statement in filter(str.strip, script.split(";")):
            op.execute(statement)
    op.execute(_PARTITIONS)
    op.execute("SELECT ensure_cost_event_partitions(3)")


def downgrade() -> None:
    op.execute("DROP FUNCTION ensure_cost_event_partitions")
    for table in _TABLES:
        op.execute(f"DROP TABLE {table}")
