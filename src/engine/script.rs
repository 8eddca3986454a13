//! A plan's list made ready to run: ops by lane, messages resolved to memory.

use crate::device::DeviceError;
use crate::plan::{Action, Lane, Op, OpId, RankPlan};

use super::Lanes;

/// Which list of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// [`RankPlan::prepare`].
    Prepare,
    /// [`RankPlan::train`].
    Train,
    /// [`RankPlan::evaluate`].
    Evaluate,
}

impl Phase {
    /// All phases, in the order of their discriminants.
    pub const ALL: [Phase; 3] = [Phase::Prepare, Phase::Train, Phase::Evaluate];

    /// The list.
    pub fn ops(self, plan: &RankPlan) -> &[Op] {
        match self {
            Phase::Prepare => &plan.prepare,
            Phase::Train => &plan.train,
            Phase::Evaluate => &plan.evaluate,
        }
    }

    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Train => "train",
            Phase::Evaluate => "evaluate",
        }
    }
}

/// One list of a plan, with whatever `T` an executor needs of an op that communicates.
#[derive(Debug)]
pub(super) struct Script<T> {
    pub ops: Vec<Op>,
    /// Ops of the compute lane, in order.
    pub compute: Vec<OpId>,
    /// Ops of each communication lane, in order.
    pub comm: Vec<Vec<OpId>>,
    /// For each op, what it waits for on other lanes: the order of its own needs no looking after.
    pub foreign: Vec<Vec<OpId>>,
    /// For each op, what it does between ranks, if it communicates.
    pub transfers: Vec<Option<T>>,
}

impl<T> Script<T> {
    /// # Panics
    /// If an op is on a lane that cannot run it: loads belong on the compute lane, messages on the others.
    pub fn new(ops: &[Op], comm_lanes: usize, mut transfer: impl FnMut(&Action) -> Option<T>) -> Self {
        let mut script = Script {
            ops: ops.to_vec(),
            compute: Vec::new(),
            comm: vec![Vec::new(); comm_lanes],
            foreign: Vec::new(),
            transfers: Vec::new(),
        };
        for (id, op) in ops.iter().enumerate() {
            let transfer = transfer(&op.action);
            match op.lane {
                Lane::Compute => {
                    assert!(transfer.is_none(), "op {id} ({}) communicates on the compute lane", op.action);
                    script.compute.push(id);
                }
                Lane::Comm(lane) => {
                    assert!(!matches!(op.action, Action::Load { .. }), "op {id} ({}) is not compute", op.action);
                    script.comm[lane].push(id);
                }
            }
            script.foreign.push(op.waits.iter().copied().filter(|&wait| ops[wait].lane != op.lane).collect());
            script.transfers.push(transfer);
        }
        script
    }

    /// Whether any op belongs to a communication lane.
    pub fn communicates(&self) -> bool {
        self.comm.iter().any(|lane| !lane.is_empty())
    }

    /// For how many seconds the compute lane waited for others, by the lanes' own clock; `None` if they have none.
    pub fn waited(&self, lanes: &dyn Lanes) -> Result<Option<f64>, DeviceError> {
        let mut waited = 0.0;
        for (at, &id) in self.compute.iter().enumerate().filter(|(_, id)| !self.foreign[**id].is_empty()) {
            let Some([start, _]) = lanes.times(id)? else { return Ok(None) };
            let before = match at.checked_sub(1) {
                Some(before) => lanes.times(self.compute[before])?.map_or(start, |[_, end]| end),
                None => 0.0,
            };
            waited += f64::max(start - before, 0.0);
        }
        Ok(Some(waited))
    }
}
