// SPDX-License-Identifier: GPL-3.0-or-later

use super::*;

#[tokio::test]
async fn names_the_innermost_step_that_failed() {
    let steps = Arc::new(Steps::default());
    let result = steps
        .scope(crate::step!("Outer", async {
            crate::step!("First", async { Ok::<_, &str>(()) }).await?;
            crate::step!("Second", async { Err::<(), _>("no") }).await
        }))
        .await;
    assert_eq!(result, Err("no"));
    assert_eq!(steps.where_it_is().as_deref(), Some("Outer > Second"));
}

#[tokio::test]
async fn tells_steps_beside_each_other_from_steps_within() {
    let steps = Arc::new(Steps::default());
    let both = async {
        let fails = async {
            tokio::task::yield_now().await;
            Err::<(), _>("no")
        };
        let first = crate::step!("First", std::future::pending::<Result<(), &str>>());
        tokio::try_join!(first, crate::step!("Second", fails))
    };
    let mut both = Box::pin(steps.scope(crate::step!("Both", both)));
    assert!(futures_util::poll!(&mut both).is_pending());
    assert_eq!(
        steps.where_it_is().as_deref(),
        Some("Both > First; Both > Second")
    );
    assert_eq!(both.await.unwrap_err(), "no");
    assert_eq!(steps.where_it_is().as_deref(), Some("Both > Second"));
}

#[tokio::test]
async fn forgets_a_failure_that_the_test_dealt_with() {
    let steps = Arc::new(Steps::default());
    steps
        .scope(async {
            crate::step!("First", async { Err::<(), _>("no") })
                .await
                .unwrap_err();
            crate::step!("Second", async { Ok::<_, &str>(()) }).await.unwrap();
        })
        .await;
    assert_eq!(steps.where_it_is(), None);
}

#[tokio::test]
async fn a_cancelled_step_is_where_the_test_was() {
    let steps = Arc::new(Steps::default());
    let waits_for_ever = crate::step!("Wait", std::future::pending::<Result<(), ()>>());
    let in_time = steps
        .scope(tokio::time::timeout(
            std::time::Duration::from_millis(1),
            waits_for_ever,
        ))
        .await;
    assert!(in_time.is_err());
    assert_eq!(steps.where_it_is().as_deref(), Some("Wait"));
}

#[tokio::test]
async fn a_step_with_a_time_of_its_own_fails_at_its_end_and_tells_where_the_time_went() {
    let steps = Arc::new(Steps::default());
    let limit = std::time::Duration::from_millis(20);
    let waits_for_ever = std::future::pending::<Result<(), StepTimeout>>();
    let result = steps
        .scope(async {
            crate::step!("Boot", async { Ok::<_, &str>(()) }).await.unwrap();
            crate::step!(within: limit, "Wait", waits_for_ever).await
        })
        .await;
    assert_eq!(result.unwrap_err().after, limit);
    assert_eq!(steps.where_it_is().as_deref(), Some("Wait"));
    assert_eq!(steps.times(), ["   0.0 s  Boot", "   0.0 s  Wait"]);
}

#[tokio::test(start_paused = true)]
async fn says_what_it_waits_for() {
    let lines = Mutex::new(Vec::new());
    let log = |line: &str| lines.lock().unwrap().push(line.to_owned());
    let slow = async {
        tokio::time::timeout(SLOW * 5 / 2, std::future::pending::<()>())
            .await
            .unwrap_err();
        Ok::<_, ()>(())
    };
    let inner = run_step("Boot".to_owned(), log, slow);
    let steps = Arc::new(Steps::default());
    steps.scope(run_step("All".to_owned(), log, inner)).await.unwrap();
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "All...",
            "Boot...",
            "Boot... for 10 s now",
            "Boot... for 20 s now",
            "Boot... done",
            "All... done"
        ]
    );
}

#[tokio::test]
async fn records_each_step_with_what_it_was_within_and_how_it_ended() {
    let steps = Arc::new(Steps::default());
    let waits_for_ever = crate::step!("Wait", std::future::pending::<Result<(), &str>>());
    let mut waiting = Box::pin(steps.scope(waits_for_ever));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let outer = crate::step!("Outer", async {
        crate::step!("Inner", async { Err::<(), _>("no") })
            .await
            .unwrap_err();
        Ok::<_, &str>(())
    });
    steps.scope(outer).await.unwrap();
    let records = steps.records();
    let short = |step: &StepRecord| (step.text.clone(), step.within, step.ended.map(|(_, end)| end));
    let short: Vec<_> = records.iter().map(short).collect();
    assert_eq!(
        short,
        [
            ("Wait".to_owned(), None, None),
            ("Outer".to_owned(), None, Some(StepEnd::Done)),
            ("Inner".to_owned(), Some(2), Some(StepEnd::Failed)),
        ]
    );
}

#[tokio::test]
async fn a_step_that_another_one_ends_is_cancelled_and_not_failed() {
    let lines = Mutex::new(Vec::new());
    let log = |line: &str| lines.lock().unwrap().push(line.to_owned());
    let steps = Arc::new(Steps::default());
    let waits = run_step(
        "First".to_owned(),
        log,
        std::future::pending::<Result<(), &str>>(),
    );
    let fails = run_step("Second".to_owned(), log, async { Err::<(), _>("no") });
    let both = steps.scope(async { tokio::try_join!(waits, fails) });
    assert_eq!(both.await.unwrap_err(), "no");
    assert_eq!(
        *lines.lock().unwrap(),
        ["First...", "Second...", "Second... failed", "First... cancelled"]
    );
    let ends: Vec<_> = steps
        .records()
        .iter()
        .map(|step| step.ended.map(|(_, end)| end))
        .collect();
    assert_eq!(ends, [Some(StepEnd::Cancelled), Some(StepEnd::Failed)]);
    assert_eq!(steps.where_it_is().as_deref(), Some("Second"));
}

#[tokio::test]
async fn a_step_that_panics_has_failed() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = {
        let lines = Arc::clone(&lines);
        move |line: &str| lines.lock().unwrap().push(line.to_owned())
    };
    let panics = run_step("Fall".to_owned(), log, async {
        if true {
            panic!("as planned");
        }
        Ok::<_, ()>(())
    });
    tokio::spawn(panics).await.unwrap_err();
    assert_eq!(*lines.lock().unwrap(), ["Fall...", "Fall... failed"]);
}

#[tokio::test]
async fn logs_the_beginning_and_the_end() {
    let lines = Mutex::new(Vec::new());
    let log = |line: &str| lines.lock().unwrap().push(line.to_owned());
    run_step("Boot".to_owned(), log, async { Ok::<_, ()>(()) })
        .await
        .unwrap();
    assert_eq!(*lines.lock().unwrap(), ["Boot...", "Boot... done"]);
}
