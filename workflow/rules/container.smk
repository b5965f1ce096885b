# Runs in containers: the image must hold what the checkout's requirements.lock names, and see the study's data.
from archbench import hub
from archbench.container import (
    LOCK_VARIABLE,
    check_image,
    compare_lock,
    extended,
    image_guard,
    lock_hash,
    run_arguments,
)
from archbench.dataset_checks import PACKAGE

LOCK_FILE = os.path.join(workflow.basedir, "requirements.lock")
IMAGE_GUARD = ""  # with its braces doubled, as shell.prefix wants them


def data_paths():
    """Folders and files that the study reads and that may lie outside the checkout, by their keys."""
    paths = {
        f"datasets.{name}.root": entry.root for name, entry in STUDY.datasets.items()
    }
    paths |= {
        f"compute.data_roots.{i}": path
        for i, path in enumerate(STUDY.compute.data_roots)
    }
    paths |= {
        f"ensemble.external.{name}": path
        for name, path in STUDY.ensemble.external.items()
    }
    for name, model in STUDY.models.items():
        paths[f"models.{name}.checkpoint"] = model.checkpoint
        kind, _, file = model.weights.partition(":")
        file = os.path.dirname(file) or "." if file.endswith(".index.json") else file
        paths[f"models.{name}.weights"] = file if kind == "file" else None
        paths[f"models.{name}.prompt.csv"] = model.prompt and model.prompt.csv
        repository = model.architecture.removeprefix("decoder:")
        repository = repository.removeprefix("hf:").removeprefix("sam:")
        if repository != model.architecture and hub.is_folder(repository):
            paths[f"models.{name}.architecture"] = repository
    # What lies in a package comes from the image's packages.
    return {
        key: path
        for key, path in paths.items()
        if path is not None and not path.startswith(PACKAGE)
    }


if CONTAINED:
    if workflow.is_main_process:
        check_image(IMAGE, LOCK_FILE)
    IMAGE_GUARD = (
        image_guard(lock_hash(LOCK_FILE)).replace("{", "{{").replace("}", "}}")
    )
    workflow.deployment_settings.apptainer_args = extended(
        workflow.deployment_settings.apptainer_args,
        run_arguments(data_paths(), os.environ, os.getcwd()),
    )
elif LOCK_VARIABLE in os.environ:  # Snakemake itself runs in the Docker image
    compare_lock("the image", os.environ[LOCK_VARIABLE], lock_hash(LOCK_FILE))
