"""Both images, built for real, and a study that runs in one with the real Apptainer: make test-container."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import container_machine
import pytest
from container_machine import CHECKOUT, KEPT, MINUTES, Builder, run
from PIL import Image, ImageDraw

from archbench.container import image_guard, lock_hash

pytestmark = pytest.mark.timeout(60 * MINUTES)

PARTS = ("Snakefile", "Makefile", "apptainer.def", "requirements.lock", "pyproject.toml", ".dockerignore")
FOLDERS = ("archbench", "archbench_predict", "config", "containers", "profiles", "scripts", "workflow")
SHM_BYTES = 65536
STUDY = """
study: contained
datasets:
  phantom:
    format: phantom
    classes: [No DR, Mild, Moderate, Severe, Proliferative]
    phantom: {patients: 20, image_size: 64, seed: 1}
  clinic:
    format: table
    root: ../data/clinic
    csv: labels.csv
    columns: {image: file, patient: patient, label: grade}
    classes: [dark, bright]
protocol: {kind: cross_validation, folds: 2, seeds: [3]}
training: {epochs: 1, batch_size: 16, lr: 1.0e-3}
models:
  custom1: {architecture: custom1, image_size: 32}
explain: {cases: 2}
inference: {batch_sizes: [1], runtimes: [onnxruntime], rounds: 7, calls: 3, repeats: 0}
evaluation: {resamples: 200, comparison_resamples: 200, clinical_cut: 1}
compute: {data_roots: [../archive]}
"""
# Added to a module of the copy that each training imports: what the code sees where it runs.
PROBE = """
import json as _json, os as _os, sys as _sys
from pathlib import Path as _Path

def _refused(path):
    try:
        _Path(path, "written").touch()
    except OSError as error:
        return error.strerror
    return None

print("PROBE", _json.dumps({
    "code": __file__,
    "python": _sys.executable,
    "image": _os.environ.get("APPTAINER_CONTAINER"),
    "home_variable": _os.environ.get("FROM_THE_HOST"),
    "tmpdir": _os.environ.get("TMPDIR"),
    "tmpdir_refused": _refused(_os.environ["TMPDIR"]),
    "caches": _os.environ.get("XDG_CACHE_HOME"),
    "threads": _os.environ.get("OMP_NUM_THREADS"),
    "gpus": _os.environ.get("CUDA_VISIBLE_DEVICES"),
    "data_refused": _refused("../data/clinic"),
    "archive_refused": _refused("../archive"),
    "not_named_is_there": _Path("../not_named").exists(),
    "shm_bytes": _os.statvfs("/dev/shm").f_frsize * _os.statvfs("/dev/shm").f_blocks,
}), flush=True)
"""


@pytest.fixture(scope="session")
def builder() -> Iterator[Builder]:
    """Both images, the Docker one built beside what the other tests do: much of a build is waiting."""
    builder = Builder()
    builder.base()
    with ThreadPoolExecutor(1) as beside:
        builder.docker_built = beside.submit(builder.docker, CHECKOUT)
        yield builder


class Contained:
    """A copy of the checkout with an image, and data beside it."""

    def __init__(self, folder: Path, builder: Builder) -> None:
        self.folder, self.scratch = folder / "checkout", folder / "scratch"
        self.scratch.mkdir(parents=True)
        copy_checkout(self.folder)
        self.image = self.folder / "containers/archbench.sif"
        self.built = builder.sif(self.folder)
        draw_clinic(folder / "data/clinic", folder / "archive")
        (folder / "not_named").mkdir()
        (self.folder / "config/config.yaml").write_text(STUDY, encoding="utf-8")

    def snakemake(self, *arguments: str, check: bool = True, small_shm: bool = False) -> str:
        """Run Snakemake as a user would; optionally on a machine with a tiny /dev/shm."""
        command = [sys.executable, "-m", "snakemake", *arguments]
        if small_shm:
            mount = f'mount -t tmpfs -o size={SHM_BYTES} tmpfs /dev/shm && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return run(
            *command,
            folder=self.folder,
            check=check,
            PATH=path,
            PYTHONPATH=str(self.folder),
            TMPDIR=str(self.scratch),
            FROM_THE_HOST="leaked",
            CUDA_VISIBLE_DEVICES="0,1",
        )

    def execute(self, *command: str) -> str:
        """Run a command in the image without Snakemake."""
        return run("apptainer", "exec", "--cleanenv", self.image, *command, folder=self.folder)

    @property
    def results(self) -> Path:
        return self.folder / "results/contained"

    def log(self, name: str) -> str:
        """Text of one job's log."""
        return (self.folder / "logs/contained" / name).read_text(encoding="utf-8")


def copy_checkout(folder: Path) -> None:
    """What a clone holds of the product."""
    for name in FOLDERS:
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.sif"))
    for name in PARTS:
        shutil.copy(CHECKOUT / name, folder / name)


def draw_clinic(folder: Path, archive: Path) -> None:
    """Two classes of discs, 20 patients with two images; one image is a link into another folder."""
    folder.mkdir(parents=True)
    archive.mkdir()
    rows = []
    for index in range(40):
        grade = index // 2 % 2
        image = Image.new("RGB", (48, 48), (20, 20, 20))
        shade = 90 + 120 * grade + index
        ImageDraw.Draw(image).ellipse((4 + index // 10, 6, 40, 40), fill=(shade, shade, 60 + index))
        image.save(folder / f"{index}.png")
        rows.append({"file": f"{index}.png", "patient": f"p{index // 2}", "grade": grade})
    shutil.move(folder / "0.png", archive / "moved.png")
    (folder / "0.png").symlink_to(archive / "moved.png")
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file", "patient", "grade"])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def contained(builder: Builder) -> Iterator[Contained]:
    """The study, run once in containers: with a tiny /dev/shm where a test may mount one."""
    with tempfile.TemporaryDirectory(dir=hidden_folder(), prefix="run-") as folder:
        yield run_study(Contained(Path(folder), builder))


def hidden_folder() -> Path:
    """A folder outside /tmp and /var/tmp, which Apptainer shows to every container."""
    shown = (Path("/tmp"), Path("/var/tmp"))
    places = [place for place in (KEPT, Path.home(), Path("/srv")) if os.access(place, os.W_OK)]
    found = [place for place in places if not any(place.resolve().is_relative_to(folder) for folder in shown)]
    if not found:
        pytest.skip(f"Apptainer shows /tmp and /var/tmp to every container, and all of these are there: {places}")
    return found[0]


def run_study(made: Contained) -> Contained:
    batches = made.folder / "archbench/batches.py"
    batches.write_text(batches.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    made.snakemake("--cores", "2", "--use-singularity", small_shm=os.geteuid() == 0)
    return made


@pytest.fixture(scope="session")
def seen(contained: Contained) -> dict[str, object]:
    """What a training's code saw in its container."""
    lines = contained.log("train/clinic/custom1/fold0-seed3.log").splitlines()
    return json.loads(next(line for line in lines if line.startswith("PROBE")).removeprefix("PROBE"))


def test_the_study_ran_in_the_image(contained, seen):
    assert (contained.results / "report.html").stat().st_size > 10_000
    assert seen["python"] == "/opt/archbench/venv/bin/python"
    assert seen["image"] == str(contained.image)
    for dataset in ("phantom", "clinic"):
        assert (contained.results / dataset / "comparison.json").is_file()


def test_the_code_is_the_checkouts_not_a_copy(contained, seen):
    assert seen["code"] == str(contained.folder / "archbench/batches.py")
    own = ("common.smk", "fingerprint.py", "onnx_session.py", "train.py")  # names that no package uses for its own
    names = " -o ".join(f"-path */archbench/{name} -o -path */rules/{name} -o -path */scripts/{name}" for name in own)
    find = ("find", "/opt", "/usr", "/home", "/srv", "(", *names.split(), ")", "-print")
    assert run("apptainer", "exec", "--cleanenv", "--contain", contained.image, *find).split() == []
    assert run("find", contained.folder, "-name", "common.smk").split() != []  # and such a search finds them


def test_data_outside_the_checkout_is_read_but_never_written(contained, seen):
    audit = json.loads((contained.results / "clinic/data/audit.json").read_text(encoding="utf-8"))
    assert (audit["n_rows"], audit["n_cases"]) == (40, 40)  # the link into data_roots among them
    assert seen["data_refused"] == "Read-only file system"
    assert seen["archive_refused"] == "Read-only file system"
    assert not seen["not_named_is_there"]


def test_the_hosts_environment_stays_out_but_for_what_is_needed(contained, seen):
    assert seen["home_variable"] is None
    assert seen["threads"] == "1"
    assert seen["gpus"] == "0,1"


def test_temporary_files_and_caches_are_in_tmpdir(contained, seen):
    assert (seen["tmpdir"], seen["tmpdir_refused"]) == (str(contained.scratch), None)
    assert str(seen["caches"]).startswith(str(contained.scratch))
    assert list(contained.scratch.glob("archbench-cache-*/matplotlib/*"))
    unexpected = {".cache", ".config", ".local"} & {path.name for path in contained.folder.iterdir()}
    assert not unexpected  # apptainer makes the working directory the home


def test_a_tiny_shared_memory_is_enough(seen):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small /dev/shm for the test")
    assert seen["shm_bytes"] == SHM_BYTES


def test_the_snakemake_report(contained):
    contained.snakemake("--cores", "2", "--use-singularity", "--", "report")
    with zipfile.ZipFile(contained.results / "snakemake_report.zip") as archive:
        assert any(name.endswith("report.html") for name in archive.namelist())


def test_the_study_goes_on_outside_without_running_anything_again(contained):
    assert "Nothing to be done" in contained.snakemake("--dry-run")
    assert "Nothing to be done" in contained.snakemake("--dry-run", "--use-singularity")


def test_a_failed_job_ends_in_a_partial_report(contained):
    """Without data_roots the link of 0.png leads nowhere in the container, and no bad row is allowed."""
    phantom = STUDY[STUDY.index("  phantom:") : STUDY.index("  clinic:")]
    failing = STUDY.replace("study: contained", "study: failing").replace(phantom, "")
    failing = failing.replace("compute: {data_roots: [../archive]}", "audit: {max_bad_fraction: 0.0}")
    (contained.folder / "config/failing.yaml").write_text(failing, encoding="utf-8")
    output = contained.snakemake(
        *("--cores", "2", "--use-singularity", "--configfile", "config/failing.yaml"), check=False
    )
    assert "labels.csv:2: missing_file: 0.png" in output and "Error in rule prepare_dataset" in output
    assert (contained.folder / "results/failing/report.html").is_file()


def test_another_lock_is_refused_before_anything_runs(contained):
    lock = contained.folder / "requirements.lock"
    original = lock.read_text(encoding="utf-8")
    built_from = lock_hash(lock)
    try:
        lock.write_text(original + "# edited\n", encoding="utf-8")
        output = contained.snakemake("--cores", "2", "--use-singularity", "--forceall", check=False)
        assert built_from in output and lock_hash(lock) in output and "make image" in output
        assert "Activating singularity image" not in output
    finally:
        lock.write_text(original, encoding="utf-8")


def test_each_job_refuses_an_image_of_another_lock(contained):
    lock = contained.folder / "requirements.lock"
    assert contained.execute("bash", "-c", image_guard(lock_hash(lock)) + "echo goes on").strip() == "goes on"
    with pytest.raises(AssertionError, match="make image"):
        contained.execute("bash", "-c", image_guard("0" * 64) + "echo goes on")


def test_an_unchanged_image_is_not_built_again(contained):
    changed = contained.image.stat().st_mtime_ns
    assert "is up to date" in run("make", "image", folder=contained.folder)
    assert contained.image.stat().st_mtime_ns == changed


def test_the_labels_and_the_images_own_test(contained):
    labels = run("apptainer", "inspect", "--labels", contained.image)
    assert f"archbench.lock-sha256: {lock_hash(CHECKOUT / 'requirements.lock')}" in labels
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"org.opencontainers.image.version: {version}" in labels
    assert "org.opencontainers.image.created: 20" in labels
    output = run("apptainer", "test", "--cleanenv", contained.image)
    assert "image test passed" in output


def test_the_docker_recipe(builder):
    builder.docker_built.result()
    container = builder.buildah("from", "--pull-never", "archbench").split()[-1]
    try:
        inside = ("run", "--network", "host", container, "--")
        command = json.loads(builder.buildah("inspect", "archbench"))["OCIv1"]["config"]["Cmd"]
        assert "image test passed" in builder.buildah(*inside, *command)
        assert builder.buildah(*inside, "id", "-u").split()[-1] == "1000"
        assert (
            builder.buildah(*inside, "sh", "-c", "echo lock=$IMAGE_LOCK_SHA256")
            .strip()
            .endswith(lock_hash(CHECKOUT / "requirements.lock"))
        )
        found = builder.buildah(*inside, "find", "/opt/archbench", "-maxdepth", "1", "-type", "f")
        names = {Path(line).name for line in found.split()}
        assert names == {"requirements.lock", "lock.sha256", "install_environment.sh", "check_environment.py"}
    finally:
        builder.buildah("rm", container)


def test_snakemake_runs_in_the_docker_image_as_any_user_and_compares_the_lock(builder):
    builder.docker_built.result()
    if os.geteuid() != 0:
        pytest.skip("only root can give the checkout to another user for the test")
    container = builder.buildah("from", "--pull-never", "archbench").split()[-1]
    with tempfile.TemporaryDirectory(dir=KEPT, prefix="docker-") as folder:
        checkout = Path(folder) / "checkout"
        copy_checkout(checkout)
        Path(folder).chmod(0o755)
        run("chown", "-R", "4321:4321", checkout)
        mounted = ("run", "--network", "host", "--user", "4321:4321", "--volume", f"{checkout}:/work", container, "--")
        try:
            assert "prepare_dataset" in builder.buildah(*mounted, "snakemake", "--dry-run")
            with open(checkout / "requirements.lock", "a", encoding="utf-8") as lock:
                lock.write("# edited\n")
            output = builder.buildah(*mounted, "snakemake", "--dry-run", check=False)
            assert lock_hash(CHECKOUT / "requirements.lock") in output and "make image" in output
        finally:
            builder.buildah("rm", container)


def test_a_docker_build_without_its_arguments_says_what_to_do():
    recipe = (CHECKOUT / "containers/Dockerfile").read_text(encoding="utf-8")
    start = recipe.index('RUN test "$LOCK_SHA256"') + len("RUN ")
    command = recipe[start : recipe.index("\nRUN useradd")].replace("/opt/archbench/lock.sha256", "/dev/null")
    completed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env={"LOCK_SHA256": "x"})
    assert completed.returncode == 1 and "make image-docker" in completed.stdout


def test_a_machine_without_root_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(container_machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(container_machine.os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="only root can install"):
        container_machine.need_programs()
