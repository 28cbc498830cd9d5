//! What a model is told: the assistant's instructions, what was said, and the messages to answer.

use qudao_plugin_api::wire::{ChatMessage, ChatParams, ChatRequest, Content, Role};
use qudao_storage::{Speaker, TurnContext};

/// The request for a turn. Messages that came in a burst are one message to the model, which
/// answers them together.
pub(super) fn request(context: &TurnContext, model: &str) -> ChatRequest {
    let mut messages = Vec::with_capacity(context.history.len() + 2);
    if !context.assistant.system_prompt.is_empty() {
        messages.push(ChatMessage::text(Role::System, &context.assistant.system_prompt));
    }
    // What was erased says nothing.
    for past in context.history.iter().filter(|past| !past.text.is_empty()) {
        let role = match past.speaker {
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
        };
        append(&mut messages, role, &past.text);
    }
    let burst: Vec<_> = context.pending.iter().map(|message| &*message.body.text).collect();
    append(&mut messages, Role::User, &burst.join("\n"));
    let mut request = ChatRequest::new(model, messages);
    request.params = params(context);
    request
}

/// Many chat templates demand that the roles alternate, so what one side said in a row is joined.
fn append(messages: &mut Vec<ChatMessage>, role: Role, text: &str) {
    if let Some(last) = messages.last_mut()
        && last.role == role
        && let Some(Content::Text(said)) = &mut last.content
    {
        said.push('\n');
        said.push_str(text);
        return;
    }
    messages.push(ChatMessage::text(role, text));
}

/// The assistant's sampling parameters; unreadable ones are passed over.
fn params(context: &TurnContext) -> ChatParams {
    serde_json::from_value(context.assistant.params.clone()).unwrap_or_else(|error| {
        tracing::warn!(%error, assistant = %context.assistant.id, "unreadable parameters");
        ChatParams::default()
    })
}
