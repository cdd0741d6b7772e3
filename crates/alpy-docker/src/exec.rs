// SPDX-License-Identifier: GPL-3.0-or-later
//! A further command in a running container.

use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::TryStreamExt;

use crate::engine::ask_within;
use crate::log::Log;
use crate::output::tail;
use crate::{Engine, Error, ExitStatus, Output, Result};

pub(crate) async fn exec(
    engine: &Engine,
    container: &str,
    image: &str,
    argv: Vec<String>,
    within: Duration,
) -> Result<Output> {
    let step = format!("run {argv:?} in a running container");
    let config = ExecConfig {
        cmd: Some(argv.clone()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let id = engine
        .ask(&step, engine.docker.create_exec(container, config))
        .await?
        .id;
    let mut log = Log::default();
    let ran = async {
        let StartExecResults::Attached { mut output, .. } = engine.docker.start_exec(&id, None).await? else {
            log.breaks("the engine did not attach to the command");
            return Ok(());
        };
        while let Some(chunk) = output.try_next().await? {
            log.take(chunk);
        }
        Ok::<(), EngineError>(())
    };
    let ran = ask_within(within, &step, ran).await;
    if let Err(Error::Timeout { step, after }) = ran {
        let tails = tail("stdout", &log.stdout.bytes()) + &tail("stderr", &log.stderr.bytes());
        let step = format!("{step}{tails}");
        return Err(Error::Timeout { step, after });
    }
    ran?;
    let state = engine.ask(&step, engine.docker.inspect_exec(&id)).await?;
    if state.running == Some(true) {
        return Err(Error::Lost {
            step,
            reason: "the engine's stream ended while the command ran".to_owned(),
        });
    }
    let code = state.exit_code.ok_or_else(|| Error::Lost {
        step,
        reason: "the engine does not know its exit code".to_owned(),
    })?;
    Ok(Output {
        name: None,
        image: image.to_owned(),
        argv,
        status: ExitStatus::new(code),
        stdout: log.stdout.bytes(),
        stderr: log.stderr.bytes(),
        incomplete: log.incomplete(),
    })
}
