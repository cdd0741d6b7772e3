# SPDX-License-Identifier: GPL-3.0-or-later
"""One-off containers by docker-py: prints the seconds of each as one line of JSON.

Usage: one_off.py IMAGE COUNT
"""

import json
import sys
import time

import docker


def main():
    image, count = sys.argv[1], int(sys.argv[2])
    client = docker.from_env(timeout=60)
    times = []
    for _ in range(count):
        start = time.monotonic()
        output = client.containers.run(
            image, ["echo", "done"], network_mode="none", remove=True
        )
        times.append(time.monotonic() - start)
        assert output == b"done\n", output
    client.close()
    print(json.dumps({"seconds": times}))


main()
