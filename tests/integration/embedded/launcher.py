"""A launcher in a process of its own, for tests that kill it or run it as someone else: one JSON line a command."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.embedded import EmbeddedStack, Options, StackError


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def describe(stack: EmbeddedStack) -> dict[str, Any]:
    return {
        "database_url": stack.database_url,
        "redis_url": stack.redis_url,
        "servers": {name: asdict(status) for name, status in stack.status().items()},
    }


def fork(stack: EmbeddedStack) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        stack.stop()
        time.sleep(600)
        os._exit(0)
    return {"child": child}


def main() -> None:
    data_dir, umask, options = sys.argv[1:]
    values = json.loads(options)
    if "state_dir" in values:
        values["state_dir"] = Path(values["state_dir"])
    os.umask(int(umask))
    stack = EmbeddedStack(Path(data_dir), options=Options(**values))
    try:
        stack.start()
    except StackError as error:
        say({"error": str(error)})
        return
    say(describe(stack))
    for line in sys.stdin:
        if line.strip() == "fork":
            say(fork(stack))
        else:
            break
    stack.stop()
    say({"stopped": True})


if __name__ == "__main__":
    main()
