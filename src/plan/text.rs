//! Ops in words, for defects, traces and the watchdog.

use std::fmt;

use super::collective::Collective;
use super::{Action, Call, Message, Payload, Work};

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Weights(shard, range) => write!(f, "weights of shard {shard}[{}..{}]", range.start, range.end),
            Payload::Gradient(shard, range) => write!(f, "gradient of shard {shard}[{}..{}]", range.start, range.end),
            Payload::Activation(work, layer) => write!(f, "activation {layer} of {work}"),
            Payload::Dx(work, layer) => write!(f, "gradient of activation {layer} of {work}"),
            Payload::Scalars => write!(f, "scalars"),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "micro-batch {}", self.micro)?;
        if self.chunk > 0 { write!(f, " chunk {}", self.chunk) } else { Ok(()) }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Load { work, .. } => write!(f, "load {work}"),
            Action::Forward { unit, work, .. } => write!(f, "forward of {unit}, {work}"),
            Action::Recompute { unit, work, .. } => write!(f, "recomputation of {unit}, {work}"),
            Action::HeadLoss { work, gradient: None, .. } => write!(f, "loss, {work}"),
            Action::HeadLoss { work, .. } => write!(f, "loss and backward of head, {work}"),
            Action::Backward { unit, work, .. } => write!(f, "backward of {unit}, {work}"),
            Action::BackwardInput { unit, work, .. } => write!(f, "input gradient of {unit}, {work}"),
            Action::BackwardWeight { unit, work, .. } => write!(f, "weight gradient of {unit}, {work}"),
            Action::Clear { .. } => write!(f, "clear"),
            Action::Cast { .. } => write!(f, "cast"),
            Action::Accumulate { .. } => write!(f, "accumulate"),
            Action::NormPartial { .. } => write!(f, "norm"),
            Action::Update { shard, .. } => write!(f, "update of shard {shard}"),
            Action::Exchange { sends, recvs, .. } => {
                let parts = |verb: &str, messages: &[Message], way: &str| {
                    let list = messages.iter().map(|m| format!("{verb} {} {way} rank {}", m.payload, m.peer));
                    list.collect::<Vec<_>>()
                };
                let mut all = parts("send", sends, "to");
                all.extend(parts("receive", recvs, "from"));
                write!(f, "{}", all.join(", "))
            }
            Action::Collective(Call { what, payload, .. }) => match what {
                Collective::Broadcast(root) => write!(f, "broadcast {payload} from rank {root}"),
                Collective::Reduce(root) => write!(f, "reduce {payload} to rank {root}"),
                Collective::AllReduce => write!(f, "all-reduce {payload}"),
                Collective::AllGather => write!(f, "all-gather {payload}"),
                Collective::ReduceScatter => write!(f, "reduce-scatter {payload}"),
            },
        }
    }
}
