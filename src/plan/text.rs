//! Ops in words, for defects, traces and the watchdog.

use std::fmt;

use super::{Action, Message, Payload, Work};

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Weights(shard) => write!(f, "weights of shard {shard}"),
            Payload::Gradient(shard, range) => write!(f, "gradient of shard {shard}[{}..{}]", range.start, range.end),
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
            Action::Broadcast { root, payload, .. } => write!(f, "broadcast {payload} from rank {root}"),
            Action::Reduce { root, payload, .. } => write!(f, "reduce {payload} to rank {root}"),
            Action::AllReduce { payload, .. } => write!(f, "all-reduce {payload}"),
        }
    }
}
