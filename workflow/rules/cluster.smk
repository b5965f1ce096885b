# Jobs that are still at SLURM because their Snakemake was killed: run again, they would be run twice.
from archbench.slurm_jobs import still_at_slurm


def refuse_to_run_twice():
    """Before anything starts: an error that names the jobs of an earlier run that this one would run, too."""
    noted = [
        workflow.persistence.external_jobids(job) for job in workflow.dag.needrun_jobs()
    ]
    left = still_at_slurm({job for jobs in noted for job in jobs})
    if left:
        raise WorkflowError(
            f"{len(left)} jobs of an earlier run of this study are still at SLURM, and this run would run them, too. Wait"
            f" until they have ended (squeue --me), or cancel them (trainings go on): scancel {' '.join(left)}"
        )
