"""Files of several planes through live processes, by the command line."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from darkroom.simulation import Simulation
from tests.client.dicom_files import sample, write_series
from tests.darkroom_command import Darkroom

pytestmark = pytest.mark.timeout(600)  # several commands a test, on a machine with other work


def test_a_volume_is_denoised_plane_by_plane_and_comes_back_as_one(
    cluster: Simulation, darkroom: Darkroom, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).integers(0, 900, (12, 10, 3)).astype("i2")
    nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])).to_filename(tmp_path / "in.nii.gz")
    out = tmp_path / "out.nii.gz"
    options = ("--model", "tiny", "--sigma", "25", "--profile", "--json", "-", "--config", cluster.hospital_file)
    done = darkroom("denoise", tmp_path / "in.nii.gz", "-o", out, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["image"]["planes"] == 3
    assert report["cost"]["rounds"] == 12
    assert {role: sum(layer["sent_bytes"][role] for layer in report["profile"]) for role in "AB"} == {
        role: report["cost"]["sent_bytes"][role] for role in "AB"
    }
    assert "of all planes, tiles and repetitions" in done.stderr.replace("\n", " ")
    for number in (1, 2, 3):
        assert f"plane {number} of 3" in done.stderr
    found = np.asanyarray(nibabel.load(out).dataobj)
    assert found.shape == values.shape
    assert not np.array_equal(found, values)
    likeness = np.corrcoef(*(np.moveaxis(each, 2, 0).reshape(3, -1) for each in (found, values)))[:3, 3:]
    assert likeness.diagonal().min() > 0.3  # of this image
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2]  # and in this order, though planes overlap


def test_a_series_becomes_an_anonymous_series(cluster: Simulation, darkroom: Darkroom, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "in", count=2, PatientName="CANARY")
    out = tmp_path / "out"
    options = ("--series", "--anonymize", "--model", "tiny", "--sigma", "10", "--config", cluster.hospital_file)
    done = darkroom("denoise", folder, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    assert "burned into the pixels" in done.stderr.replace("\n", " ")
    slices = [pydicom.dcmread(path) for path in sorted(out.iterdir())]
    assert len(slices) == 2
    assert len({dataset.SeriesInstanceUID for dataset in slices}) == 1
    assert all(dataset.PatientName != "CANARY" for dataset in slices)


def test_store_prints_an_id_for_every_frame_or_for_one(cluster: Simulation, darkroom: Darkroom, tmp_path: Path) -> None:
    frames = sample("eCT_Supplemental.dcm")
    few = darkroom("store", frames, "--frame", "2", "--sigma", "5", "--config", cluster.client_file)
    assert few.returncode == 0, few.stderr
    assert len(few.stdout.split()) == 1
    beyond = darkroom("store", frames, "--frame", "3", "--config", cluster.client_file)
    assert (beyond.returncode, beyond.stdout) == (3, "")
    assert "number from 1 to 2" in beyond.stderr
    folder = write_series(tmp_path / "in", count=2)
    stored = darkroom("store", folder, "--sigma", "10", "--json", "-", "--config", cluster.client_file)
    assert stored.returncode == 0, stored.stderr
    ids = [each["object_id"] for each in json.loads(stored.stdout)["objects"]]
    assert len(set(ids)) == 2
    out = tmp_path / "out.dcm"  # a slice is a file by itself
    opened = darkroom("denoise", ids[1], "-o", out, "--model", "tiny", "--config", cluster.edge_file)
    assert opened.returncode == 0, opened.stderr
    assert pydicom.dcmread(out).ImagePositionPatient[2] == 5.0
    single = darkroom("denoise", few.stdout.strip(), "-o", out, "--model", "tiny", "--config", cluster.edge_file)
    assert single.returncode == 3  # a frame is not: its header is that of all frames
    assert "source that is frame can be .npy, .png" in single.stderr.replace("\n", " ")
