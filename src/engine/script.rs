//! A plan's list made ready to run: ops by lane, messages resolved to memory.

use crate::device::Memory;
use crate::fabric::{Transfer, Transfers};
use crate::plan::{Action, Lane, Op, OpId, RankPlan};

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

/// One list of a plan.
#[derive(Debug)]
pub(super) struct Script {
    pub ops: Vec<Op>,
    /// Ops of the compute lane, in order.
    pub compute: Vec<OpId>,
    /// Ops of each communication lane, in order.
    pub comm: Vec<Vec<OpId>>,
    /// For each op, the messages it stands for, if it communicates.
    pub transfers: Vec<Option<Transfer>>,
}

impl Script {
    /// # Panics
    /// If an op is on a lane that cannot run it: loads belong on the compute lane, messages on the others.
    pub fn new(ops: &[Op], comm_lanes: usize, transfers: &mut Transfers, memory: &Memory) -> Self {
        let mut script = Script {
            ops: ops.to_vec(),
            compute: Vec::new(),
            comm: vec![Vec::new(); comm_lanes],
            transfers: Vec::new(),
        };
        for (id, op) in ops.iter().enumerate() {
            let transfer = transfers.make(&op.action, memory);
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
            script.transfers.push(transfer);
        }
        script
    }

    /// Whether any op belongs to a communication lane.
    pub fn communicates(&self) -> bool {
        self.comm.iter().any(|lane| !lane.is_empty())
    }
}
