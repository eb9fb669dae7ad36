//! Compiles the DPDK shim when the feature `dpdk` asks for it; does nothing otherwise.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "dpdk")]
    if let Err(fault) = dpdk::build() {
        println!("cargo::error={fault}");
    }
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use std::process::Command;

    /// Libraries the shim calls; drivers are loaded by DPDK when it starts.
    const LIBRARIES: [&str; 4] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_eal"];

    pub(crate) fn build() -> Result<(), String> {
        println!("cargo::rerun-if-changed=dpdk/shim.c");
        println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
        pkg_config(&["--atleast-version=22.11"])?;
        let mut shim = cc::Build::new();
        shim.file("dpdk/shim.c").std("gnu11").flag_if_supported("-Wno-unused-parameter");
        for flag in pkg_config(&["--cflags"])?.split_whitespace() {
            shim.flag(flag);
        }
        // DPDK's inline functions are written for an optimising compiler.
        shim.opt_level(3).try_compile("tengate_dpdk").map_err(|error| error.to_string())?;
        for path in pkg_config(&["--libs-only-L"])?.split_whitespace() {
            println!("cargo::rustc-link-search=native={}", path.trim_start_matches("-L"));
        }
        for library in LIBRARIES {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
        Ok(())
    }

    fn pkg_config(arguments: &[&str]) -> Result<String, String> {
        let missing = |why: String| {
            format!(
                "the feature `dpdk` needs libdpdk 22.11 or newer and pkg-config: \
                 `apt-get install libdpdk-dev pkg-config` on Debian and Ubuntu, or build without the feature ({why})"
            )
        };
        let output = Command::new("pkg-config")
            .args(arguments)
            .arg("libdpdk")
            .output()
            .map_err(|error| missing(format!("pkg-config cannot be started: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("it is not there, or older");
            return Err(missing(format!("pkg-config: {said}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
