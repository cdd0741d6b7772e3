# SPDX-License-Identifier: GPL-3.0-or-later
"""What pexpect takes on a console that is standard input: prints one line of JSON on standard output.

Usage: pexpect_console.py flood MARKER FOLDER tuned|default
       pexpect_console.py turns COUNT
"""

import json
import resource
import socket
import statistics
import sys
import time

import pexpect.fdpexpect


def main():
    far = socket.socket(fileno=0)
    what = sys.argv[1]
    if what == "flood":
        marker, folder, kind = sys.argv[2:5]
        print(json.dumps(flood(far, marker, folder, kind)), flush=True)
    else:
        print(json.dumps(turns(far, int(sys.argv[2]))), flush=True)
    far.detach()


def flood(far, marker, folder, kind):
    settings = {"maxread": 65536} if kind == "tuned" else {}
    console = pexpect.fdpexpect.fdspawn(far, timeout=120, **settings)
    with open(f"{folder}/pexpect.log", "wb") as log:
        console.logfile_read = log
        far.sendall(b"g")
        start = time.monotonic()
        console.expect_exact(marker)
        seconds = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line for line in status if line.startswith("VmHWM:"))
    return {
        "seconds": seconds,
        "peak_kib": int(peak.split()[1]),
        "cpu": usage.ru_utime + usage.ru_stime,
    }


def turns(far, count):
    console = pexpect.fdpexpect.fdspawn(far, timeout=20)
    times = []
    for _ in range(count):
        start = time.monotonic()
        console.sendline("x")
        console.expect_exact("rabbit# ")
        times.append(time.monotonic() - start)
    return {"turn": statistics.median(times)}


main()
