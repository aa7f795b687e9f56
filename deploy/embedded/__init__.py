"""The one-command local stack: real PostgreSQL and real Valkey, started, watched and stopped by us.

It owns the two server processes and their directories; it knows nothing of schemas, keys or HTTP.
"""

import sys

from deploy.embedded.options import Options
from deploy.embedded.status import ServerStatus, StackError

if sys.platform == "win32":
    from deploy.embedded.unsupported import EmbeddedStack
else:
    from deploy.embedded.stack import EmbeddedStack

__all__ = ["EmbeddedStack", "Options", "ServerStatus", "StackError"]
