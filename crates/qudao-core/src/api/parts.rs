//! Whether a model that was given several texts has said something of each, and of none twice. An answer
//! that is not whole is a failure of the model, and is found to be one before it is charged.

use qudao_plugin_api::wire::Ask;
use qudao_plugin_host::CallError;
use serde_json::Value;

/// Which texts have been answered; none for models that are not given texts.
#[derive(Debug, Default)]
pub(super) struct Parts(Option<Vec<bool>>);

impl Parts {
    pub(super) fn of(ask: &Ask) -> Self {
        Self(match ask {
            Ask::Embed(embed) => Some(vec![false; embed.texts.len()]),
            Ask::Classify(classify) => Some(vec![false; classify.texts.len()]),
            Ask::Chat(_) | Ask::Detect(_) | Ask::Transcribe(_) => None,
        })
    }

    /// Notes what was said.
    ///
    /// # Errors
    /// [`CallError::Protocol`] if it is of no text that was asked, or of one that was answered.
    pub(super) fn take(&mut self, part: &Value) -> Result<(), CallError> {
        let Some(answered) = &mut self.0 else { return Ok(()) };
        let index = part.get("index").and_then(Value::as_u64);
        let place = index.and_then(|index| answered.get_mut(usize::try_from(index).ok()?));
        match place {
            Some(place @ false) => {
                *place = true;
                Ok(())
            }
            Some(true) => Err(CallError::Protocol("it answered a text twice".to_owned())),
            None => Err(CallError::Protocol("it answered something else".to_owned())),
        }
    }

    /// Whether each text was answered.
    ///
    /// # Errors
    /// [`CallError::Protocol`] if not.
    pub(super) fn whole(&self) -> Result<(), CallError> {
        match &self.0 {
            Some(answered) if answered.contains(&false) => {
                Err(CallError::Protocol("it left a text out".to_owned()))
            }
            _ => Ok(()),
        }
    }
}
