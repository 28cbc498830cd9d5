//! An instance's settings against the schema that its plugin brings, before any of its code runs.

use jsonschema::{Validator, error::ValidationErrorKind};
use serde_json::Value;

use crate::{
    artifact::{RefusalError, VerifiedPlugin},
    disk::read_inside,
};

/// Schemas above this are refused, in bytes.
const SCHEMA_BYTES_MAX: u64 = 1 << 20;
/// How many mistakes are told at once.
const TOLD: usize = 5;

/// Holds the settings against the plugin's schema, if it has one.
pub(crate) fn check(plugin: &VerifiedPlugin, config: &Value) -> Result<(), RefusalError> {
    let Some(section) = &plugin.manifest.config else { return Ok(()) };
    let bytes = read_inside(&plugin.folder, &section.schema, SCHEMA_BYTES_MAX)?;
    let refused = |reason: String| RefusalError::Schema { path: section.schema.clone(), reason };
    let schema = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    // Nothing is fetched: a schema that refers to another document is refused here.
    let validator = jsonschema::options().offline().build(&schema);
    let validator: Validator = validator.map_err(|error| refused(error.to_string()))?;
    let wrong: Vec<_> = validator.iter_errors(config).take(TOLD).map(|it| told(&it)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(RefusalError::Config(wrong.join("; "))) }
}

/// Where the mistake is and what is expected there. Never the value, which may be a secret.
fn told(error: &jsonschema::ValidationError<'_>) -> String {
    let at = error.instance_path().as_str();
    let key =
        if at.is_empty() { "config".to_owned() } else { format!("config{}", at.replace('/', ".")) };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            format!("{key}: there is no setting {}", unexpected.join(", "))
        }
        ValidationErrorKind::Required { property } => {
            let property = property.as_str().map_or_else(|| property.to_string(), str::to_owned);
            format!("{key}: {property} is missing")
        }
        _ => format!("{key}: {}", error.masked()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use qudao_plugin_api::manifest::{ConfigSection, Manifest};
    use serde_json::json;

    use super::*;

    const MANIFEST: &str = r#"
schema = 1
[plugin]
id = "tea"
version = "1.0.0"
abi = "1.0"
kinds = ["chat"]
[[artifact]]
target = "x86_64-unknown-linux-gnu"
variant = "cpu"
path = "libtea.so"
"#;

    fn refusal(schema: &str, config: &Value) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("schema.json"), schema).unwrap();
        let mut manifest = Manifest::parse_template(MANIFEST).unwrap();
        manifest.config = Some(ConfigSection { schema: "schema.json".to_owned() });
        let plugin = VerifiedPlugin { folder: folder.path().to_owned(), manifest, signer: None };
        check(&plugin, config).err().map(|error| error.to_string())
    }

    #[test]
    fn every_mistake_is_named_by_its_key_and_no_value_is_told() {
        let schema = r#"{
            "type": "object", "additionalProperties": false, "required": ["path"],
            "properties": {
                "path": { "type": "string" },
                "threads": { "type": "integer", "minimum": 1 },
                "api_key": { "type": "string", "pattern": "^sk-" },
                "deep": { "type": "object", "properties": { "side": { "type": "integer" } } }
            }
        }"#;
        assert_eq!(refusal(schema, &json!({ "path": "/a", "threads": 2 })), None);
        let cases = [
            (json!({}), "config: path is missing"),
            (json!({ "path": "/a", "thread": 2 }), "config: there is no setting thread"),
            (json!({ "path": "/a", "threads": 0 }), "config.threads: "),
            (json!({ "path": "/a", "threads": "many" }), "config.threads: "),
            (json!({ "path": "/a", "api_key": "hunter2" }), "config.api_key: "),
            (json!({ "path": "/a", "deep": { "side": "x" } }), "config.deep.side: "),
        ];
        for (config, expected) in cases {
            let said = refusal(schema, &config).unwrap();
            assert!(said.contains(expected), "{config}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let both = refusal(schema, &json!({ "threads": 0 })).unwrap();
        assert!(both.contains("path is missing") && both.contains("config.threads"), "{both}");
    }

    #[test]
    fn a_schema_that_is_none_or_lies_elsewhere_is_named() {
        for schema in ["{", r#"{ "type": "tea" }"#, r#"{ "$ref": "https://example.com/a.json" }"#] {
            let said = refusal(schema, &json!({})).unwrap();
            assert!(said.starts_with("schema.json"), "{said}");
        }
    }
}
