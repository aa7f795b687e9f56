"""What Windows gets instead of the stack: the same name, and a sentence that says what to do."""

from pathlib import Path

from deploy.embedded.status import StackError


class EmbeddedStack:
    def __init__(self, data_dir: Path, **_options: object) -> None:
        raise StackError(
            f"the embedded servers do not run on Windows (data directory {data_dir}): "
            "use WSL, or set NULLSPEND_DATABASE_URL and NULLSPEND_REDIS_URL to servers you run yourself"
        )
