"""What client and edge send to both servers holds nothing of a file's header, no file name and no pixel.

What comes back in a result is from the hospital's own disk. The fake servers take no metadata beside a message: a call that
gave some would fail here.
"""

import nibabel
import numpy as np
import pydicom
import pytest

from client.acquisition import store
from client.edge import denoise
from client.images import read_image, read_stack, write_result
from client.records import load_origin
from protocols.identifiers import Role
from security.needles import number_needles, search, text_needles
from tests.client.dicom_files import PROVENANCE, small_ct, with_pixels, write, write_series

HEADER = {
    "PatientName": "Zweistein^Canaria",
    "PatientID": "CANARY-77310-X",
    "AccessionNumber": "ACC-4455-CANARY",
    "InstitutionName": "Canary General Hospital",
    "StudyDescription": "canary study of the left knee",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77310",
    "PatientBirthDate": "19771122",
}


@pytest.fixture
def canary(tmp_path):
    words = np.random.default_rng(5).integers(0, 3000, (20, 24)).astype("i2")
    words[:3, :4] = -2000
    return write(tmp_path / "canary.dcm", with_pixels(small_ct(**HEADER), words, PixelPaddingValue=-2000)), words


def sent(servers):
    """Everything that both servers were sent."""
    return b"".join(message for server in servers.values() for message in server.received)


def needles(path, words):
    found = [needle for keyword, text in HEADER.items() for needle in text_needles(keyword, text)]
    found += text_needles("file name", path.name)
    grey = read_image(path).pixels[10, 4:12].tolist()
    return found + number_needles("pixels", grey, stored=words[10, 4:12].tolist())


def test_no_header_value_no_name_and_no_pixel_is_sent(hospital, servers, canary, tmp_path):
    path, words = canary
    image = read_image(path)
    record = store(hospital, image, sigma=0.05)
    denoised = denoise(hospital, record.object_id, model="base")
    messages = sent(servers)
    assert len(messages) > 20 * 24 * 8
    assert len(servers[Role.A].requests) == len(servers[Role.B].requests) == 1
    assert search(messages, needles(path, words)) == []
    # and yet the result has all of it, from the hospital's own disk
    write_result(tmp_path / "out.dcm", denoised.pixels, load_origin(hospital.objects, record), PROVENANCE)
    found = pydicom.dcmread(tmp_path / "out.dcm")
    assert found.PatientName == HEADER["PatientName"]
    assert (found.pixel_array[:3, :4] == -2000).all()


def test_the_search_finds_a_header_that_is_sent(hospital, servers, canary):
    path, words = canary
    image = read_image(path)
    record = store(hospital, image, sigma=0.05)
    assert str(record.object_id).encode() in sent(servers)
    servers[Role.B].received.append(str(image.dataset).encode() + words.tobytes())
    found = {needle.secret for needle in search(sent(servers), needles(path, words))}
    assert {"PatientName", "PatientID", "AccessionNumber", "pixels"} <= found


NIFTI_TEXTS = {
    "descrip": "canary descr 77310",
    "aux_file": "canary-aux.lst",
    "intent_name": "canary-intent",
    "db_name": "canary-database",
    "extension": "Zweistein^Canaria, born 19771122",
}


@pytest.mark.parametrize("name", ["zweistein-canaria.nii", "zweistein-canaria.nii.gz"])
def test_no_text_of_a_nifti_and_no_voxel_is_sent(hospital, servers, tmp_path, name):
    voxels = np.random.default_rng(6).integers(0, 3000, (24, 20, 2)).astype("i2")
    volume = nibabel.Nifti1Image(voxels, np.diag([0.9, 1.1, 2.5, 1.0]))
    for field, text in NIFTI_TEXTS.items():
        if field == "extension":
            volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", text.encode()))
        else:
            volume.header[field] = text.encode()
    volume.to_filename(tmp_path / name)
    stack = read_stack(tmp_path / name)
    results = []
    for image in stack:
        record = store(hospital, image, sigma=0.05)
        results.append((denoise(hospital, record.object_id, model="base").pixels, load_origin(hospital.objects, record)))
    found = [needle for field, text in NIFTI_TEXTS.items() for needle in text_needles(field, text)]
    found += text_needles("file name", name)
    found += number_needles("voxels", next(iter(stack)).pixels[10, 4:12].tolist(), stored=voxels[4:12, 10, 0].tolist())
    assert len(sent(servers)) > voxels.size * 8
    assert search(sent(servers), found) == []
    kept = b"".join(origin.header for _, origin in results)
    assert {needle.secret for needle in search(kept, found)} == {*NIFTI_TEXTS}  # the needles are what the file holds


def test_no_header_and_no_name_of_a_series_is_sent(hospital, servers, tmp_path, darkroom):
    folder = write_series(tmp_path / "zweistein-canaria-1977", 3, **HEADER)
    options = ("--model", "base", "--sigma", "10", "--series", "--config", tmp_path / "hospital.toml")
    done = darkroom("denoise", folder, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    texts = HEADER | {"folder": folder.name, "file": "IM.001"}
    found = [needle for name, text in texts.items() for needle in text_needles(name, text)]
    assert len(servers[Role.A].requests) == len(servers[Role.B].requests) == 3
    assert len(sent(servers)) > 3 * 16 * 16 * 8
    assert search(sent(servers), found) == []
    results = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file())
    assert "PatientName" in {needle.secret for needle in search(results, found)}
