//! Which GPU a rank takes.

/// What a rank says of the GPU that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its machine.
    pub host: String,
    /// [`super::Properties::uuid`].
    pub uuid: String,
    /// [`super::Properties::name`].
    pub name: String,
}

/// The GPU of a rank that is number `local` on its machine, of those `visible` to it: its own number, or the only one that
/// its launcher lets it see. With fewer GPUs than ranks they are taken in turn; [`shared`] finds that.
pub fn ordinal(local: usize, visible: usize) -> usize {
    local % visible.max(1)
}

/// Why ranks cannot have these GPUs: some have the same one. `None` if every rank has its own. `seats` are in the order of
/// ranks.
pub fn shared(seats: &[Seat]) -> Option<String> {
    let same = |rank: &usize| {
        seats.iter().position(|seat| (&seat.host, &seat.uuid) == (&seats[*rank].host, &seats[*rank].uuid))
    };
    let (second, first) =
        (0..seats.len()).find_map(|rank| same(&rank).filter(|first| *first < rank).map(|first| (rank, first)))?;
    let seat = &seats[first];
    let (host, ranks): (_, Vec<usize>) =
        (&seat.host, (0..seats.len()).filter(|&rank| seats[rank].host == seat.host).collect());
    let mut gpus: Vec<&str> = ranks.iter().map(|&rank| seats[rank].uuid.as_str()).collect();
    gpus.sort_unstable();
    gpus.dedup();
    Some(format!(
        "ranks {first} and {second} have the same GPU ({} {} on {host}): {} ranks there see {} GPU(s); start as many ranks as \
         GPUs on each node, or set gpu.share = true",
        seat.name,
        seat.uuid,
        ranks.len(),
        gpus.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(host: &str, uuid: &str) -> Seat {
        Seat { host: host.into(), uuid: uuid.into(), name: "H100".into() }
    }

    /// A rank takes the GPU of its local number, the only one if its launcher shows it one, and shares in turn else.
    #[test]
    fn ranks_take_their_own() {
        assert_eq!([0, 1, 2, 3].map(|local| ordinal(local, 4)), [0, 1, 2, 3]);
        assert_eq!([0, 1, 2].map(|local| ordinal(local, 1)), [0, 0, 0]);
        assert_eq!([0, 1, 2].map(|local| ordinal(local, 2)), [0, 1, 0]);
    }

    /// Equal GPUs on one machine are found and named; equal names on two machines are two GPUs.
    #[test]
    fn the_same_gpu_twice_is_found() {
        assert_eq!(shared(&[seat("a", "1"), seat("a", "2"), seat("b", "1")]), None);
        let words = shared(&[seat("a", "1"), seat("b", "1"), seat("b", "2"), seat("b", "1")]).unwrap();
        assert!(words.contains("ranks 1 and 3") && words.contains("3 ranks there see 2 GPU(s)"), "{words}");
    }
}
