//! The header compiles as C11 and C++17, and a C compiler sees the layout that Rust sees.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fmt::Write as _,
    mem::{offset_of, size_of},
    path::Path,
    process::Command,
};

use qudao_plugin_api::abi::{
    QD_E_AGAIN, QD_E_BROKEN, QD_E_OVERLOADED, QD_EV_ERROR, QD_EVENT_BYTES_MAX, QD_HTTP_PUBLIC,
    QD_KIND_TOKENIZE, QD_MAGIC, QD_NET_TIMER, QdAbiInfo, QdError, QdEvent, QdHeader, QdHostApi,
    QdHttp, QdNetEvent, QdPluginApi, QdRequest,
};

macro_rules! layout {
    ($($type:ident { $($field:ident),+ })+) => {{
        let (mut rust, mut c) = (String::new(), String::new());
        $(
            writeln!(rust, "{} {}", stringify!($type), size_of::<$type>()).unwrap();
            writeln!(c, r#"printf("{0} %zu\n", sizeof({0}));"#, stringify!($type)).unwrap();
            $(
                let field = stringify!($field);
                let at = offset_of!($type, $field);
                writeln!(rust, "{}.{field} {at}", stringify!($type)).unwrap();
                writeln!(c, r#"printf("{0}.{1} %zu\n", offsetof({0}, {1}));"#,
                    stringify!($type), field).unwrap();
            )+
        )+
        (rust, c)
    }};
}

fn compile_and_run(compiler: &str, flags: &[&str], extension: &str, body: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join(format!("layout.{extension}"));
    let program = folder.path().join("layout");
    let text = format!(
        "#include <stdio.h>\n#include \"qudao_plugin.h\"\nint main(void) {{\n{body}return 0;\n}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let output = Command::new(compiler)
        .args(flags)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(include)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap()
}

#[test]
fn c_and_cpp_see_the_layout_and_the_constants_of_rust() {
    let (mut rust, mut c) = layout! {
        QdAbiInfo { magic, struct_size, abi_major, abi_minor, flags, reserved, sdk }
        QdEvent { struct_size, kind, flags, index, token_id, logprob, code, data, extra }
        QdRequest { struct_size, kind, id, deadline_ns, payload, cancel, trace }
        QdError { code, len, msg }
        QdHostApi {
            struct_size, abi_minor, ctx, log, emit, wait_credit, http, http_read, http_stop, timer
        }
        QdPluginApi {
            struct_size, abi_minor, create, destroy, run, submit, cancel, resume, drain, net
        }
        QdHeader { name, value }
        QdHttp {
            struct_size, flags, number, header_count, connect_ms, head_ms, idle_ms, total_ms, method,
            url, headers, body
        }
        QdNetEvent { struct_size, kind, status, number, code, headers, header_count, reserved, data }
    };
    let values = [
        i64::from(QD_E_AGAIN),
        i64::from(QD_E_OVERLOADED),
        i64::from(QD_E_BROKEN),
        i64::from(QD_EV_ERROR),
        i64::from(QD_NET_TIMER),
        i64::from(QD_HTTP_PUBLIC),
        i64::from(QD_KIND_TOKENIZE),
        i64::try_from(QD_EVENT_BYTES_MAX).unwrap(),
        i64::try_from(QD_MAGIC).unwrap(),
    ];
    for value in values {
        writeln!(rust, "{value}").unwrap();
    }
    for name in [
        "QD_E_AGAIN",
        "QD_E_OVERLOADED",
        "QD_E_BROKEN",
        "QD_EV_ERROR",
        "QD_NET_TIMER",
        "QD_HTTP_PUBLIC",
        "QD_KIND_TOKENIZE",
        "QD_EVENT_BYTES_MAX",
        "QD_MAGIC",
    ] {
        writeln!(c, r#"printf("%lld\n", (long long){name});"#).unwrap();
    }
    assert_eq!(compile_and_run("gcc", &["-std=c11"], "c", &c), rust);
    assert_eq!(compile_and_run("g++", &["-std=c++17"], "cc", &c), rust);
}
