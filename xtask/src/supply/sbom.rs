//! What is in the programs, plugins and pages, as CycloneDX 1.5.

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    crates::{Lock, Shipped},
    npm,
};

/// The document. The same tree gives the same text: there is no time in it.
pub(super) fn write(lock: &Lock, shipped: &Shipped, pages: &[npm::Lock]) -> Result<String> {
    let mut components = Vec::new();
    for ((name, version), licence) in shipped {
        let mut packages = lock.packages.iter();
        let locked = packages.find(|package| package.name == *name && package.version == *version);
        let checksum = locked.and_then(|package| package.checksum.as_ref());
        let hash = checksum.map(|checksum| ("SHA-256", checksum.clone()));
        components.push(component("cargo", name, version, licence, hash));
    }
    for page in pages.iter().filter(|page| page.folder.starts_with("web/")) {
        for (place, package) in page.packages.iter().filter(|(_, package)| !package.dev) {
            let licence = package.license.clone().unwrap_or_default();
            let encoded = package.integrity.as_ref().and_then(|hash| hash.strip_prefix("sha512-"));
            let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
            let hash = bytes.map(|bytes| ("SHA-512", hex::encode(bytes)));
            components.push(component("npm", npm::name(place), &package.version, &licence, hash));
        }
    }
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "qudao",
                "name": "qudao",
                "version": env!("CARGO_PKG_VERSION"),
                "licenses": [{ "expression": "Apache-2.0" }],
            },
        },
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn component(
    kind: &str,
    name: &str,
    version: &str,
    licence: &str,
    hash: Option<(&str, String)>,
) -> Value {
    let purl = format!("pkg:{kind}/{}@{version}", name.replace('@', "%40"));
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{ "expression": licence.replace(" / ", " OR ").replace('/', " OR ") }],
    });
    if let Some((algorithm, content)) = hash {
        component["hashes"] = json!([{ "alg": algorithm, "content": content }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_has_an_address_a_licence_and_a_hash() {
        let hash = Some(("SHA-512", "00ff".to_owned()));
        let made = component("npm", "@scope/name", "1.2.3", "MIT/Apache-2.0", hash);
        assert_eq!(made["purl"], "pkg:npm/%40scope/name@1.2.3");
        assert_eq!(made["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(made["hashes"][0]["content"], "00ff");
    }
}
