# SPDX-License-Identifier: GPL-3.0-or-later
"""Round trips of qemu.qmp: prints how many, in how many seconds, and the processor's seconds as one line of JSON.

Usage: qemu_qmp.py SOCKET IN_FLIGHT SECONDS
"""

import asyncio
import json
import sys
import time

from qemu.qmp import QMPClient


async def main():
    path, in_flight, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    client = QMPClient("bench")
    await client.connect(path)
    await client.execute("query-status")
    count = 0
    start, processor = time.monotonic(), time.process_time()
    until = start + seconds

    async def work():
        nonlocal count
        while time.monotonic() < until:
            await client.execute("query-status")
            count += 1

    await asyncio.gather(*(work() for _ in range(in_flight)))
    elapsed, used = time.monotonic() - start, time.process_time() - processor
    await client.disconnect()
    print(json.dumps({"count": count, "seconds": elapsed, "cpu": used}))


asyncio.run(main())
