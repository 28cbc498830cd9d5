//! A plugin of the batching flavour that does what the last message says, one token of each
//! request per step.

use std::{collections::BTreeMap, time::Duration};

use qudao_plugin_api::{
    BatchPlugin, Completion, Host, OwnedRequest, PluginError, Step, StepSink, export_batch_plugin,
    wire::Usage,
};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {}

struct Work {
    order: String,
    left: u32,
    made: u32,
    parked: bool,
    parked_once: bool,
}

struct Obedient {
    works: BTreeMap<u64, Work>,
}

impl BatchPlugin for Obedient {
    type Config = Config;

    fn create(_: Host, _: Config) -> Result<Self, PluginError> {
        Ok(Self { works: BTreeMap::new() })
    }

    fn admit(&mut self, request: OwnedRequest) -> Result<(), PluginError> {
        let text = request.chat()?.last_user_text();
        let (order, number) = text.split_once(' ').unwrap_or((&text, "0"));
        if order == "fail" {
            return Err(PluginError::bad_request("told to").with_status(422));
        }
        let left = number.parse().unwrap_or(0);
        let order = order.to_owned();
        let work = Work { order, left, made: 0, parked: false, parked_once: false };
        self.works.insert(request.id, work);
        Ok(())
    }

    #[expect(clippy::panic, reason = "told to")]
    fn step(&mut self, sink: &mut StepSink<'_>) -> Result<Step, PluginError> {
        let mut done = Vec::new();
        let mut busy = false;
        for (id, work) in self.works.iter_mut().filter(|(_, work)| !work.parked) {
            match work.order.as_str() {
                "panic" => panic!("told to"),
                "forever" => {
                    std::thread::sleep(Duration::from_millis(5));
                    work.made += 1;
                    sink.token(*id, "x".to_owned(), 0, 0.0);
                    busy = true;
                }
                "hang" => {}
                "count" if work.left != 0 => {
                    work.left -= 1;
                    work.made += 1;
                    sink.token(*id, "x".to_owned(), 0, 0.0);
                    busy = true;
                }
                "count" => done.push(*id),
                _ => {
                    sink.token(*id, "ok".to_owned(), 0, 0.0);
                    done.push(*id);
                }
            }
        }
        for id in done {
            let Some(work) = self.works.remove(&id) else { continue };
            // The input tells the test whether the request was ever parked.
            let input_tokens = 1 + u32::from(work.parked_once);
            let usage = Usage { input_tokens, output_tokens: work.made };
            sink.finish(id, Completion::stop(usage));
        }
        Ok(if busy { Step::Busy } else { Step::Idle })
    }

    fn cancel(&mut self, id: u64) -> Option<Usage> {
        let work = self.works.remove(&id)?;
        Some(Usage { input_tokens: 1, output_tokens: work.made })
    }

    fn park(&mut self, id: u64, parked: bool) {
        if let Some(work) = self.works.get_mut(&id) {
            work.parked = parked;
            work.parked_once |= parked;
        }
    }
}

export_batch_plugin!(Obedient);
