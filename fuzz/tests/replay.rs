//! Every seed, and every beginning of it, through its fuzz target: what CI runs, without a fuzzer.

use std::fs;
use std::path::Path;

#[test]
fn every_beginning_of_every_seed_keeps_the_promises() {
    for (name, target) in tengate_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut seed_count = 0;
        for entry in fs::read_dir(&folder).expect("every target has seeds") {
            let path = entry.expect("the folder can be read").path();
            println!("{}", path.display());
            let seed = fs::read(&path).expect("the seed can be read");
            for len in 0..=seed.len() {
                target(&seed[..len]);
            }
            seed_count += 1;
        }
        assert!(seed_count > 0, "{name} has no seeds");
    }
}
