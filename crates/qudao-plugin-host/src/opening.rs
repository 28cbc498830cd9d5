//! A child from its start to its last frame, as the host hears it.

use std::{io, os::unix::net::UnixStream, time::Duration};

use qudao_plugin_api::manifest::Limits;

use crate::{
    artifact::SealedArtifact,
    child::Create,
    confine::TRUST,
    engine::Outlet as _,
    frame::{self, Frames, Kind},
    generation::Generation,
    instance::Ground,
    process::{self, ChildLink},
    said::log_line,
};

/// A child that has created its instance.
pub(crate) struct Opened {
    pub(crate) link: ChildLink,
    pub(crate) frames: Frames<UnixStream>,
    /// Names of the protections that hold for it.
    pub(crate) sandbox: Vec<String>,
}

/// Starts a child and waits until it has created its instance.
pub(crate) fn open_child(
    ground: &Ground,
    sealed: &SealedArtifact,
    name: &str,
    env: &[String],
    limits: &Limits,
    create: &Create,
    load_timeout: Duration,
) -> Result<Opened, String> {
    let failed = |error: io::Error| format!("starting the child: {error}");
    let trust = create.confinement.network.then_some(TRUST);
    let env: Vec<_> = env.iter().map(String::as_str).chain(trust.into_iter().flatten()).collect();
    let (link, reader) =
        process::spawn(&ground.host_binary, sealed, name, &env, limits).map_err(failed)?;
    let body = serde_json::to_vec(create).map_err(|error| error.to_string())?;
    link.send(|out| frame::put(out, Kind::Create, 0, |out| out.extend_from_slice(&body)));
    reader.set_read_timeout(Some(load_timeout)).map_err(failed)?;
    let timeout = reader.try_clone().map_err(failed)?;
    let mut frames = Frames::new(reader);
    let mut sandbox = None;
    loop {
        let reason = match frames.next() {
            Ok(Some(frame)) => match frame.kind {
                Kind::Created => break,
                Kind::Failed => String::from_utf8_lossy(frame.body).into_owned(),
                Kind::Log => {
                    log_frame(name, &frame);
                    continue;
                }
                // Said before the plugin's first instruction; what comes later may be the plugin's.
                Kind::Confined if sandbox.is_none() => {
                    let held = String::from_utf8_lossy(frame.body);
                    sandbox = Some(held.split_whitespace().map(str::to_owned).collect());
                    continue;
                }
                _ => "the child spoke out of turn".to_owned(),
            },
            Ok(None) => {
                let signal = link.reap();
                let by = signal.map_or_else(String::new, |signal| format!(" by signal {signal}"));
                return Err(format!("the child ended while loading{by}"));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                format!("loading took longer than {load_timeout:?}")
            }
            Err(error) => error.to_string(),
        };
        link.kill();
        link.reap();
        return Err(reason);
    }
    timeout.set_read_timeout(None).map_err(failed)?;
    Ok(Opened { link, frames, sandbox: sandbox.unwrap_or_default() })
}

fn log_frame(name: &str, frame: &frame::Frame<'_>) {
    let (level, target, message) = frame::read_log(frame.id, frame.body);
    log_line(name, level, target, &String::from_utf8_lossy(message));
}

/// Passes the child's frames on until it is gone or breaks the protocol.
pub(crate) fn listen(generation: &Generation, frames: &mut Frames<UnixStream>) {
    use qudao_plugin_api::abi::{QD_E_AGAIN, QD_E_INVALID};
    while let Ok(Some(frame)) = frames.next() {
        match frame.kind {
            Kind::Events => {
                let Some(events) = frame::read_events(frame.body) else { return generation.kill() };
                let code = generation.events(frame.id, &events);
                // The child's own bridge lets none of these through: it is no longer itself.
                if code == QD_E_AGAIN
                    || code == QD_E_INVALID && events.iter().any(|e| e.fault().is_some())
                {
                    tracing::error!(instance = generation.instance, "the child broke the protocol");
                    return generation.kill();
                }
            }
            Kind::Violation => {
                generation.violation(frame.id, &String::from_utf8_lossy(frame.body));
            }
            Kind::Log => log_frame(&generation.instance, &frame),
            _ => return generation.kill(),
        }
    }
}
