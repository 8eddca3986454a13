//! Systems that pass weights on: the same losses as on one rank, with every option alone and with all together.

use super::world::{deck, train};

fn text(layers: usize, tied: bool, recompute: &str) -> String {
    format!(
        r#"
        model = {{ dim = 32, heads = 4, kv_heads = 2, ffn = 48, vocab = 257, layers = {layers}, tied = {tied} }}
        data = {{ tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 16 }}
        batch = {{ global = 14, micro = 2 }}
        optim = {{ lr = 3e-3, schedule = "constant" }}
        run = {{ steps = 6, seed = 3, recompute = "{recompute}" }}
        "#
    )
}

/// Seven micro-batches on two, three and four ranks: the last round is partly empty. The embedding is tied in every
/// other case, blocks are recomputed in two of four, and there are fewer blocks than ranks or more.
fn same_losses(options: &[&str]) {
    let worlds: [&[usize]; 4] = [&[2], &[1, 1], &[1, 2], &[2, 2]];
    for (index, groups) in worlds.into_iter().enumerate() {
        let (layers, tied) = ([5, 3, 2, 6][index], index % 2 == 1);
        let recompute = if index < 2 { "block" } else { "none" };
        let single = train(&deck(&text(layers, tied, recompute), &[1], &[]), |_| {});
        assert!(single.losses[5] < single.losses[0], "does not learn: {:?}", single.losses);
        for options in options {
            // Stripes and collective hops need groups of one size.
            if ["stripe=true", "hop=collective"].iter().any(|option| options.contains(option))
                && groups.windows(2).any(|pair| pair[0] != pair[1])
            {
                continue;
            }
            let sets: Vec<String> = options.split(' ').map(|option| format!("system.{option}")).collect();
            let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
            let ours = train(&deck(&text(layers, tied, recompute), groups, &sets), |_| {});
            for (a, b) in ours.losses.iter().zip(&single.losses) {
                let near = (a - b).abs() <= 2e-6 * b;
                assert!(near, "{options}, groups {groups:?}: {:?}, {:?}", ours.losses, single.losses);
            }
            assert_eq!(ours.losses.len(), 6);
        }
    }
}

#[test]
fn weipipe_trains() {
    same_losses(&["name=weipipe", "name=weipipe-naive"]);
}

#[test]
fn tawpipe_trains_with_every_option() {
    same_losses(&[
        "name=tawpipe",
        "name=tawpipe preset=paper",
        "name=tawpipe auto=false overlap=false",
        "name=tawpipe auto=false topology=flat",
        "name=tawpipe auto=false weight_cache=group",
        "name=tawpipe auto=false grad_sync=iteration",
        "name=tawpipe auto=false stripe=true",
        "name=tawpipe auto=true",
        "name=tawpipe auto=false hop=collective",
        "name=tawpipe hop=collective weight_cache=group grad_sync=iteration stripe=true",
        "name=tawpipe preset=paper overlap=false topology=flat stripe=true",
        "name=tawpipe weight_cache=group grad_sync=iteration stripe=true stagger=slots",
        "name=tawpipe overlap=false weight_cache=group grad_sync=iteration embed=replicated",
    ]);
}
