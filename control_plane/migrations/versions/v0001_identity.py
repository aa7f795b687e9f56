"""Organisations, users, service accounts, keys and budgets; the outbox, idempotency and price versions."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ORGANISATIONS = """
CREATE TABLE users (
    id uuid NOT NULL CONSTRAINT pk_users PRIMARY KEY,
    email text NOT NULL,
    name text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX uq_users_email ON users (lower(email));

CREATE TABLE organizations (
    id uuid NOT NULL CONSTRAINT pk_organizations PRIMARY KEY,
    name text NOT NULL,
    slug text NOT NULL CONSTRAINT uq_organizations_slug UNIQUE,
    timezone text NOT NULL DEFAULT 'UTC',
    created_by uuid NOT NULL CONSTRAINT fk_organizations_created_by REFERENCES users (id),
    policy_version bigint NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE org_memberships (
    org_id uuid NOT NULL CONSTRAINT fk_org_memberships_org_id REFERENCES organizations (id),
    user_id uuid NOT NULL CONSTRAINT fk_org_memberships_user_id REFERENCES users (id),
    role text NOT NULL CONSTRAINT ck_org_memberships_role CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_org_memberships PRIMARY KEY (org_id, user_id)
);
CREATE INDEX ix_org_memberships_user_id ON org_memberships (user_id);
CREATE UNIQUE INDEX uq_org_memberships_owner ON org_memberships (org_id) WHERE role = 'owner';

CREATE TABLE service_accounts (
    id uuid NOT NULL CONSTRAINT pk_service_accounts PRIMARY KEY,
    org_id uuid NOT NULL CONSTRAINT fk_service_accounts_org_id REFERENCES organizations (id),
    name text NOT NULL,
    role text NOT NULL DEFAULT 'member'
        CONSTRAINT ck_service_accounts_role CHECK (role IN ('viewer', 'member', 'admin')),
    disabled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_service_accounts_org_id_name UNIQUE (org_id, name),
    CONSTRAINT uq_service_accounts_org_id_id UNIQUE (org_id, id)
);
"""
_KEYS = """
CREATE TABLE api_keys (
    id uuid NOT NULL CONSTRAINT pk_api_keys PRIMARY KEY,
    org_id uuid NOT NULL CONSTRAINT fk_api_keys_org_id REFERENCES organizations (id),
    owner_user_id uuid CONSTRAINT fk_api_keys_owner_user_id REFERENCES users (id),
    service_account_id uuid,
    name text NOT NULL,
    key_hash bytea NOT NULL CONSTRAINT uq_api_keys_key_hash UNIQUE,
    key_prefix text NOT NULL,
    scopes text[] NOT NULL,
    default_tags jsonb NOT NULL DEFAULT '{}',
    allowed_models text[],
    allowed_providers text[],
    customer_id text,
    expires_at timestamptz,
    revoked_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_api_keys_org_id_id UNIQUE (org_id, id),
    CONSTRAINT ck_api_keys_one_owner CHECK (num_nonnulls(owner_user_id, service_account_id) = 1),
    CONSTRAINT fk_api_keys_org_id_service_account_id FOREIGN KEY (org_id, service_account_id)
        REFERENCES service_accounts (org_id, id)
);
CREATE INDEX ix_api_keys_live ON api_keys (org_id, created_at, id) WHERE revoked_at IS NULL;
"""
_BUDGETS = """
CREATE TABLE budgets (
    id uuid NOT NULL CONSTRAINT pk_budgets PRIMARY KEY,
    org_id uuid NOT NULL CONSTRAINT fk_budgets_org_id REFERENCES organizations (id),
    entity_type text NOT NULL
        CONSTRAINT ck_budgets_entity_type CHECK (entity_type IN ('org', 'api_key', 'customer', 'tag')),
    entity_id text NOT NULL,
    slot text NOT NULL DEFAULT 'default',
    limit_microdollars bigint NOT NULL
        CONSTRAINT ck_budgets_limit CHECK (limit_microdollars BETWEEN 0 AND 9007199254740991),
    policy text NOT NULL DEFAULT 'strict_block' CONSTRAINT ck_budgets_policy CHECK (policy = 'strict_block'),
    period text NOT NULL DEFAULT 'none' CONSTRAINT ck_budgets_period
        CHECK (period IN ('none', 'hour', 'day', 'week', 'month', 'quarter', 'year')),
    alignment text NOT NULL DEFAULT 'calendar'
        CONSTRAINT ck_budgets_alignment CHECK (alignment IN ('calendar', 'anniversary')),
    timezone text NOT NULL DEFAULT 'UTC',
    anchor_at timestamptz,
    reset_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    archived_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_budgets_org_id_id UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX uq_budgets_live_entity ON budgets (org_id, entity_type, entity_id, slot) WHERE archived_at IS NULL;
CREATE INDEX ix_budgets_page ON budgets (org_id, created_at, id);
"""
_KERNEL = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_outbox PRIMARY KEY,
    org_id uuid NOT NULL CONSTRAINT fk_outbox_org_id REFERENCES organizations (id),
    topic text NOT NULL,
    subject_id uuid NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_outbox_pending ON outbox (next_at) WHERE done_at IS NULL;
CREATE INDEX ix_outbox_subject ON outbox (org_id, subject_id, id);

CREATE TABLE idempotency_keys (
    org_id uuid NOT NULL CONSTRAINT fk_idempotency_keys_org_id REFERENCES organizations (id),
    route text NOT NULL,
    key_hash bytea NOT NULL,
    principal_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    status integer NOT NULL,
    response jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (org_id, route, key_hash)
);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);

CREATE TABLE price_versions (
    version text NOT NULL CONSTRAINT pk_price_versions PRIMARY KEY,
    source text NOT NULL,
    digest text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now()
);
"""
_TABLES = (
    "price_versions",
    "idempotency_keys",
    "outbox",
    "budgets",
    "api_keys",
    "service_accounts",
    "org_memberships",
    "organizations",
    "users",
)


def upgrade() -> None:
    for script in (_ORGANISATIONS, _KEYS, _BUDGETS, _KERNEL):
        for statement in filter(str.strip, script.split(";")):
            op.execute(statement)


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP TABLE {table}")
