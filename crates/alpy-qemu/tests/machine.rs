// SPDX-License-Identifier: GPL-3.0-or-later
//! Command lines as text; nothing is started.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use alpy_qemu::{Accelerator, Backend, Disk, DiskModel, Firmware, Machine, Nic, NicModel, nic_arguments};

fn text(machine: &Machine, nics: &[Nic]) -> Vec<String> {
    machine
        .arguments(&Accelerator::tcg(), nics)
        .into_iter()
        .map(|argument| argument.into_string().unwrap())
        .collect()
}

/// The values of an option, in order.
fn values(arguments: &[String], option: &str) -> Vec<String> {
    arguments
        .windows(2)
        .filter(|pair| pair[0] == option)
        .map(|pair| pair[1].clone())
        .collect()
}

#[test]
fn has_nothing_that_nobody_asked_for() {
    let expected = "-no-user-config -nodefaults -display none -no-shutdown -machine pc -accel tcg -cpu max -smp 1 -m 512M \
                    -device virtio-rng-pci -device vmgenid,guid=auto";
    assert_eq!(text(&Machine::new(), &[]).join(" "), expected);
}

#[test]
fn boots_a_kernel() {
    let machine = Machine::new()
        .machine_type("q35")
        .cpu_model("qemu64")
        .cpus(2)
        .memory_mib(128)
        .kernel("boot/vmlinuz")
        .initrd("boot/initrd,1")
        .append("console=ttyS0 quiet a,b");
    let arguments = text(&machine, &[]);
    for (option, value) in [
        ("-machine", "q35"),
        ("-cpu", "qemu64"),
        ("-smp", "2"),
        ("-m", "128M"),
        ("-kernel", "boot/vmlinuz"),
        ("-initrd", "boot/initrd,1"),
        ("-append", "console=ttyS0 quiet a,b"),
    ] {
        assert_eq!(values(&arguments, option), [value]);
    }
}

#[test]
fn never_resets_into_an_exit() {
    // SHUTDOWN and STOP come, and QEMU stays, only with -no-shutdown and without -no-reboot.
    let arguments = text(&Machine::new(), &[]);
    assert!(arguments.contains(&"-no-shutdown".to_owned()));
    assert!(!arguments.contains(&"-no-reboot".to_owned()));
}

#[test]
fn protects_the_disk_unless_a_word_says_otherwise() {
    let machine = Machine::new()
        .disk(Disk::new("/images/a,b.qcow2"))
        .disk(
            Disk::new("/images/c.img")
                .format("raw")
                .model(DiskModel::Ide)
                .persistent(),
        )
        .cdrom("x:y.iso");
    let arguments = text(&machine, &[]);
    assert_eq!(
        values(&arguments, "-drive"),
        [
            "id=disk0,if=none,file=/images/a,,b.qcow2,snapshot=on",
            "id=disk1,if=none,file=/images/c.img,format=raw",
            "id=cdrom0,if=none,media=cdrom,readonly=on,file=./x:y.iso",
        ]
    );
    assert_eq!(
        values(&arguments, "-device")[..3],
        [
            "virtio-blk-pci,drive=disk0,bootindex=1",
            "ide-hd,drive=disk1,bus=ide.0,unit=0,bootindex=2",
            "ide-cd,drive=cdrom0,bus=ide.0,unit=1,bootindex=3"
        ]
    );
}

#[test]
fn gives_uefi_a_copy_of_its_variables() {
    let firmware = Firmware::Uefi {
        code: "/fw/code.fd".into(),
        variables: "/fw/vars.fd".into(),
    };
    assert_eq!(
        values(&text(&Machine::new().firmware(firmware), &[]), "-drive"),
        [
            "if=pflash,unit=0,format=raw,file=/fw/code.fd,readonly=on",
            "if=pflash,unit=1,format=raw,file=/fw/vars.fd,snapshot=on",
        ]
    );
}

#[test]
fn secure_boot_has_its_variables_behind_smm() {
    let machine = Machine::new().machine_type("q35").firmware(Firmware::SecureBoot {
        code: "/fw/code.fd".into(),
        variables: "/fw/vars.fd".into(),
    });
    let arguments = text(&machine, &[]);
    assert_eq!(values(&arguments, "-machine"), ["q35,smm=on"]);
    assert_eq!(
        values(&arguments, "-global"),
        ["driver=cfi.pflash01,property=secure,value=on"]
    );
    assert_eq!(
        values(&arguments, "-drive"),
        [
            "if=pflash,unit=0,format=raw,file=/fw/code.fd,readonly=on",
            "if=pflash,unit=1,format=raw,file=/fw/vars.fd,snapshot=on",
        ]
    );
}

#[test]
fn wires_a_tap_by_name_without_header_script_or_vhost() {
    let nics = [
        Nic::new(Backend::named_tap("tap0")).capture("out,1/link0.pcap"),
        Nic::new(Backend::named_tap("tap1")).mac([0x52, 0x54, 0, 0xa, 0xb, 0xff]),
    ];
    let arguments = text(&Machine::new().nic_model(NicModel::E1000), &nics);
    assert_eq!(
        values(&arguments, "-netdev"),
        [
            "tap,id=link0,ifname=tap0,script=no,downscript=no,vnet_hdr=off,vhost=off",
            "tap,id=link1,ifname=tap1,script=no,downscript=no,vnet_hdr=off,vhost=off",
        ]
    );
    assert_eq!(
        values(&arguments, "-device")[..2],
        [
            "e1000,id=nic0,netdev=link0,romfile=",
            "e1000,id=nic1,netdev=link1,mac=52:54:00:0a:0b:ff,romfile=",
        ]
    );
    assert_eq!(
        values(&arguments, "-object"),
        ["filter-dump,id=capture0,netdev=link0,file=out,,1/link0.pcap"]
    );
}

#[test]
fn wires_a_tap_by_descriptor() {
    let descriptor = OwnedFd::from(File::open("/dev/null").unwrap());
    let expected = format!("tap,id=link0,fd={},vhost=off", descriptor.as_raw_fd());
    let arguments = text(&Machine::new(), &[Nic::new(Backend::Tap(descriptor))]);
    assert_eq!(values(&arguments, "-netdev"), [expected]);
}

#[test]
fn gives_boot_roms_only_to_who_boots_from_the_network() {
    let nics = [Nic::new(Backend::named_tap("tap0"))];
    let arguments = text(&Machine::new().network_boot(), &nics);
    assert_eq!(
        values(&arguments, "-device")[0],
        "virtio-net-pci,id=nic0,netdev=link0"
    );
}

#[test]
fn bridges_take_the_network_interfaces_for_which_the_first_bus_has_no_place() {
    let nics = |count| -> Vec<_> { (0..count).map(|_| Nic::new(Backend::Nowhere)).collect() };
    let devices = |count| values(&text(&Machine::new(), &nics(count)), "-device");
    assert!(!devices(24).join(" ").contains("bridge"));
    let many = devices(24 + 31 + 1);
    // One interface more does not move the others.
    assert_eq!(many[..24], devices(24)[..24]);
    assert_eq!(many[24], "pci-bridge,id=bridge1,chassis_nr=1");
    assert_eq!(
        many[25],
        "virtio-net-pci,id=nic24,netdev=link24,bus=bridge1,addr=0x1,romfile="
    );
    assert!(many[55].contains("bus=bridge1,addr=0x1f"), "{}", many[55]);
    assert_eq!(many[56], "pci-bridge,id=bridge2,chassis_nr=2");
    assert!(many[57].contains("bus=bridge2,addr=0x1,"), "{}", many[57]);
}

#[test]
fn tells_the_network_alone() {
    let nics = [Nic::new(Backend::named_tap("tap0"))];
    let network: Vec<_> = nic_arguments(NicModel::VirtioNet, &nics);
    let whole = Machine::new().arguments(&Accelerator::tcg(), &nics);
    assert_eq!(network.len(), 4);
    assert!(whole.windows(4).any(|part| part == network));
}

#[test]
fn passes_extra_arguments_on_behind_all_others() {
    let machine = Machine::new()
        .extra_arguments(["-device", "pvpanic"])
        .extra_arguments(["-snapshot"]);
    let arguments = text(&machine, &[]);
    assert_eq!(
        arguments[arguments.len() - 3..],
        ["-device", "pvpanic", "-snapshot"]
    );
}

/// QEMU would wait for the other end of a pipe, and read a device for ever.
#[test]
fn refuses_a_file_that_is_a_pipe_or_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&pipe, Path::new("/dev/zero")] {
        for machine in [
            Machine::new().kernel(path),
            Machine::new().initrd(path),
            Machine::new().cdrom(path),
            Machine::new().disk(Disk::new(path)),
            Machine::new().disk(Disk::new(path).persistent()),
        ] {
            let error = machine.check().unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, "it is neither a regular file nor a block device");
        }
    }
}
