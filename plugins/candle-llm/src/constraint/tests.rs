use super::*;

#[test]
fn openais_formats_are_read() {
    assert_eq!(Form::read(&json!({ "type": "text" })).unwrap(), None);
    let any = Form::read(&json!({ "type": "json_object" })).unwrap();
    assert_eq!(any, Some(Form::Schema(json!({ "type": "object" }))));
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let format = json!({ "type": "json_schema",
                         "json_schema": { "name": "n", "strict": true, "schema": schema } });
    assert_eq!(Form::read(&format).unwrap(), Some(Form::Schema(schema)));
    let regex = json!({ "type": "grammar", "syntax": "regex", "definition": "[ab]+" });
    assert_eq!(Form::read(&regex).unwrap(), Some(Form::Regex("[ab]+".to_owned())));
}

#[test]
fn what_is_no_format_is_refused_with_its_reason() {
    for (format, reason) in [
        (json!({ "type": "xml" }), "type must be"),
        (json!("json"), "type must be"),
        (json!({ "type": "json_schema" }), "json_schema.schema"),
        (json!({ "type": "json_schema", "json_schema": { "schema": true } }), "must be an object"),
        (json!({ "type": "grammar", "syntax": "bnf", "definition": "x" }), "syntax"),
        (json!({ "type": "grammar", "syntax": "lark" }), "definition"),
        (
            json!({ "type": "grammar", "syntax": "regex", "definition": "a".repeat(70_000) }),
            "longer than",
        ),
    ] {
        let error = Form::read(&format).unwrap_err().to_string();
        assert!(error.starts_with("response_format") && error.contains(reason), "{error}");
    }
}
