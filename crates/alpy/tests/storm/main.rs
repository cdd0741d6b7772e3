// SPDX-License-Identifier: GPL-3.0-or-later
//! However a test ends, nothing of it stays: testbeds in processes of their own are ended at random moments, and what the machine
//! and the engine have afterwards is compared with what they had before.
//!
//! `cargo xtask storm` runs this for as many rounds, with the seed, and with the ends and moments that one asks for.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

mod child;
mod inventory;
mod plan;
mod planted;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use alpy_need::need;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use child::Child;
use inventory::{Inventory, Scope};
use plan::{End, Plan, Random};

/// How many testbeds are there at once.
const AT_ONCE: u32 = 4;

/// After that time nothing may be left.
const PATIENCE: Duration = Duration::from_secs(5);

/// One inventory of the machine at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn nothing_is_left_however_a_test_ends() {
    need!(docker, qemu, busybox);
    let _alone = ALONE.lock().await;
    let settings = plan::Settings::from_env();
    eprintln!(
        "seed {}, {} rounds; ALPY_STORM_SEED repeats it",
        settings.seed, settings.rounds
    );
    let scope = Scope::of_this_process();
    let whole = calibrate(&scope).await;
    let mut random = Random::new(settings.seed);
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut found = Vec::new();
    let mut round = 0;
    while round < settings.rounds {
        let plans: Vec<Plan> = (round..settings.rounds.min(round + AT_ONCE))
            .map(|number| settings.plan(number, whole, &mut random))
            .collect();
        round += AT_ONCE;
        for plan in &plans {
            *counts.entry(plan.end.name()).or_default() += 1;
        }
        let left = batch(&scope, &plans).await;
        for (plan, note) in plans.iter().zip(&left.notes) {
            eprintln!("round {:3}: {plan}: {note}", plan.round);
        }
        if !left.things.is_empty() {
            eprintln!("  left: {:#?}", left.things);
            eprintln!(
                "  the engine's log of them: {:#?}",
                scope.engine_log(&left.things)
            );
            eprintln!("  {}", last(&scope, &left.things).await);
            found.extend(left.things);
        }
        found.extend(left.hangs);
    }
    eprintln!("rounds by end: {counts:?}; found: {}", found.len());
    assert!(found.is_empty(), "seed {}: {found:#?}", settings.seed);
    scope.remove_evidence();
}

#[tokio::test]
async fn a_planted_leftover_of_each_kind_is_found() {
    need!(docker, busybox);
    let _alone = ALONE.lock().await;
    let scope = Scope::of_this_process();
    let engine = alpy::docker::Engine::connect().await.unwrap();
    let image = support::busybox(&engine).await;
    for plant in planted::all(&scope, &engine, &image) {
        let before = Inventory::take(&scope);
        let planted = match plant.make().await {
            Ok(planted) => planted,
            Err(reason) => {
                // An ordinary user cannot leave such a thing either.
                assert!(!nix::unistd::geteuid().is_root(), "{}: {reason}", plant.kind());
                eprintln!("not planted, as this user cannot: {}: {reason}", plant.kind());
                continue;
            }
        };
        let left = Inventory::take(&scope).beyond(&before);
        planted.remove().await;
        assert!(
            left.iter().any(|thing| thing.starts_with(plant.kind())),
            "{} is not found, but {left:?}",
            plant.kind()
        );
        let rest = Inventory::take(&scope).beyond(&before);
        assert!(rest.is_empty(), "{rest:?} is left of the test itself");
    }
    scope.remove_evidence();
}

#[tokio::test]
#[ignore = "the child that the storm ends"]
async fn a_child() {
    child::run().await;
}

/// How long such testbeds take when nobody ends them, as many as there are at once.
async fn calibrate(scope: &Scope) -> Duration {
    let began = Instant::now();
    let plans: Vec<Plan> = (0..AT_ONCE)
        .map(|slot| Plan::new(slot, End::Passes, Duration::ZERO))
        .collect();
    let children = plans.iter().map(|plan| Child::start(scope, plan));
    for (child, plan) in join_all(children).await.into_iter().zip(&plans) {
        let status = child
            .ended()
            .await
            .unwrap_or_else(|log| panic!("{plan} hangs: {log}"));
        assert!(status.success(), "{plan}: {status}: {}", child.log());
    }
    let took = began.elapsed();
    eprintln!("{AT_ONCE} testbeds at once take {took:.1?} from start to end");
    took
}

/// What a batch of rounds has left.
struct Left {
    /// How each child ended.
    notes: Vec<String>,
    things: Vec<String>,
    hangs: Vec<String>,
}

/// How long what was left lasts, which tells whether somebody was only slow.
async fn last(scope: &Scope, things: &[String]) -> String {
    const LIMIT: Duration = Duration::from_secs(90);
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < LIMIT {
        ticks.tick().await;
        if !Inventory::take(scope).has_any_of(things) {
            return format!("all of it was gone {:.0?} later", began.elapsed());
        }
    }
    format!("some of it is there {LIMIT:?} later")
}

async fn batch(scope: &Scope, plans: &[Plan]) -> Left {
    let before = Inventory::take(scope);
    let children = join_all(plans.iter().map(|plan| Child::start(scope, plan))).await;
    let ends = children.iter().zip(plans).map(|(child, plan)| async move {
        child.end_as(plan).await;
        child.ended().await
    });
    let ends = join_all(ends).await;
    let looked = Instant::now() + PATIENCE;
    sleep_until(looked).await;
    let things = Inventory::take(scope).beyond(&before);
    let mut hangs = Vec::new();
    let mut notes = Vec::new();
    for ((child, plan), end) in children.iter().zip(plans).zip(ends) {
        match end {
            Ok(status) if plan.explains(status) => notes.push(format!("{status}, {}", child.progress())),
            Ok(status) => hangs.push(format!("{plan}: it ended with {status}: {}", child.log())),
            Err(log) => hangs.push(format!("{plan}: it hangs: {log}")),
        }
    }
    notes.resize(plans.len(), "see below".to_owned());
    Left { notes, things, hangs }
}
