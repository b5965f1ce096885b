# What outlives a study: its runs in the results database, and the boards of one's own runs and of the hub.
from archbench.leaderboard import BOARDS


# Short, and the database lies where Snakemake runs; a network is at hand there too.
localrules:
    add_to_leaderboard,
    leaderboard,
    hub_leaderboard,


rule add_to_leaderboard:
    input:
        f"{RESULTS}/results.json",
    output:
        f"{RESULTS}/leaderboard.json",
    log:
        f"{LOGS}/add_to_leaderboard.log",
    params:
        settings=STUDY.leaderboard.database,
        code=fingerprint("add_to_leaderboard"),
    message:
        "add the study to the results database"
    shell:
        "python $SCRIPTS/add_to_leaderboard.py --results $RESULTS --database {params.settings:q}"
        " --output {output} 2>&1 | tee {log:q}"


# All runs that the database holds, ranked: snakemake leaderboard
rule leaderboard:
    log:
        f"{LOGS}/leaderboard.log",
    params:
        database=STUDY.leaderboard.database or "",
    message:
        "the leaderboard of all finished studies"
    shell:
        f"python $SCRIPTS/leaderboard.py runs --database={{params.database:q}} --output-dir {BOARDS} 2>&1 | tee {{log:q}}"


# Models of the Hugging Face hub: snakemake hub_leaderboard
rule hub_leaderboard:
    log:
        f"{LOGS}/hub_leaderboard.log",
    message:
        "the leaderboard of the Hugging Face hub"
    shell:
        f"HF_HUB_OFFLINE=0 python $SCRIPTS/leaderboard.py hub --study $STUDY_FILE --output-dir {BOARDS} 2>&1 | tee {{log:q}}"
