//! Runs a plan: lanes, events, and a record of when each op started and ended.
