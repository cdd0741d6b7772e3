// SPDX-License-Identifier: GPL-3.0-or-later
//! Impairments of both directions for real, whatever kernel the engine runs on: alpy's helper carries the requests out in a rabbit, whose
//! kernel has all that it takes.
//!
//! The rabbit is a bridge between its two NICs, of which the first is impaired: what it receives is on its way from link 0 to link 1,
//! what it sends the other way. The captures show each frame at both ends, by one clock.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use alpy::console::RemoteShell;
use alpy::netns::{HELPER, Impairment, InterfaceName, Reply, Request};
use alpy::pcap::{Capture, Packet};
use alpy::{Link, Testbed, step};
use alpy_need::need;
use anyhow::{Context, Result, bail, ensure};
use carrot::frames;

/// How long the last frame may take.
const LIMIT: Duration = Duration::from_secs(20);

/// No more frames come after so long.
const QUIET: Duration = Duration::from_millis(300);

/// Frames each way, of so many bytes: more than the bucket of a slow link holds, and no NIC has one of them in two parts.
const FRAMES: usize = 60;
const BYTES: usize = 100;

/// More than a guest pauses on a busy machine: a delay is to be told from twice as much.
const DELAY: Duration = Duration::from_millis(400);
/// What is too early, by a guest's clock that is not quite the host's.
const EARLY: Duration = Duration::from_millis(395);

const RATE: u64 = 100_000;

/// What Linux loads for it, in the order in which it is asked for.
const MODULES: [&str; 5] = ["ifb", "sch_netem", "sch_ingress", "cls_matchall", "act_mirred"];

const PREPARE: &str = "#!/bin/sh -e
sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip address add 192.168.0.2/24 dev eth0
ip link set eth0 up
until wget -q -O /root/helper http://192.168.0.1/helper; do usleep 100000; done
chmod +x /root/helper
ip address flush dev eth0
ip link add br0 type bridge forward_delay 0 mcast_snooping 0
for nic in eth0 eth1; do ip link set $nic promisc on arp off master br0 up; done
ip link set br0 arp off up
mkdir /root/hidden
for module in sch_tbf MODULES; do
  mv $(find /lib/modules -name $module.ko*) /root/hidden
done
";

/// What an impairment leaves in the guest.
const TRACES: &str = "ip -oneline link | grep ifb- ; tc qdisc show | grep -e ingress -e netem -e tbf";

#[tokio::test]
async fn each_direction_is_impaired_alone_in_all_ways() -> Result<()> {
    need!(docker, qemu => Ok(()));
    Testbed::builder("netem")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24"))
        .link(Link::new())
        .run(async |bed| {
            let mut lab = Lab::start(bed).await?;
            lab.names_each_module_that_the_kernel_lacks().await?;
            lab.delays().await?;
            lab.limits_the_rate().await?;
            lab.loses_doubles_corrupts_and_reorders().await?;
            lab.finishes_what_was_begun().await?;
            lab.ends_with_its_link().await?;
            lab.leaves_to_others_what_is_theirs().await
        })
        .await?;
    Ok(())
}

/// The frames that one end sends, and their way to the other end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// What the impaired NIC receives: from link 0 to link 1.
    Received,
    /// What it sends: from link 1 to link 0.
    Sent,
}

/// What became of a frame.
#[derive(Debug)]
struct Arrival {
    number: usize,
    wrong_bits: u32,
    took: Duration,
    at: Duration,
}

struct Lab<'a> {
    bed: &'a Testbed,
    shell: RemoteShell,
}

impl<'a> Lab<'a> {
    async fn start(bed: &'a Testbed) -> Result<Self> {
        let image = rabbit::image(bed.engine(), "http").await?;
        let server = bed
            .node(0)
            .application("helper-server", &image)?
            .file("/www/helper", HELPER, 0o644)
            .command(["httpd", "-f", "-p", "80", "-h", "/www"])
            .start(bed.engine())
            .await?;
        carrot::http::listens(bed.node(0), &server).await?;
        bed.start_cpu().await?;
        let mut shell = carrot::login(bed).await?;
        carrot::configure(
            &mut shell,
            "prepare",
            &PREPARE.replace("MODULES", &MODULES.join(" ")),
        )
        .await?;
        server.stop("SIGKILL", Duration::from_secs(5)).await?;
        Ok(Self { bed, shell })
    }

    /// With none of the modules, then with one more each time: the error names the next one, and nothing is left of the attempt.
    async fn names_each_module_that_the_kernel_lacks(&mut self) -> Result<()> {
        for module in MODULES {
            let refused = self
                .try_impair(Way::Received, Impairment::new().delay(DELAY))
                .await?;
            let expected = format!("the kernel has no {module}; remedy: modprobe {module} ");
            ensure!(
                refused.as_ref().is_some_and(|reason| reason.contains(&expected)),
                "expected {expected:?}, saw {refused:?}"
            );
            self.leaves_no_trace().await?;
            self.uncover(module).await?;
        }
        // The other way needs only its discipline.
        let refused = self
            .try_impair(Way::Sent, Impairment::new().rate_bits(RATE))
            .await?;
        ensure!(
            refused
                .as_ref()
                .is_some_and(|reason| reason.contains("modprobe sch_tbf ")),
            "expected sch_tbf to be named, saw {refused:?}"
        );
        Ok(())
    }

    async fn delays(&mut self) -> Result<()> {
        for (received, sent) in [
            (DELAY, Duration::ZERO),
            // What is there stays as it is.
            (DELAY, DELAY),
            (Duration::ZERO, DELAY),
        ] {
            self.impair(Way::Received, Impairment::new().delay(received))
                .await?;
            self.impair(Way::Sent, Impairment::new().delay(sent)).await?;
            carrot::judged(self.bed, async || {
                let seen = self.exchange([FRAMES, FRAMES]).await?;
                let mut late = None;
                for (way, delay, arrivals) in [(Way::Received, received, &seen[0]), (Way::Sent, sent, &seen[1])] {
                    let fastest = arrivals.iter().map(|arrival| arrival.took).min();
                    let fastest = fastest.context("no frame has arrived")?;
                    let least = delay.saturating_sub(DELAY - EARLY);
                    let most = least + EARLY;
                    let saw = format!(
                        "{way:?}: expected the fastest frame to take {least:.0?} to {most:.0?} with a delay of {delay:.0?}, saw {fastest:.1?}"
                    );
                    // A busy host cannot make a frame come too early.
                    ensure!(fastest >= least, "{saw}");
                    late = late.or((fastest >= most).then_some(saw));
                }
                Ok(late)
            })
            .await?;
        }
        self.impair(Way::Sent, Impairment::new()).await?;
        self.leaves_no_trace().await?;
        Ok(())
    }

    async fn limits_the_rate(&mut self) -> Result<()> {
        // With a rate alone, a bucket of 3 KiB passes at once, and so nearly half of the frames.
        self.uncover("sch_tbf").await?;
        self.impair(Way::Received, Impairment::new().rate_bits(RATE))
            .await?;
        let seen = self.exchange([FRAMES, FRAMES]).await?;
        let time = |bytes: usize| Duration::from_secs_f64(bytes as f64 * 8.0 / RATE as f64);
        let least = time(FRAMES * BYTES - 2 * 1518) * 9 / 10;
        ensure!(
            whole_time(&seen[0]) >= least,
            "expected {FRAMES} frames to take {least:.0?} at least at {} kbit/s, saw {:.0?}",
            RATE / 1000,
            whole_time(&seen[0])
        );

        // netem takes the place of the bucket, has the delay too, and no bucket.
        let both = Impairment::new().rate_bits(RATE).delay(DELAY);
        self.impair(Way::Received, both).await?;
        let seen = self.exchange([FRAMES, FRAMES]).await?;
        let least = DELAY + time((FRAMES - 1) * BYTES) * 9 / 10;
        ensure!(
            whole_time(&seen[0]) >= least && all_late(&seen[0]),
            "expected {FRAMES} frames to take {least:.0?} at least at {} kbit/s, and each of them {EARLY:.0?}, saw {:.0?} and {}",
            RATE / 1000,
            whole_time(&seen[0]),
            times(&seen[0])
        );

        // The rate ends, the delay stays. A busy machine has pauses, but not in each part of it.
        self.impair(Way::Received, Impairment::new().delay(DELAY)).await?;
        let most = time(19 * BYTES) * 9 / 10;
        carrot::judged(self.bed, async || {
            let seen = self.exchange([FRAMES, FRAMES]).await?;
            ensure!(
                all_late(&seen[0]),
                "expected a delay of {EARLY:.0?} at least, saw {}",
                times(&seen[0])
            );
            let quickest = seen[0].windows(20).map(duration).min();
            let quickest = quickest.context("fewer than 20 frames have arrived")?;
            Ok((quickest >= most)
                .then(|| format!("expected 20 frames within {most:.0?} without a rate, saw {quickest:.1?}")))
        })
        .await?;
        self.impair(Way::Received, Impairment::new()).await
    }

    async fn loses_doubles_corrupts_and_reorders(&mut self) -> Result<()> {
        let counted = self.counted().await?;
        self.impair(Way::Received, Impairment::new().loss(1.0)).await?;
        self.impair(Way::Sent, Impairment::new().duplication(1.0)).await?;
        let seen = self.exchange([0, 2 * FRAMES]).await?;
        for number in 0..FRAMES {
            let copies = seen[1].iter().filter(|arrival| arrival.number == number).count();
            ensure!(copies == 2, "expected frame {number} twice, saw {copies} of it");
        }
        // The NIC's counters are of the wire: what is lost behind it has come.
        let came = self.counted().await? - counted;
        ensure!(
            came == FRAMES as u64,
            "expected {FRAMES} frames to be counted, saw {came}"
        );

        self.impair(Way::Received, Impairment::new().duplication(1.0))
            .await?;
        self.impair(Way::Sent, Impairment::new().loss(1.0)).await?;
        self.exchange([2 * FRAMES, 0]).await?;

        self.impair(Way::Received, Impairment::new()).await?;
        self.impair(Way::Sent, Impairment::new().corruption(1.0)).await?;
        let seen = self.exchange([FRAMES, FRAMES]).await?;
        let wrong = seen.map(|arrivals| {
            arrivals
                .iter()
                .map(|arrival| arrival.wrong_bits)
                .collect::<Vec<_>>()
        });
        ensure!(
            wrong == [vec![0; FRAMES], vec![1; FRAMES]],
            "expected one wrong bit in each frame sent, saw {wrong:?}"
        );

        for way in [Way::Received, Way::Sent] {
            self.impair(way, Impairment::new().delay(DELAY).reordering(0.5))
                .await?;
        }
        for arrivals in self.exchange([FRAMES, FRAMES]).await? {
            let overtaken = arrivals.windows(2).filter(|pair| pair[0].number > pair[1].number);
            let numbers: Vec<_> = arrivals.iter().map(|arrival| arrival.number).collect();
            ensure!(
                overtaken.count() > 0 && arrivals.iter().any(|arrival| arrival.took >= EARLY),
                "expected frames to overtake late ones, saw the frames {numbers:?}, which took {}",
                times(&arrivals)
            );
        }

        for way in [Way::Received, Way::Sent] {
            self.impair(way, Impairment::new()).await?;
        }
        // All of it has ended.
        let seen = self.exchange([FRAMES, FRAMES]).await?;
        for arrivals in seen {
            let in_order = arrivals
                .iter()
                .enumerate()
                .all(|(index, arrival)| arrival.number == index);
            let numbers: Vec<_> = arrivals.iter().map(|arrival| arrival.number).collect();
            ensure!(in_order, "expected the frames in order, saw {numbers:?}");
        }
        self.leaves_no_trace().await?;
        Ok(())
    }

    /// What a helper leaves that is killed in the middle is taken for what it is.
    async fn finishes_what_was_begun(&mut self) -> Result<()> {
        let index = self.shell.run("cat /sys/class/net/eth0/ifindex").await?;
        let add = format!("ip link add ifb-{} type ifb", index.text().trim());
        self.shell.run(&add).await?;
        self.impair(Way::Received, Impairment::new().loss(1.0)).await?;
        self.exchange([0, FRAMES]).await?;
        self.impair(Way::Received, Impairment::new()).await?;
        self.leaves_no_trace().await
    }

    async fn ends_with_its_link(&mut self) -> Result<()> {
        self.shell.run("ip link add v0 type veth peer name v1").await?;
        let link = || "v0".parse::<InterfaceName>();
        let impaired = Request::new().impair_received(link()?, Impairment::new().loss(1.0));
        for (request, is_there) in [(impaired, true), (Request::new().delete(link()?), false)] {
            let refused = self.carry_out(&request).await?;
            let traces = self.traces().await?;
            ensure!(
                refused.is_none() && traces.is_empty() != is_there,
                "expected traces: {is_there}, saw {refused:?} and {traces:?}"
            );
        }
        Ok(())
    }

    async fn leaves_to_others_what_is_theirs(&mut self) -> Result<()> {
        self.shell.run("tc qdisc add dev eth0 ingress").await?;
        let before = self.traces().await?;
        let refused = self
            .try_impair(Way::Received, Impairment::new().loss(1.0))
            .await?;
        ensure!(
            refused
                .as_ref()
                .is_some_and(|reason| reason.contains("discipline already")),
            "expected the discipline to be in the way, saw {refused:?}"
        );
        // Nor is there anything to end.
        self.impair(Way::Received, Impairment::new()).await?;
        let after = self.traces().await?;
        ensure!(after == before, "expected {before:?}, saw {after:?}");
        Ok(())
    }

    async fn impair(&mut self, way: Way, impairment: Impairment) -> Result<()> {
        match self.try_impair(way, impairment).await? {
            None => Ok(()),
            Some(reason) => bail!("expected the helper to do it, saw {reason}"),
        }
    }

    async fn try_impair(&mut self, way: Way, impairment: Impairment) -> Result<Option<String>> {
        let link: InterfaceName = "eth0".parse()?;
        let request = match way {
            Way::Received => Request::new().impair_received(link, impairment),
            Way::Sent => Request::new().impair(link, impairment),
        };
        step!(format!("{way:?}: {impairment}"), self.carry_out(&request)).await
    }

    /// Has the helper in the guest do it; what it says if it does not.
    async fn carry_out(&mut self, request: &Request) -> Result<Option<String>> {
        let json = serde_json::to_string(request)?;
        let command = self.shell.command(format!("echo '{json}' | /root/helper once"));
        let output = command.ignore_status().run().await?;
        let text = output.text();
        let reply = text.lines().find_map(|line| serde_json::from_str(line).ok());
        match reply.with_context(|| format!("expected a reply, saw {text:?}"))? {
            Reply::Done { .. } => Ok(None),
            Reply::Failed(failure) => {
                ensure!(
                    failure.left.is_empty(),
                    "expected nothing to be left, saw {failure}"
                );
                Ok(Some(failure.reason))
            }
        }
    }

    async fn uncover(&mut self, module: &str) -> Result<()> {
        self.shell
            .run(&format!("insmod /root/hidden/{module}.ko* 2>&1"))
            .await?;
        Ok(())
    }

    async fn leaves_no_trace(&mut self) -> Result<()> {
        let traces = self.traces().await?;
        ensure!(
            traces.is_empty(),
            "expected no trace of an impairment, saw {traces}"
        );
        Ok(())
    }

    async fn traces(&mut self) -> Result<String> {
        let output = self.shell.command(TRACES).ignore_status().run().await?;
        Ok(output.text().into_owned())
    }

    /// The frames that the NIC has received.
    async fn counted(&mut self) -> Result<u64> {
        let output = self
            .shell
            .run("cat /sys/class/net/eth0/statistics/rx_packets")
            .await?;
        Ok(output.text().trim().parse()?)
    }

    /// Sends all frames both ways at the same time. So many are expected each way, in the order in which they are returned.
    async fn exchange(&self, expected: [usize; 2]) -> Result<[Vec<Arrival>; 2]> {
        let captures = [0, 1].map(|link| {
            let capture = self.bed.capture(link);
            capture.since(&capture.mark("exchange")?)
        });
        let [near, far] = captures;
        let (near, far) = (near?, far?);
        let (there, back) = (Way::Received.frames(), Way::Sent.frames());
        tokio::try_join!(
            frames::send(self.bed.node(0), there),
            frames::send(self.bed.node(1), back)
        )?;
        for (way, capture, expected) in [
            (Way::Received, &far, expected[0]),
            (Way::Sent, &near, expected[1]),
        ] {
            let seen = Cell::new(0);
            let last = |packet: &Packet<'_>| {
                seen.set(seen.get() + usize::from(way.is_of(packet.frame().bytes())));
                seen.get() >= expected
            };
            if expected > 0 {
                let came = capture.expect(last, LIMIT).await;
                came.with_context(|| format!("{way:?}: expected {expected} frames, saw {}", seen.get()))?;
            }
        }
        let rest = |link: usize| {
            let capture = self.bed.capture(link);
            capture.since(&capture.mark("all has come")?)
        };
        let ours = |packet: &Packet<'_>| {
            let bytes = packet.frame().bytes();
            [Way::Received, Way::Sent].iter().any(|way| way.is_of(bytes))
        };
        let (near_rest, far_rest) = (rest(0)?, rest(1)?);
        tokio::try_join!(
            near_rest.expect_none(ours, QUIET),
            far_rest.expect_none(ours, QUIET)
        )?;
        let arrivals = [
            Way::Received.arrivals(&near, &far)?,
            Way::Sent.arrivals(&far, &near)?,
        ];
        let counts = [0, 1].map(|index| arrivals[index].len());
        ensure!(counts == expected, "expected {expected:?} frames, saw {counts:?}");
        Ok(arrivals)
    }
}

impl Way {
    fn index(self) -> usize {
        self as usize
    }

    /// The frames that go that way, with nothing in common but their headers.
    fn frames(self) -> &'static [Vec<u8>] {
        static FRAMES_OF: [OnceLock<Vec<Vec<u8>>>; 2] = [OnceLock::new(), OnceLock::new()];
        FRAMES_OF[self.index()].get_or_init(|| (0..FRAMES).map(|number| self.frame(number)).collect())
    }

    fn frame(self, number: usize) -> Vec<u8> {
        let ends = [[0x02, 0, 0, 0, 0, 0xaa], [0x02, 0, 0, 0, 0, 0xbb]];
        let (here, there) = (ends[self.index()], ends[1 - self.index()]);
        let mut state = 0x2545_f491_u32 ^ (number as u32) << 8 ^ (self.index() as u32) << 20;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let payload: Vec<u8> = (0..BYTES - 14).map(|_| noise()).collect();
        [&there[..], &here, &[0x88, 0xb5], &payload].concat()
    }

    /// Which of the frames that is, and how many bits of it are wrong.
    fn known(self, bytes: &[u8]) -> Option<(usize, u32)> {
        let wrong = |frame: &Vec<u8>| {
            let pairs = frame.iter().zip(bytes);
            pairs.map(|(one, other)| (one ^ other).count_ones()).sum()
        };
        let all = self.frames().iter().map(wrong).enumerate();
        all.min_by_key(|(_, wrong)| *wrong)
            .filter(|(_, wrong)| bytes.len() == BYTES && *wrong < 8)
    }

    fn is_of(self, bytes: &[u8]) -> bool {
        self.known(bytes).is_some()
    }

    /// The frames that have arrived, with the time since each was sent.
    fn arrivals(self, from: &Capture, to: &Capture) -> Result<Vec<Arrival>> {
        let mut sent = [Duration::ZERO; FRAMES];
        from.for_each(|packet| {
            if let Some((number, 0)) = self.known(packet.frame().bytes()) {
                sent[number] = packet.frame().timestamp();
            }
        })?;
        let mut arrivals = Vec::new();
        to.for_each(|packet| {
            if let Some((number, wrong_bits)) = self.known(packet.frame().bytes()) {
                let at = packet.frame().timestamp();
                arrivals.push(Arrival {
                    number,
                    wrong_bits,
                    took: at.saturating_sub(sent[number]),
                    at,
                });
            }
        })?;
        Ok(arrivals)
    }
}

/// From when the first frame was sent until the last one arrived. A guest that pauses does so in between, and has more to send at once then.
fn whole_time(arrivals: &[Arrival]) -> Duration {
    let sent = arrivals.iter().map(|arrival| arrival.at - arrival.took).min();
    let last = arrivals.iter().map(|arrival| arrival.at).max();
    last.zip(sent).map_or(Duration::ZERO, |(last, sent)| last - sent)
}

fn all_late(arrivals: &[Arrival]) -> bool {
    arrivals.iter().all(|arrival| arrival.took >= EARLY)
}

/// The least and the most time that a frame took, for messages.
fn times(arrivals: &[Arrival]) -> String {
    let took = || arrivals.iter().map(|arrival| arrival.took);
    match took().min().zip(took().max()) {
        Some((least, most)) => format!("{least:.0?} to {most:.0?}"),
        None => "no frame".to_owned(),
    }
}

/// From the first arrival to the last.
fn duration(arrivals: &[Arrival]) -> Duration {
    match (arrivals.first(), arrivals.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => Duration::ZERO,
    }
}
