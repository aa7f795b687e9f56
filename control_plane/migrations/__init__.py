"""The database's history, from nothing to the tables of this version; run by `alembic upgrade head` or by `upgrade`."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration(database_url: str) -> Config:
    """Alembic's configuration without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database_url"] = database_url
    return config


async def upgrade(database_url: str, revision: str = "head") -> None:
    """Brings a database to this version's tables. Safe to call again, and from several processes at once."""
    await asyncio.to_thread(command.upgrade, configuration(database_url), revision)


async def downgrade(database_url: str, revision: str) -> None:
    await asyncio.to_thread(command.downgrade, configuration(database_url), revision)
