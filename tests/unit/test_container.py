"""What a containerized run binds, passes and refuses; the real Apptainer is in tests/system."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from archbench.container import (
    ContainerError,
    check_image,
    compare_lock,
    extended,
    image_guard,
    lock_hash,
    run_arguments,
)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a data folder beside it."""
    data = tmp_path / "data"
    data.mkdir()
    working_dir = tmp_path / "checkout"
    working_dir.mkdir()
    monkeypatch.chdir(working_dir)
    return working_dir


def binds(working_dir: Path, **paths: str) -> list[str]:
    arguments = run_arguments(paths, {}, working_dir)
    return [argument.removeprefix("--bind ") for argument in arguments if argument.endswith(":ro")]


def test_a_relative_root_is_bound_read_only_at_its_real_place(place):
    data = place.parent / "data"
    assert binds(place, root="../data") == [f"{data}:{data}:ro"]


def test_a_root_behind_a_link_is_bound_at_both_places(place):
    data, link = place.parent / "data", place.parent / "link"
    link.symlink_to(data)
    assert binds(place, root="../link") == [f"{data}:{data}:ro", f"{data}:{link}:ro"]
    (place / "inside").symlink_to(data)  # the container sees this link, since the checkout is bound
    assert binds(place, root="inside") == [f"{data}:{data}:ro"]


def test_files_are_bound_where_they_are_outside_the_checkout(place):
    archive, weights = place.parent / "archive", place.parent / "old.safetensors"
    archive.mkdir()
    weights.touch()
    (place / "own.safetensors").touch()
    bound = binds(place, data_roots="../archive", checkpoint="../old.safetensors")
    assert bound == [f"{archive}:{archive}:ro", f"{weights}:{weights}:ro"]
    assert binds(place, checkpoint="own.safetensors") == []


def test_a_root_that_holds_the_checkout_is_refused(place):
    for root in (".", ".."):
        with pytest.raises(ContainerError, match=r"datasets\.d\.root: .* holds the working directory"):
            run_arguments({"datasets.d.root": root}, {}, place)


def test_a_path_that_apptainer_would_split_is_refused(place):
    odd = place.parent / "a,b"
    odd.mkdir()
    with pytest.raises(ContainerError, match="colon or a comma"):
        run_arguments({"root": "../a,b"}, {}, place)


def test_a_blank_in_a_path_reaches_apptainer_as_one_word(place):
    folder = place.parent / "my data"
    folder.mkdir()
    text = " ".join(run_arguments({"root": "../my data"}, {}, place))
    words = subprocess.run(["sh", "-c", f'printf "%s\\n" {text}'], capture_output=True, text=True, env={}).stdout
    assert f"{folder}:{folder}:ro" in words.splitlines()


def test_a_missing_path_is_named_with_its_key(place):
    with pytest.raises(ContainerError, match=r"models\.m\.checkpoint: '\.\./gone' is not there"):
        run_arguments({"models.m.checkpoint": "../gone"}, {}, place)


def test_variables_come_in_as_each_jobs_process_has_them(place):
    arguments = " ".join(run_arguments({"root": "../data"}, {"https_proxy": "ignored"}, place))
    environment = {"TMPDIR": "/scratch 1", "CUDA_VISIBLE_DEVICES": "0,1", "https_proxy": "http://proxy"}
    shell = ["sh", "-c", f'printf "%s\\n" {arguments}']
    words = subprocess.run(shell, capture_output=True, text=True, env=environment).stdout.splitlines()
    passed = {words[i + 1] for i, word in enumerate(words) if word == "--env"}
    assert passed == {"TMPDIR=/scratch 1", "CUDA_VISIBLE_DEVICES=0,1", "https_proxy=http://proxy"}
    assert words[words.index("/scratch 1") - 1] == "--bind"


def test_certificates_are_bound_where_they_are(place):
    certificate = place.parent / "company.pem"
    certificate.touch()
    environment = {"SSL_CERT_FILE": str(certificate), "CURL_CA_BUNDLE": "/nowhere.pem"}
    arguments = run_arguments({"root": "../data"}, environment, place)
    assert f"--bind {certificate}:{certificate}:ro" in arguments
    assert '--env "SSL_CERT_FILE=$SSL_CERT_FILE"' in arguments
    assert not any("CURL_CA_BUNDLE" in argument for argument in arguments)


def test_a_cluster_job_repeats_nothing_that_its_parent_gave_it():
    once = extended("--nv --cleanenv", ["--bind /a:/a:ro", '--bind "$TMPDIR"'])
    assert once == '--nv --cleanenv --bind /a:/a:ro --bind "$TMPDIR"'
    assert extended(once, ["--bind /a:/a:ro", "--bind /b:/b:ro"]) == f"{once} --bind /b:/b:ro"


def test_locks_are_compared_with_both_hashes_and_the_remedy(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.4.6\n", encoding="utf-8")
    wanted = lock_hash(lock)
    assert wanted == hashlib.sha256(b"numpy==2.4.6\n").hexdigest()
    compare_lock("an image", wanted, wanted)
    with pytest.raises(ContainerError, match=f"an image was built .* hash abc, .* {wanted}: .*make image"):
        compare_lock("an image", "abc", wanted)
    with pytest.raises(ContainerError, match="doesn't say"):
        compare_lock("an image", None, wanted)
    with pytest.raises(ContainerError, match=r"no image .*nothing\.sif: build it with `make image`"):
        check_image(tmp_path / "nothing.sif", lock)


@pytest.mark.parametrize("variable", ["APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"])
def test_the_guard_ends_a_job_in_a_wrong_image_and_lets_the_host_pass(variable):
    def guarded(**environment: str) -> subprocess.CompletedProcess[str]:
        command = f"set -euo pipefail; {image_guard('right')}echo goes on"
        path = {"PATH": "/usr/bin:/bin"}
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**path, **environment})

    assert guarded().stdout == "goes on\n"
    assert guarded(**{variable: "x.sif"}, IMAGE_LOCK_SHA256="right").stdout == "goes on\n"
    for environment in ({"IMAGE_LOCK_SHA256": "wrong"}, {}):
        refused = guarded(**{variable: "x.sif"}, **environment)
        assert refused.returncode == 1 and refused.stdout == ""
        assert environment.get("IMAGE_LOCK_SHA256", "unknown") in refused.stderr and "make image" in refused.stderr
        assert "x.sif" in refused.stderr and "right" in refused.stderr


def test_both_recipes_take_their_pins_from_the_lock_alone():
    checkout = Path(__file__).resolve().parents[2]
    for name in ("apptainer.def", "containers/Dockerfile", "containers/install_environment.sh"):
        text = (checkout / name).read_text(encoding="utf-8")
        assert "==" not in text, f"{name} pins a version of its own"
        assert "requirements.lock" in text
    assert "pip install" not in (checkout / "apptainer.def").read_text(encoding="utf-8")
    ignored = (checkout / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored and not any(line.startswith("!archbench") for line in ignored)
