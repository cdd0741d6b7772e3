// SPDX-License-Identifier: GPL-3.0-or-later
//! Network interfaces that come and go while a machine runs, and cables between two machines.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use alpy_qemu::{Backend, Error, Nic, NicModel, Qemu};
use alpy_qmp::commands::HumanMonitorCommand;
use serde_json::{Value, json};

use alpy_need::need;

use crate::guest::{self, LONG};

async fn network(qemu: &Qemu) -> String {
    let command_line = "info network".to_owned();
    qemu.qmp()
        .execute(HumanMonitorCommand { command_line })
        .await
        .unwrap()
}

#[tokio::test]
async fn plugs_one_in_behind_those_that_are_there() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("late.pcap");
    let first = vec![Nic::new(Backend::Nowhere)];
    let qemu = Qemu::start(&guest::idle(), first, guest::tcg()).await.unwrap();
    let late = Nic::new(Backend::Nowhere)
        .mac([0x52, 0x54, 0, 1, 2, 3])
        .capture(&capture);
    assert_eq!(qemu.plug_nic(late).await.unwrap(), 1);
    let network = network(&qemu).await;
    assert!(
        network.contains("nic1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:01:02:03"),
        "{network}"
    );
    assert_eq!(fs::metadata(&capture).unwrap().len(), 24);
    // Nobody is there to let it go: the CPUs do not run.
    let error = qemu
        .unplug_nic(1, std::time::Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Qmp { .. }), "{error}");
    qemu.quit(LONG).await.unwrap();
    assert!(qemu.incomplete_captures().is_empty());
}

#[tokio::test]
async fn one_that_finds_no_place_leaves_nothing() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let machine = guest::idle().machine_type("q35");
    let qemu = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap();
    let (near, _far) = UnixStream::pair().unwrap();
    let nic = Nic::new(Backend::Socket(near.into())).capture(folder.path().join("c.pcap"));
    let error = qemu.plug_nic(nic).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("does not support hotplugging"), "{source}");
    assert_eq!(network(&qemu).await, "");
    qemu.quit(LONG).await.unwrap();
}

#[tokio::test]
async fn a_socket_is_a_cable_to_another_machine() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let at = |name: &str| folder.path().join(name);
    let nic = |end: UnixStream, name: &str| vec![Nic::new(Backend::Socket(end.into())).capture(at(name))];
    // One looks for something to boot from, and the other one is only there.
    let talks = guest::idle().memory_mib(64).network_boot();
    let talks = Qemu::start(&talks, nic(near, "talks.pcap"), guest::tcg())
        .await
        .unwrap();
    let hears = Qemu::start(&guest::idle(), nic(far, "hears.pcap"), guest::tcg())
        .await
        .unwrap();
    talks.start_cpu().await.unwrap();
    hears.start_cpu().await.unwrap();
    let frames = |path: &Path| fs::read(path).unwrap()[24..].to_vec();
    guest::eventually("a frame arrives", || !frames(&at("hears.pcap")).is_empty()).await;
    talks.quit(LONG).await.unwrap();
    hears.quit(LONG).await.unwrap();
    let (sent, received) = (frames(&at("talks.pcap")), frames(&at("hears.pcap")));
    // Behind the record's head, with its time, is the frame.
    let length = u32::from_ne_bytes(sent[8..12].try_into().unwrap()) as usize;
    assert_eq!(sent[8..16 + length], received[8..16 + length]);
}

/// The network interfaces by their PCI address, in order, once the firmware has numbered the buses.
async fn by_address(qemu: &Qemu) -> Vec<String> {
    fn collect(bus: &Value, nics: &mut Vec<(u64, u64, String)>) {
        for device in bus["devices"].as_array().into_iter().flatten() {
            let (number, slot) = (&device["bus"], &device["slot"]);
            let id = device["qdev_id"].as_str().unwrap_or_default();
            if id.starts_with("nic") {
                nics.push((number.as_u64().unwrap(), slot.as_u64().unwrap(), id.to_owned()));
            }
            collect(&device["pci_bridge"], nics);
        }
    }
    let buses = qemu.qmp().execute_raw("query-pci", json!(null)).await.unwrap();
    let mut nics = Vec::new();
    for bus in buses.as_array().unwrap() {
        collect(bus, &mut nics);
    }
    nics.sort();
    nics.into_iter().map(|(.., id)| id).collect()
}

#[tokio::test]
async fn sixty_are_in_order_behind_bridges() {
    need!(qemu);
    let mac = |index: usize| [0x52, 0x54, 0, 0, 0, u8::try_from(index).unwrap()];
    for (machine_type, model) in [("pc", NicModel::VirtioNet), ("q35", NicModel::E1000)] {
        let machine = guest::idle().machine_type(machine_type).nic_model(model);
        let nics = (0..60)
            .map(|index| Nic::new(Backend::Nowhere).mac(mac(index)))
            .collect();
        let qemu = Qemu::start(&machine, nics, guest::tcg()).await.unwrap();
        let network = network(&qemu).await;
        for index in 0..60 {
            let line = format!("nic{index}: index=0,type=nic");
            let address = format!("macaddr=52:54:00:00:00:{index:02x}");
            let found = network
                .lines()
                .any(|text| text.contains(&line) && text.contains(&address));
            assert!(found, "{line} {address} in {network}");
        }
        qemu.start_cpu().await.unwrap();
        // Without the firmware's numbers, those behind a bridge are on the bus 0 as well.
        let expected: Vec<_> = (0..60).map(|index| format!("nic{index}")).collect();
        let begin = std::time::Instant::now();
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        let mut found = by_address(&qemu).await;
        while found != expected {
            assert!(begin.elapsed() < LONG, "{machine_type}: {found:?}");
            tick.tick().await;
            found = by_address(&qemu).await;
        }
        // One more finds a place, where the machine type has one.
        if machine_type == "pc" {
            assert_eq!(qemu.plug_nic(Nic::new(Backend::Nowhere)).await.unwrap(), 60);
        }
        qemu.quit(LONG).await.unwrap();
    }
}
