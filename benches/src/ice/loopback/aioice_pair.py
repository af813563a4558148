"""Two aioice agents in one process, for `thirl-bench ice`. It speaks as `libnice_pair.c` does.

aioice sends data over a nominated pair only, and `connect` returns later: what counts is when it has that pair.
"""

import asyncio
import sys
import time

import aioice
from aioice import ice

ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


class Noting(dict):
    """Notes when something was first put into it."""

    at = None

    def __setitem__(self, key, value):
        self.at = self.at or time.monotonic()
        super().__setitem__(key, value)


async def main():
    sides = [aioice.Connection(ice_controlling=controlling, components=1) for controlling in (True, False)]
    for side in sides:
        side._nominated = Noting()
        await side.gather_candidates()
        print(side.local_candidates[0].port, flush=True)

    told = ([], [])
    for line in sys.stdin:
        if line.startswith("go"):
            break
        told[int(line[0])].append(aioice.Candidate.from_sdp(line[2:].strip().removeprefix("candidate:")))

    start = time.monotonic()
    for side, other, candidates in zip(sides, reversed(sides), told):
        side.remote_username, side.remote_password = other.local_username, other.local_password
        for candidate in candidates:
            await side.add_remote_candidate(candidate)
        await side.add_remote_candidate(None)
    connecting = [asyncio.create_task(side.connect()) for side in sides]
    while time.monotonic() < start + 20 and not all(side._nominated.at for side in sides):
        await asyncio.sleep(0.01)

    for n, side in enumerate(sides):
        after = int((side._nominated.at - start) * 1e6) if side._nominated.at else -1
        print(n, "works", after)
        print(n, "nominated", after)
    for task in connecting:
        task.cancel()


asyncio.run(main())
