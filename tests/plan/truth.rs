//! The training step on integers, without any plan: what every plan has to compute.
//!
//! Numbers are hashes, so that anything read in place of what belongs there changes everything after it; gradients and
//! losses are summed in wrapping arithmetic, so that the order of a sum does not matter.

use tawpipe::model::{Shards, Unit};
use tawpipe::plan::{Holding, Job};

/// Large slots are looked at only at every so many elements; tensors, and pieces of shards, start at multiples of it.
pub const GRID: usize = 64;

/// Points at which a range of elements of a slot of `elems` is looked at.
pub fn points(elems: usize, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    if elems < GRID { range } else { range.start.div_ceil(GRID)..range.end.div_ceil(GRID) }
}

/// Mixes two numbers.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(23) ^ b.wrapping_mul(0xd6e8_feb8_6659_fd93);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z ^ (z >> 29)
}

/// One number for many.
pub fn digest(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64 + 17, |h, &w| mix(h, w))
}

/// `n` numbers that follow from a seed and a purpose.
pub fn spread(seed: u64, purpose: u64, n: usize) -> Vec<u64> {
    (0..n as u64).map(|i| mix(mix(seed, purpose), i)).collect()
}

/// A number for a unit.
pub fn unit_code(unit: Unit) -> u64 {
    match unit {
        Unit::Embed => 1,
        Unit::Head => 2,
        Unit::Block(i) => 10 + i as u64,
    }
}

/// Purposes of numbers that follow from the same seed.
pub mod purpose {
    pub const OUTPUT: u64 = 1;
    pub const SAVED: u64 = 2;
    pub const DX: u64 = 3;
    pub const GRADIENT: u64 = 4;
    pub const LOSS: u64 = 5;
    pub const PENDING: u64 = 6;
}

/// Tokens of a micro-batch of an iteration: inputs, then targets.
pub fn tokens(iteration: u64, micro: usize, n: usize) -> Vec<u64> {
    spread(mix(iteration, micro as u64), 99, n)
}

/// A unit's gradient of one micro-batch. Beside a hash, each term holds 1 (bits 0..8) and the number of its element in
/// its shard (bits 8..32): a sum of terms tells how many there are, and whether all are of the same element.
pub fn terms(shards: &Shards, unit: Unit, seed: u64) -> Vec<u64> {
    let place = shards.place(unit);
    let range = points(shards.shards[place.shard].len, place.range.clone());
    let hashes = spread(seed, purpose::GRADIENT, range.len());
    range.zip(hashes).map(|(point, hash)| hash << 32 | element(place.shard, point) << 8 | 1).collect()
}

fn element(shard: usize, point: usize) -> u64 {
    (shard * 256 + point + 1) as u64
}

/// Whether a number is a sum of terms of one element (or zero).
pub fn is_sum_of(word: u64, shard: usize, point: usize) -> bool {
    (word >> 8 & 0xff_ffff) == (word & 0xff) * element(shard, point)
}

/// What an element's gradient adds to the squared norm.
pub fn square(gradient: u64) -> u64 {
    mix(gradient, 77)
}

/// One element's weight and moments after an update.
pub fn update(state: [u64; 3], gradient: u64, step: u64, squares: u64) -> [u64; 3] {
    let [master, first, second] = state;
    let first = mix(first, gradient);
    let second = mix(second, mix(gradient, 3));
    [mix(mix(master, mix(first, second)), mix(step, squares)), first, second]
}

/// What the training loop writes into the step slot.
pub fn step_scalars(iteration: u64, n: usize) -> Vec<u64> {
    spread(iteration, 55, n)
}

/// A shard's state: master, first and second moment at each point.
pub type State = [Vec<u64>; 3];

/// What is right before and after each list.
pub struct Truth {
    pub shards: Shards,
    /// `states[v][shard]` after v updates.
    pub states: Vec<Vec<State>>,
    /// Loss and squares of each training iteration, and (last) of the evaluation.
    pub stats: Vec<(u64, u64)>,
    /// `activations[iteration][micro][i]`: the input of block i (last: of the head); the evaluation counts as the last
    /// iteration.
    pub activations: Vec<Vec<Vec<Vec<u64>>>>,
    /// Gradients with respect to these, likewise.
    pub dx: Vec<Vec<Vec<Vec<u64>>>>,
}

/// Initial state of a shard: the same whatever the cut of the model.
fn initial(shards: &Shards, shard: usize) -> State {
    let len = shards.shards[shard].len;
    let mut state = [0, 1, 2].map(|_| vec![0; points(len, 0..len).len()]);
    // A tied head covers the whole shard and comes after the embedding.
    for (unit, place) in shards.units.iter().filter(|(_, place)| place.shard == shard) {
        let range = points(len, place.range.clone());
        for (kind, words) in state.iter_mut().enumerate() {
            words[range.clone()].copy_from_slice(&spread(unit_code(*unit), 1000 + kind as u64, range.len()));
        }
    }
    state
}

impl Truth {
    /// Two iterations and an evaluation.
    pub fn new(job: &Job, shards: &Shards) -> Truth {
        let first: Vec<State> = (0..shards.shards.len()).map(|shard| initial(shards, shard)).collect();
        let mut truth = Truth {
            shards: shards.clone(),
            states: vec![first],
            stats: Vec::new(),
            activations: vec![Vec::new(); 3],
            dx: vec![Vec::new(); 3],
        };
        for iteration in 0..2 {
            truth.iteration(job, iteration);
        }
        truth.evaluation(job);
        truth
    }

    /// What a slot that holds parameters holds of one kind of state after some updates, if there are so many.
    pub fn held(&self, version: usize, holds: &Holding, kind: usize) -> Option<&[u64]> {
        let len = self.shards.shards[holds.shard].len;
        Some(&self.states.get(version)?[holds.shard][kind][points(len, holds.range.clone())])
    }

    fn weights(&self, unit: Unit) -> &[u64] {
        let place = self.shards.place(unit);
        let state = &self.states[self.states.len() - 1][place.shard][0];
        &state[points(self.shards.shards[place.shard].len, place.range.clone())]
    }

    /// Activations of a micro-batch: the input of each block and of the head.
    fn forward(&self, job: &Job, tokens: &[u64]) -> Vec<Vec<u64>> {
        let wide = job.batch.micro_tokens() * job.shape.dim;
        let n = points(wide, 0..wide).len();
        let seed = forward_seed(Unit::Embed, self.weights(Unit::Embed), &tokens[..tokens.len() / 2]);
        let mut activations = vec![spread(seed, purpose::OUTPUT, n)];
        for block in 0..job.shape.layers {
            let unit = Unit::Block(block);
            let seed = forward_seed(unit, self.weights(unit), &activations[block]);
            activations.push(spread(seed, purpose::OUTPUT, n));
        }
        activations
    }

    fn iteration(&mut self, job: &Job, iteration: u64) {
        let mut gradients: Vec<Vec<u64>> = self.states[0].iter().map(|state| vec![0; state[0].len()]).collect();
        let (mut loss, mut squares) = (0u64, 0u64);
        let saved_len = |unit| {
            let bytes = footprint_saved(job, unit);
            points(bytes, 0..bytes).len()
        };
        for micro in 0..job.batch.micros {
            let tokens = tokens(iteration, micro, 2 * job.batch.micro_tokens());
            let (inputs, targets) = tokens.split_at(tokens.len() / 2);
            let activations = self.forward(job, &tokens);
            let n = activations[0].len();
            let shards = &self.shards;
            let mut add = |unit: Unit, seed: u64| {
                let place = shards.place(unit);
                let range = points(shards.shards[place.shard].len, place.range.clone());
                for (sum, term) in gradients[place.shard][range].iter_mut().zip(terms(shards, unit, seed)) {
                    *sum = sum.wrapping_add(term);
                }
            };
            let seed = head_seed(self.weights(Unit::Head), &activations[job.shape.layers], targets);
            loss = loss.wrapping_add(mix(seed, purpose::LOSS));
            add(Unit::Head, seed);
            let mut dx = spread(seed, purpose::DX, n);
            let mut all = vec![dx.clone()];
            for block in (0..job.shape.layers).rev() {
                let unit = Unit::Block(block);
                let (weights, input) = (self.weights(unit), &activations[block]);
                let saved = spread(forward_seed(unit, weights, input), purpose::SAVED, saved_len(unit));
                let seed = backward_seed(unit, weights, input, &saved, &dx);
                add(unit, seed);
                dx = spread(seed, purpose::DX, n);
                all.push(dx.clone());
            }
            all.reverse();
            self.dx[iteration as usize].push(all);
            add(Unit::Embed, backward_seed(Unit::Embed, &[], inputs, &[], &dx));
            self.activations[iteration as usize].push(activations);
        }
        for gradient in &gradients {
            squares = gradient.iter().fold(squares, |sum, &g| sum.wrapping_add(square(g)));
        }
        let step = digest(&step_scalars(iteration, tawpipe::plan::step::LEN));
        let mut next = self.states[self.states.len() - 1].clone();
        for (state, gradient) in next.iter_mut().zip(&gradients) {
            for (point, &g) in gradient.iter().enumerate() {
                let new = update([state[0][point], state[1][point], state[2][point]], g, step, squares);
                (state[0][point], state[1][point], state[2][point]) = (new[0], new[1], new[2]);
            }
        }
        self.states.push(next);
        self.stats.push((loss, squares));
    }

    fn evaluation(&mut self, job: &Job) {
        let mut loss = 0u64;
        for micro in 0..job.batch.micros {
            let tokens = tokens(2, micro, 2 * job.batch.micro_tokens());
            let activations = self.forward(job, &tokens);
            let seed = head_seed(self.weights(Unit::Head), &activations[job.shape.layers], &tokens[tokens.len() / 2..]);
            loss = loss.wrapping_add(mix(seed, purpose::LOSS));
            self.activations[2].push(activations);
        }
        self.stats.push((loss, 0));
    }
}

/// Bytes that a block saves.
pub fn footprint_saved(job: &Job, unit: Unit) -> usize {
    tawpipe::model::footprint(&job.shape, unit, job.dtype, job.recompute, job.batch.micro, job.batch.seq).saved
}

/// What a unit's forward computes from.
pub fn forward_seed(unit: Unit, weights: &[u64], input: &[u64]) -> u64 {
    mix(mix(unit_code(unit), digest(weights)), digest(input))
}

/// What the head computes from.
pub fn head_seed(weights: &[u64], input: &[u64], targets: &[u64]) -> u64 {
    mix(forward_seed(Unit::Head, weights, input), digest(targets))
}

/// What a unit's backward computes from.
pub fn backward_seed(unit: Unit, weights: &[u64], input: &[u64], saved: &[u64], dx: &[u64]) -> u64 {
    mix(mix(forward_seed(unit, weights, input), digest(saved)), digest(dx))
}
