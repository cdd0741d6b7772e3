# SPDX-License-Identifier: GPL-3.0-or-later
"""One job by the original alpy: prints the seconds of each phase as one line of JSON.

Usage: original.py JOB

JOB is an object: "links", "busybox" and "iproute2" (images), "qemu" (arguments of the machine), "script" (what configures
it), "port" (of the console), "prefix" (of the taps' names).

Runs in the current folder, where QEMU leaves its captures and logs.
"""

import json
import signal
import sys
import time
from pathlib import Path

import alpy.console
import alpy.container
import alpy.node
import alpy.qemu
import alpy.remote_shell
import alpy.run
import alpy.utils
import docker

TIMEOUT = 60
PROMPT = "rabbit# "


def main():
    # Its context managers tidy up on the way out; without this a signal ends it at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    job = json.loads(sys.argv[1])
    links = job["links"]
    Path("configure").write_text(job["script"], encoding="ascii")
    # Steps go to a file alone, as those of the other side do.
    alpy.utils.configure_logging(stderr_level=50)
    marks = [time.monotonic()]

    def mark():
        marks.append(time.monotonic())

    client = docker.from_env(timeout=TIMEOUT)
    taps = [f"{job['prefix']}{index}" for index in range(links)]
    # As make_skeleton does, but for the names, which nobody else has.
    nodes = [
        alpy.node.make_node(
            busybox_image=job["busybox"],
            docker_client=client,
            interface_name=tap,
            iproute2_image=job["iproute2"],
            name=f"{tap}-node",
            timeout=TIMEOUT,
        )
        for tap in taps
    ]
    skeleton = alpy.node.Skeleton(nodes)
    arguments = (
        job["qemu"]
        + ["-S"]
        + alpy.qemu.get_qmp_args()
        + network_interfaces(taps)
        + alpy.qemu.get_serial_port_args(tcp_port=job["port"])
    )
    with alpy.run.qemu_with_skeleton(
        qemu_args=arguments, skeleton=skeleton, timeout=TIMEOUT
    ) as qmp:
        for index, tap in enumerate(taps):
            alpy.container.configure_interface(
                f"{tap}-node",
                f"10.0.{index}.1/24",
                f"10.0.{index}.2",
                docker_client=client,
                image=job["busybox"],
                timeout=TIMEOUT,
            )
        with alpy.console.connect(port=job["port"], timeout=TIMEOUT) as console:
            mark()
            alpy.qemu.start_virtual_cpu(qmp)
            console.expect_exact("rabbit login: ")
            mark()
            console.sendline("root")
            console.expect_exact(PROMPT)
            # The next step waits for a prompt of its own.
            console.sendline("")
            mark()
            alpy.remote_shell.upload_and_execute_script(
                console, PROMPT, "configure", TIMEOUT
            )
            mark()
            ping(client, job["busybox"], f"{taps[0]}-node")
            mark()
            console.expect_exact(PROMPT)
            console.sendline("poweroff")
            alpy.qemu.wait_shutdown(qmp)
            mark()
    mark()
    client.close()
    names = ["set-up", "boot", "login", "configure", "ping", "power-off", "teardown"]
    phases = {
        name: later - earlier
        for name, earlier, later in zip(names, marks, marks[1:])
    }
    print(json.dumps(phases))


def network_interfaces(taps):
    """What the original says, but for the model of the NICs: rabbit has a driver for virtio alone."""
    words = {"e1000,": "virtio-net-pci,romfile=,", "id=id_net": "vnet_hdr=off,id=id_net"}
    arguments = alpy.qemu.get_network_interfaces_args(taps)
    for word, other in words.items():
        arguments = [argument.replace(word, other) for argument in arguments]
    return arguments


def ping(client, image, node):
    container = client.containers.create(
        image,
        ["ping", "-c", "1", "-W", "5", "10.0.1.1"],
        network_mode=f"container:{node}",
        cap_add=["NET_RAW"],
    )
    try:
        container.start()
        alpy.container.close(container, TIMEOUT)
    finally:
        container.remove()


main()
