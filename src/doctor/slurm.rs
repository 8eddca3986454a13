//! Slurm and PMIx.

use std::process::Command;
use std::time::Duration;

use super::launch::output_of;
use super::{Finding, Verdict};

/// How long `srun` may take to say what it is.
const WAIT: Duration = Duration::from_secs(10);

/// What can start ranks here besides mpirun, and who has started this one.
pub fn look() -> Vec<Finding> {
    let variable = |name: &str| std::env::var(name).ok();
    let ask = |argument: &str| output_of(Command::new("srun").arg(argument), WAIT);
    let version = ask("--version").map(|output| output.trim().to_string());
    let plugins = if version.is_ok() { ask("--mpi=list").unwrap_or_default() } else { String::new() };
    vec![slurm(version.ok().as_deref(), variable), pmix(&plugins, variable)]
}

/// `version` is what srun says of itself, if there is one.
fn slurm(version: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Finding {
    let job = variable("SLURM_JOB_ID").map(|job| {
        let number = |name: &str| variable(name).unwrap_or_else(|| "an unknown number of".into());
        format!(
            "inside job {job} with {} node(s) and {} task(s)",
            number("SLURM_JOB_NUM_NODES"),
            number("SLURM_NTASKS")
        )
    });
    match (version, job) {
        (Some(version), Some(job)) => Finding::new("Slurm", Verdict::Fine, format!("{version}, {job}")),
        (Some(version), None) => Finding::new("Slurm", Verdict::Fine, format!("{version}, outside a job"))
            .advice("jobs/train.sbatch is a job script to start from"),
        (None, Some(job)) => Finding::new("Slurm", Verdict::Attention, format!("{job}, but there is no srun here"))
            .advice("start ranks with mpirun, or put Slurm's commands into PATH"),
        (None, None) => {
            Finding::new("Slurm", Verdict::Missing, "no srun here").advice("only clusters that use Slurm need it")
        }
    }
}

/// `plugins` is what `srun --mpi=list` prints; empty without Slurm.
fn pmix(plugins: &str, variable: impl Fn(&str) -> Option<String>) -> Finding {
    let fine = |says: String| Finding::new("PMIx", Verdict::Fine, says);
    if variable("PMIX_RANK").is_some() {
        let version = variable("PMIX_VERSION").map(|version| format!(" {version}")).unwrap_or_default();
        return fine(format!("this rank was started through PMIx{version}"));
    }
    if variable("PMI_RANK").is_some() {
        return fine("not needed: this rank was started through PMI".into());
    }
    let offered: Vec<&str> = plugins.split_whitespace().filter(|word| word.starts_with("pmix")).collect();
    match (plugins.is_empty(), offered.is_empty()) {
        (true, _) => {
            Finding::new("PMIx", Verdict::Missing, "no srun that could offer it").advice("mpirun brings its own")
        }
        (false, true) => Finding::new("PMIx", Verdict::Attention, "this srun does not offer it (`srun --mpi=list`)")
            .advice("start ranks with mpirun inside the allocation"),
        (false, false) => fine(format!("srun offers {}: start ranks with `srun --mpi=pmix`", offered.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string())
    }

    /// Inside a job, outside, and without Slurm.
    #[test]
    fn slurm_inside_and_outside() {
        const JOB: &[(&str, &str)] = &[("SLURM_JOB_ID", "7"), ("SLURM_JOB_NUM_NODES", "2"), ("SLURM_NTASKS", "4")];
        let inside = slurm(Some("slurm 22.05.8"), with(JOB));
        assert_eq!(
            (inside.verdict, inside.says.as_str()),
            (Verdict::Fine, "slurm 22.05.8, inside job 7 with 2 node(s) and 4 task(s)")
        );
        assert_eq!(slurm(None, with(JOB)).verdict, Verdict::Attention);
        assert_eq!(slurm(Some("slurm 22.05.8"), with(&[])).says, "slurm 22.05.8, outside a job");
        assert_eq!(slurm(None, with(&[])).verdict, Verdict::Missing);
    }

    /// What srun lists decides, and what started this rank goes before it.
    #[test]
    fn pmix_as_srun_lists_it() {
        let list = "MPI plugin types are...\n\tcray_shasta\n\tpmi2\n\tpmix\n\tpmix_v4\n";
        let says = pmix(list, with(&[])).says;
        assert_eq!(says, "srun offers pmix, pmix_v4: start ranks with `srun --mpi=pmix`");
        assert_eq!(pmix("MPI plugin types are...\n\tpmi2\n", with(&[])).verdict, Verdict::Attention);
        assert_eq!(pmix("", with(&[])).verdict, Verdict::Missing);
        let says = pmix("", with(&[("PMIX_RANK", "0"), ("PMIX_VERSION", "4.2.9")])).says;
        assert_eq!(says, "this rank was started through PMIx 4.2.9");
    }
}
