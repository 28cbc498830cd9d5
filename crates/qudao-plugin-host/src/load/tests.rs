use std::ffi::c_void;

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Request, Sink,
    abi::{QdPluginApi, SIZE_OF_PLUGIN_API},
    sdk::blocking,
};

use super::copy_table;

struct Nothing;

impl ModelPlugin for Nothing {
    type Config = serde_json::Value;

    fn create(_: Host, _: Self::Config) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn run(&self, _: Request<'_>, _: &Sink<'_>) -> Result<Completion, PluginError> {
        Err(PluginError::bad_request("nothing"))
    }
}

fn copied(table: &QdPluginApi) -> Result<QdPluginApi, String> {
    // SAFETY: the table is at least as long as every size the tests write into it.
    unsafe { copy_table(table) }.map_err(|error| error.to_string())
}

#[test]
fn a_table_of_every_size_is_copied_up_to_its_size_or_refused() {
    let full = *blocking::api::<Nothing>();
    for size in 0..=SIZE_OF_PLUGIN_API {
        let copy = copied(&QdPluginApi { struct_size: size, ..full });
        let usable = 32 <= size && size % 8 == 0;
        assert_eq!(copy.is_ok(), usable, "{size}");
        if let Ok(copy) = copy {
            assert!(copy.run.is_some() && copy.drain.is_none());
        }
    }
}

#[test]
fn functions_beyond_the_plugins_size_are_not_read() {
    unsafe extern "C" fn drain(_: *mut c_void, _: u64) -> i32 {
        0
    }
    let table = QdPluginApi { drain: Some(drain), ..*blocking::api::<Nothing>() };
    assert!(copied(&table).unwrap().drain.is_some());
    assert!(copied(&QdPluginApi { struct_size: 56, ..table }).unwrap().drain.is_none());
}

#[test]
fn a_newer_plugins_longer_table_is_read_as_far_as_it_is_known() {
    #[repr(C)]
    struct Newer(QdPluginApi, [usize; 3]);
    let size = SIZE_OF_PLUGIN_API + 24;
    let newer = Newer(QdPluginApi { struct_size: size, ..*blocking::api::<Nothing>() }, [7; 3]);
    assert!(copied(&newer.0).unwrap().run.is_some());
}

#[test]
fn a_table_without_its_required_functions_is_refused_by_name() {
    let full = *blocking::api::<Nothing>();
    assert!(copied(&QdPluginApi { create: None, ..full }).unwrap_err().contains("create"));
    assert!(copied(&QdPluginApi { run: None, ..full }).unwrap_err().contains("run and submit"));
}
