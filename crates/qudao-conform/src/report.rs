//! What was found, for people and for programs.

use qudao_pcp::{CaseReport, Outcome, Report};

/// One line of a case for a terminal.
pub fn line(case: &CaseReport) -> String {
    let sign = match case.outcome {
        Outcome::Passed => "ok  ",
        Outcome::Failed => "FAIL",
        Outcome::Skipped => "skip",
    };
    let detail =
        if case.detail.is_empty() { String::new() } else { format!("\n          {}", case.detail) };
    format!("  {sign} {} {} ({} ms){detail}", case.id, case.title, case.took_ms)
}

/// The last line.
pub fn summary(report: &Report) -> String {
    let count = |wanted| report.cases.iter().filter(|case| case.outcome == wanted).count();
    let (passed, failed, skipped) =
        (count(Outcome::Passed), count(Outcome::Failed), count(Outcome::Skipped));
    let verdict = if report.is_green() { "conforms" } else { "does not conform" };
    format!(
        "{passed} passed, {failed} failed, {skipped} skipped: {verdict} to PCP/1 of {}",
        report.pcp_version
    )
}

/// The report as JUnit's XML.
pub fn junit(report: &Report) -> String {
    let count = |wanted| report.cases.iter().filter(|case| case.outcome == wanted).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"pcp/1\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
        report.cases.len(),
        count(Outcome::Failed),
        count(Outcome::Skipped),
    );
    for case in &report.cases {
        let millis = case.took_ms;
        let time = format!("{}.{:03}", millis / 1000, millis % 1000);
        let (id, title, detail) = (escape(&case.id), escape(&case.title), escape(&case.detail));
        xml.push_str(&format!(
            "  <testcase classname=\"pcp\" name=\"{id} {title}\" time=\"{time}\">"
        ));
        match case.outcome {
            Outcome::Passed => {}
            Outcome::Failed => xml.push_str(&format!("<failure message=\"{detail}\"/>")),
            Outcome::Skipped => xml.push_str(&format!("<skipped message=\"{detail}\"/>")),
        }
        xml.push_str("</testcase>\n");
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    text.chars().filter(|letter| !letter.is_control() || *letter == '\n').collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use qudao_pcp::Role;

    use super::*;

    #[test]
    fn a_failure_is_told_in_every_form() {
        let case = CaseReport {
            id: "S04".into(),
            title: "a changed byte".into(),
            outcome: Outcome::Failed,
            detail: "got <202> & \"ok\"".into(),
            took_ms: 1234,
        };
        assert!(line(&case).starts_with("  FAIL S04 a changed byte (1234 ms)"));
        let report = Report {
            kit: "k".into(),
            pcp_version: "2026-11-01".into(),
            role: Role::Partner,
            channel: "chn".into(),
            at: Timestamp::UNIX_EPOCH,
            cases: vec![case],
        };
        assert!(summary(&report).contains("1 failed, 0 skipped: does not conform"));
        let xml = junit(&report);
        assert!(xml.contains("failures=\"1\"") && xml.contains("&lt;202> &amp; &quot;ok&quot;"));
    }
}
