//! What is printed as JSON is what `docs/reference/tenure.schema.json` says, and what packages install.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Map, Value};
use support::{ENDLESS, Place, Running, stderr, stdout, tenure};

fn docs(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    fs::read_to_string(docs.join(name)).unwrap()
}

/// Holds a value against a definition of the schema.
fn assert_is(definition: &str, text: &str) -> Value {
    let schema: Value = serde_json::from_str(&docs("tenure.schema.json")).unwrap();
    let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"));
    check(&schema["$defs"][definition], &value, definition);
    value
}

/// The part of JSON Schema that ours uses; any other word fails.
fn check(schema: &Value, value: &Value, at: &str) {
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    let properties = schema.get("properties").and_then(Value::as_object);
    for (word, says) in schema
        .as_object()
        .unwrap_or_else(|| panic!("{at}: no schema"))
    {
        match word.as_str() {
            "description" => {}
            "type" => {
                let one = std::slice::from_ref(says);
                let types = says.as_array().map_or(one, Vec::as_slice);
                let fits = types.iter().any(|it| is_a(value, it.as_str().unwrap()));
                assert!(fits, "{at}: {value} is not {says}");
            }
            "enum" => assert!(says.as_array().unwrap().contains(value), "{at}: {value}"),
            "required" => {
                for name in says.as_array().unwrap() {
                    assert!(
                        object.contains_key(name.as_str().unwrap()),
                        "{at}: no {name}"
                    );
                }
            }
            "additionalProperties" => {
                assert_eq!(says, &Value::Bool(false));
                for name in object.keys() {
                    assert!(
                        properties.unwrap().contains_key(name),
                        "{at}: {name} is new"
                    );
                }
            }
            "properties" => {
                for (name, schema) in says.as_object().unwrap() {
                    if let Some(value) = object.get(name) {
                        check(schema, value, &format!("{at}.{name}"));
                    }
                }
            }
            "items" => {
                for value in value.as_array().unwrap() {
                    check(says, value, &format!("{at}[]"));
                }
            }
            other => panic!("{at}: this test does not know the word {other}"),
        }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_command_prints_the_json_that_the_schema_says() {
    let place = Place::new();
    place.make_store();
    let print = |arguments: &[&str]| {
        let mut command = tenure();
        command.args(arguments).args(["--json"]);
        if arguments != ["version"] {
            command.args(["--backend", &place.url()]);
        }
        if ["status", "watch", "step-down"].contains(&arguments[0]) {
            command.args(["--lock", place.lock()]);
        }
        stdout(&command.output().unwrap())
    };
    assert_eq!(assert_is("status", &print(&["status"]))["state"], "free");
    // It notices with a heartbeat that it is asked to resign.
    let options = ["--id", "alice", "--lease", ENDLESS, "--heartbeat", "200ms"];
    let _leader = place.start(&options, "exec sleep 1000");
    place.until_led_by("alice");
    let status = assert_is("status", &print(&["status"]));
    assert_eq!(
        (&status["leader"], &status["token"]),
        (&"alice".into(), &1.into())
    );
    let mut watch = place.tenure("watch");
    let mut watch = Running::start(watch.arg("--json").stdout(Stdio::piped()));
    let lines = BufReader::new(watch.0.stdout.take().unwrap());
    for line in lines.lines().take(1) {
        assert_is("watch", &line.unwrap());
    }
    let list = assert_is("list", &print(&["list"]));
    assert_eq!(list["elections"][0]["leader"], "alice");
    let asked = assert_is("step-down", &print(&["step-down"]));
    assert_eq!(
        (&asked["resigned"], &asked["asked"]["token"]),
        (&true.into(), &1.into())
    );
    let doctor = assert_is("doctor", &print(&["doctor"]));
    assert!(!doctor["checks"].as_array().unwrap().is_empty());
    assert_is("bench", &print(&["bench"]));
    let version = assert_is("version", &print(&["version"]));
    assert!(
        version["features"]
            .as_array()
            .unwrap()
            .contains(&"file".into())
    );
}

#[test]
fn errors_are_json_where_json_is_asked_for_and_have_one_prefix_elsewhere() {
    let failing = |arguments: &[&str], json: &str| {
        let mut failing = tenure();
        let output = failing
            .args(arguments)
            .env("TENURE_JSON", json)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        stderr(&output)
    };
    let bad_url = ["status", "--backend", "mysql://h", "--lock", "job"];
    let wrong_usage = ["status", "--no-such-option"];
    for arguments in [&bad_url[..], &wrong_usage] {
        let text = failing(arguments, "off");
        assert!(text.starts_with("tenure: "), "{text}");
        assert_is("error", &failing(arguments, "1"));
        for more in [&["--json"] as &[&str], &["--log-format", "json"]] {
            let text = failing(&[arguments, more].concat(), "0");
            let error = assert_is("error", &text);
            assert_eq!(error["exit_code"], 2);
        }
    }
}

#[test]
fn the_log_can_be_json_and_rust_log_says_what_is_logged() {
    let place = Place::new();
    let log = |variables: &[(&str, &str)]| {
        let mut run = place.run(&["--log-format", "json"], "exit 0");
        let output = run.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stderr(&output)
    };
    assert_eq!(log(&[]), "");
    let lines = log(&[("RUST_LOG", "info")]);
    assert!(lines.lines().count() > 1, "{lines}");
    for line in lines.lines() {
        assert_is("log", line);
    }
    assert!(lines.contains("\"token\":"), "{lines}");
    // The own variable goes first.
    let both = [("RUST_LOG", "info"), ("TENURE_LOG", "error")];
    assert_eq!(log(&both), "");
}

/// tenure goes on without it.
#[test]
fn what_is_ignored_is_a_warning_and_no_error() {
    let place = Place::new();
    place.make_store();
    let told = |options: &[&str]| {
        let mut status = place.tenure("status");
        let output = status
            .args(options)
            .env("RUST_LOG", "=,=")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr(&output)
    };
    for options in [&["--json"] as &[&str], &["--log-format", "json"]] {
        let lines = told(options);
        assert_eq!(lines.lines().count(), 2, "{lines}");
        for line in lines.lines() {
            let line = assert_is("log", line);
            assert_eq!(line["level"], "WARN");
            assert!(line["message"].as_str().unwrap().contains("RUST_LOG"));
        }
    }
    let text = told(&[]);
    assert!(text.starts_with("tenure: warning: ignoring "), "{text}");
}

/// Also what another process of tenure tells, and the log beside what is printed.
#[test]
fn all_of_standard_error_is_json_where_json_is_asked_for() {
    let place = Place::new();
    for (program, code) in [("/no/such/program", 127), ("/", 126)] {
        let mut run = place.tenure("run");
        let run = run.args(["--log-format", "json", "--", program]);
        let output = run.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(assert_is("error", &stderr(&output))["exit_code"], code);
        // What was typed goes before the variable.
        let mut run = place.tenure("run");
        let run = run.env("TENURE_LOG_FORMAT", "json");
        let output = run.args(["--log-format", "text", "--", program]).output();
        assert!(stderr(&output.unwrap()).starts_with("tenure: "));
    }
    let mut list = tenure();
    let url = "redis:u:hunter2@127.0.0.1:1";
    let output = list.args(["list", "--json", "--backend", url]).output();
    let lines = stderr(&output.unwrap());
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(assert_is("log", lines[0])["level"], "WARN");
    assert_is("error", lines[1]);
}

/// The same numbers as in `docs/reference/policy.md`.
#[test]
fn a_policy_is_told_in_numbers() {
    let shown = |arguments: &[&str]| {
        let output = tenure().arg("policy").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stdout(&output)
    };
    let policy = assert_is("policy", &shown(&["--json"]));
    assert_eq!(policy["outage_ms"], 7_380);
    assert_eq!(policy["told_to_stop_after_ms"], 18_380);
    assert_eq!(policy["nobody_leads_ms"]["after_resignation"], 7_500);
    let patient = assert_is("policy", &shown(&["--policy", "patient", "--json"]));
    assert!(patient["outage_ms"].as_u64() > Some(45_000), "{patient}");
    let text = shown(&["--stop-grace", "5s"]);
    assert!(text.contains("outage survived             3.88s"), "{text}");
}

#[test]
fn completions_and_manual_pages_show_what_there_is_and_nothing_hidden() {
    for shell in ["bash", "zsh", "fish"] {
        let output = tenure().args(["completions", shell]).output().unwrap();
        let script = stdout(&output);
        assert!(
            script.contains("--hold-for") || script.contains("hold-for"),
            "{shell}"
        );
        for hidden in ["__exec", "__guard", "__subreaper", "__work"] {
            assert!(!script.contains(hidden), "{shell}: {hidden}");
        }
    }
    let place = Place::new();
    let output = tenure().arg("man").arg(place.path("man")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let pages = fs::read_dir(place.path("man")).unwrap();
    let names: Vec<String> = pages
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in ["tenure.1", "tenure-run.1", "tenure-status.1"] {
        assert!(names.iter().any(|it| it == name), "{names:?}");
    }
    assert!(!names.iter().any(|it| it.contains("__")), "{names:?}");
    assert!(place.read("man/tenure-run.1").contains("SIGTERM"));
}

#[test]
fn every_exit_code_is_in_the_table() {
    let page = docs("command-line.md");
    for code in ["0", "1", "2", "69", "75", "76", "126", "127", "128 + N"] {
        assert!(page.contains(&format!("\n| {code} |")), "{code}");
    }
}
