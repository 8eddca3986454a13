//! Cluster descriptions that are shipped, and what is said about broken ones.

use std::path::Path;

use tawpipe::cluster::Description;

/// Every shipped description is read, and describes what its name promises.
#[test]
fn shipped_descriptions() {
    let read = |name: &str| Description::read(&Path::new("inputs/clusters").join(name)).unwrap();
    let sizes = |name: &str| read(name).groups().sizes();
    assert_eq!(sizes("laptop.toml"), [2, 2]);
    assert_eq!(sizes("paper-3x8-10gbe.toml"), [8; 3]);
    assert_eq!(sizes("h100-8x8-400g.toml"), [8; 8]);
    assert_eq!(sizes("large-1024.toml"), [8; 128]);
    assert_eq!(sizes("lab-ethernet.toml"), [1, 1, 1, 1, 1, 1, 2]);
    for entry in std::fs::read_dir("inputs/clusters").unwrap() {
        let machine = Description::read(&entry.unwrap().path()).unwrap();
        assert_eq!(machine.places().len(), machine.ranks());
    }
    assert_eq!(read("paper-3x8-10gbe.toml").first(10).unwrap().sizes(), [8, 2]);
    assert!(read("laptop.toml").first(5).is_none());
}

/// A description survives being written and read again; a broken one is refused with file, line and key.
#[test]
fn broken_descriptions_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machine.toml");
    let good = std::fs::read_to_string("inputs/clusters/laptop.toml").unwrap();
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Description::read(&file).map_err(|error| error.to_string())
    };
    let machine = read(&good).unwrap();
    assert_eq!(read(&machine.to_toml()), Ok(machine));
    let cases = [
        ("ranks = 4", "rnaks = 4", "unknown field `rnaks`"),
        ("cores = 2", "cores = 0", "nodes.cores = 0 must be a number from 1e-9 to 1e24"),
        ("groups = [2, 2]", "groups = [2, 1]", "must add up to nodes.ranks = 4"),
        ("rate = 5e9", "rate = -5e9", "links.intra.rate"),
        ("memory = 4e9", "", "missing field `memory`"),
        ("duplex = \"half\"", "duplex = \"both\"", "expected `full` or `half`"),
        ("nics = 1", "nics = 0", "links.inter.nics must be from 1 to 1024"),
    ];
    for (from, to, expected) in cases {
        let error = read(&good.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected) && error.contains("machine.toml"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

/// A description may take its device from what `bench --calibrate` wrote beside it.
#[test]
fn calibrations_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string("inputs/clusters/laptop.toml").unwrap();
    std::fs::write(folder.path().join("measured.toml"), &text).unwrap();
    let (before, rest) = text.split_once("[device]").unwrap();
    let links = &rest[rest.find("# Messages").unwrap()..];
    let file = folder.path().join("machine.toml");
    std::fs::write(&file, format!("calibration = \"measured.toml\"\n{before}{links}")).unwrap();
    let machine = Description::read(&file).unwrap();
    assert_eq!(machine.device(), Description::read(&folder.path().join("measured.toml")).unwrap().device());
    std::fs::write(&file, format!("{before}{links}")).unwrap();
    assert!(Description::read(&file).unwrap_err().to_string().contains("calibration"));
}

/// Between two measured widths rates lie between theirs; beyond them the nearest holds.
#[test]
fn rates_are_interpolated() {
    use tawpipe::model::Dtype;
    let machine = Description::read(Path::new("inputs/clusters/paper-3x8-10gbe.toml")).unwrap();
    let forward = |dim| machine.device().at(dim, Dtype::Bf16).forward;
    assert_eq!(forward(64), forward(1024));
    assert_eq!(forward(8192), forward(4096));
    let middle = forward(1448);
    assert!(forward(1024) < middle && middle < forward(2048));
    assert!((middle - (forward(1024) * forward(2048)).sqrt()).abs() < 1e-3 * middle);
}
