# Adds up what tests have recorded: one line for each reason why some could not run, then "N passed, N failed, M skipped".
# Ends with 1 if anything failed. Lines of the record, their fields separated by tabs:
#   passed   N                          tests of one program, those included that skipped themselves
#   failed   N         WHAT             tests of one program, or one step
#   skipped  REASON    HOW       TEST   why a test could not run, and how to get what is missing
# In CI (CI=true) a test that is skipped for want of Slurm, h5py or the virtual cluster has failed, unless TAWPIPE_MAY_SKIP, a
# regular expression, has its reason.
BEGIN { FS = "\t" }
$1 == "passed" { passed += $2 }
$1 == "failed" { failed += $2; what[$3] }
$1 == "skipped" {
    must = ENVIRON["CI"] == "true" && $2 ~ /Slurm|h5py|virtual cluster/
    must = must && (ENVIRON["TAWPIPE_MAY_SKIP"] == "" || $2 !~ ENVIRON["TAWPIPE_MAY_SKIP"])
    # A test that lacks two things is one test, and counts for the first of them.
    if (!($4 in seen)) {
        seen[$4]
        passed--
        if (must) failed++
        else skipped++
        tests[$2]++
    }
    how[$2] = $3
    if (must) why[$2] = ", which in CI is a failure"
}
END {
    for (name in what) print "failed: " name
    for (reason in how) {
        number = tests[reason] + 0
        print "skipped" why[reason] ": " reason " (" number (number == 1 ? " test" : " tests") "); " how[reason]
    }
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0
}
